"""What follows from a family's specification: its runs, their peers, their learning rates, their identity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckweed.learn.optim.schedule import learning_rate
from duckweed.run import family as rules
from duckweed.run import spec as specs
from duckweed.run import toml
from duckweed.run.spec import RunSpec, SpecError, override

FAMILY = override(
    RunSpec(),
    {
        "rounds.count": 20,
        "rounds.peers": 8,
        "inner.steps": 10,
        "paths.count": 4,
        "paths.common": 0.15,
    },
)
ROUTER = "ab" * 32


@given(st.integers(1, 60), st.integers(2, 64))
def test_every_path_has_a_peer_and_every_peer_a_path(peers, paths):
    hands = rules.deal(peers, paths)
    assert len(hands) == paths
    assert all(hands)
    assert {peer for hand in hands for peer in hand} == set(range(peers))
    sizes = [len(hand) for hand in hands]
    assert max(sizes) - min(sizes) <= 1
    if peers >= paths:  # nobody trains two
        assert sum(sizes) == peers


def test_fewer_peers_than_paths_train_them_in_turn():
    assert rules.deal(2, 5) == [[0], [1], [0], [1], [0]]


@given(st.integers(2, 500), st.floats(0.001, 0.999))
def test_common_start_and_paths_have_a_round_at_least(count, share):
    spec = override(FAMILY, {"rounds.count": count, "paths.common": share, "inner.warmup": 0})
    common, path = rules.common(spec), rules.of_path(spec, 1, ROUTER)
    assert common.rounds.count >= 1
    assert path.rounds.count >= 1
    assert common.rounds.count + path.rounds.count == count


def test_the_learning_rate_goes_over_the_whole_family_without_a_second_warm_up():
    whole = [learning_rate(FAMILY.inner, n, FAMILY.total_steps) for n in range(FAMILY.total_steps)]
    found = []
    for run in (rules.common(FAMILY), rules.of_path(FAMILY, 3, ROUTER)):
        rounds = run.schedule
        numbers = range(rounds.begins(0), rounds.begins(rounds.rounds))
        found += [learning_rate(run.inner, n, run.course) for n in numbers]
    assert found == whole
    assert found[30] == found[29] == FAMILY.inner.learning_rate  # where the paths begin


def test_a_budget_of_bytes_divides_both_parts_into_rounds():
    spec = override(FAMILY, {"rounds.saving": 150.0})
    common, path = rules.common(spec), rules.of_path(spec, 0, ROUTER)
    assert common.schedule.begins(common.schedule.rounds) == path.schedule.begins(0) == 30
    assert path.schedule.begins(path.schedule.rounds) == spec.total_steps


def test_the_runs_of_a_family_have_identities_of_their_own_and_come_back_from_their_text():
    runs = [rules.common(FAMILY), *(rules.of_path(FAMILY, path, ROUTER) for path in range(4))]
    other = rules.of_path(FAMILY, 0, "cd" * 32)
    assert len({run.identity for run in (FAMILY, *runs, other)}) == 7
    for run in runs:
        assert specs.parse(toml.write(run)) == run
    assert [run.path for run in runs] == [None, 0, 1, 2, 3]


def test_a_run_without_paths_keeps_its_identity():
    assert "paths" not in toml.write(RunSpec())
    assert RunSpec().unmeasured == 0
    assert FAMILY.unmeasured == 64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"paths.count": 1},
            "a family has two paths at least; for one model leave \\[paths\\] out",
        ),
        ({"paths.count": 65}, "paths.count = 65: must be between 2 and 64"),
        ({"paths.prefix": 128}, "must be less than model.sequence = 128"),
        ({"paths.common": 0.0}, "paths.common = 0.0: must be between"),
        ({"paths.shared": "all"}, "paths.shared = 'all': 'none', 'trunk', or a list of patterns"),
        ({"paths.trunk": "all"}, "paths.trunk: unknown key"),
        ({"paths.cuont": 3}, "did you mean 'count'"),
        ({"rounds.count": 1, "inner.warmup": 0}, "one of the common start and one of each path"),
        ({"task.kind": "chat"}, "only text is routed so far"),
        ({"inner.warmup": 200}, "the whole run has only 200 steps"),
    ],
)
def test_bad_input_is_named(changes, said):
    with pytest.raises(SpecError, match=said):
        override(FAMILY, changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[branch]\npath = 0", "branch"),
        (f'[paths]\n[branch]\npath = 8\nrouter = "{ROUTER}"\nends = 260', "the paths are 0 to 7"),
        ("[paths]\n[branch]\npath = 1\nends = 260", "digest of the router"),
        ("[paths]\n[branch]\nbegins = 9\nends = 9", "steps that begin before they end"),
    ],
)
def test_a_section_branch_that_makes_no_sense_is_refused(text, said):
    with pytest.raises(SpecError, match=said):
        specs.parse(text)


KEYS = tuple(f"{n:02x}" * 32 for n in range(4))


@given(st.integers(2, 200), st.floats(0.001, 0.999))
def test_who_has_the_common_start_knows_the_paths_to_the_last_byte(count, share):
    spec = override(FAMILY, {"rounds.count": count, "paths.common": share, "inner.warmup": 0})
    common = specs.parse(toml.write(rules.common(spec, ROUTER, KEYS)))
    assert common.branch.coordinators == KEYS
    for path in range(4):
        mine = rules.of_path(rules.whole(common), path, common.branch.router)
        assert toml.write(mine) == toml.write(rules.of_path(spec, path, ROUTER))


def test_a_family_without_successors_has_the_common_start_that_it_always_had():
    assert "coordinators" not in toml.write(rules.common(FAMILY))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["99" * 32], "one for each of 8 paths, or none"),
        (["no key"], "'no key' is not a public key"),
    ],
)
def test_keys_of_first_coordinators_that_make_no_sense_are_refused(keys, said):
    with pytest.raises(SpecError, match=said):
        specs.parse(f"[paths]\n[branch]\ncoordinators = {keys}\nends = 260")
