"""Rollouts as blobs, and their rewards checked again from the tokens alone."""

import msgspec
import numpy as np
import pytest
from fixtures import puzzle

from duckweed.learn.learner import Part
from duckweed.learn.model import model as models
from duckweed.learn.tasks.rewards import Rewards
from duckweed.round import founding
from duckweed.run.task import rollouts as packing
from duckweed.run.task.rollouts import Rollouts, RolloutsError
from duckweed.run.task.written import Written

BLOCK, FIRST, STEPS = 4, 1, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The specification of a run, what a peer has written for a span of it, and what checks that."""
    base = tmp_path_factory.mktemp("rewards")
    spec = puzzle.specification(base, {"task.seconds": 10.0})
    ground = founding.prepare(spec, base, lambda text: None)
    weights = models.read_weights(founding.first_model(spec, ground))
    learner = founding.learner(spec, ground, "cpu")
    work = learner.train(weights, Part(BLOCK, FIRST, STEPS))
    rewards = Rewards(spec, ground.dataset)
    yield spec, work, rewards
    rewards.problems.verifier.close()
    learner.task.problems.verifier.close()


def checked(made, rollouts=None, block=BLOCK, said=None):
    _, work, rewards = made
    blob = packing.encode(rollouts or work.rollouts)
    return rewards.check(blob, block, FIRST, STEPS, said or work.written)


def changed(made, name, change):
    """The rollouts with one array changed by a function of it."""
    rollouts = made[1].rollouts
    return rollouts._replace(**{name: change(getattr(rollouts, name).copy())})


def put(place, value):
    def change(array):
        array[place] = value
        return array

    return change


def test_rollouts_come_back_from_their_blob_as_they_were(made):
    spec, work, _ = made
    blob = packing.encode(work.rollouts)
    assert len(blob) <= packing.blob_limit(spec)
    again = packing.decode(blob, spec, STEPS)
    assert all(np.array_equal(a, b) for a, b in zip(again, work.rollouts, strict=True))
    assert packing.encode(again) == blob


def test_what_an_honest_peer_has_written_adds_up_to_what_it_says(made):
    assert checked(made) == made[1].written


def test_a_reward_that_was_not_earned_is_found_among_all_others(made):
    false = int(np.argmin(made[1].rollouts.rewards))
    with pytest.raises(RolloutsError, match=r"a reward of 1 is claimed for .*, which earns"):
        checked(made, changed(made, "rewards", put(false, 1.0)))


def test_a_reward_that_is_denied_is_found_unless_a_check_failed_at_the_peer(made):
    """To call right answers wrong teaches what is wrong as well."""
    earned = int(np.argmax(made[1].rollouts.rewards))
    denied = changed(made, "rewards", put(earned, 0.0))
    with pytest.raises(RolloutsError, match="a reward of 0 is claimed"):
        checked(made, denied)
    told = msgspec.structs.replace(made[1].written, failed=1)
    assert checked(made, denied, said=told).failed == 1


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("ids", put(0, 300), "token 300 is none of the model"),
        ("rewards", put(0, np.nan), "not from 0 to 1"),
        ("rewards", put(0, 2.0), "not from 0 to 1"),
        ("nats", put(0, -1.0), "no probability has"),
        ("nats", put(0, np.inf), "no probability has"),
        ("lengths", put(0, 0), "an answer has 1 to 4 tokens"),
        ("lengths", put(0, 5), "an answer has 1 to 4 tokens"),
        ("ids", lambda ids: ids[:-1], "longer or shorter than they say"),
        ("asked", put(0, False), "each problem has 8 or is left out"),
        ("asked", lambda asked: asked[1:], "rollouts for 15 problems, not 16"),
    ],
)
def test_what_no_peer_can_have_written_is_refused_with_the_reason(made, name, change, reason):
    with pytest.raises(RolloutsError, match=reason):
        checked(made, changed(made, name, change))


def test_an_answer_neither_breaks_off_nor_goes_on_behind_its_end(made):
    _, work, rewards = made
    whole = int(np.argmax(work.rollouts.lengths))
    start = int(work.rollouts.lengths[:whole].sum())
    stop = rewards.wording.stops[0]
    with pytest.raises(RolloutsError, match="goes on behind its end"):
        checked(made, changed(made, "ids", put(start, stop)))
    shorter = work.rollouts.lengths.copy()
    shorter[whole] -= 1
    ids, nats = (np.delete(x, start + shorter[whole]) for x in work.rollouts[2:4])
    with pytest.raises(RolloutsError, match="breaks off"):
        checked(made, work.rollouts._replace(lengths=shorter, ids=ids, nats=nats))


def test_a_question_that_has_room_cannot_be_left_out(made):
    spec, work, _ = made
    kept = work.rollouts.asked.copy()
    kept[0] = False
    lengths = work.rollouts.lengths[spec.task.samples :]
    tokens = int(work.rollouts.lengths[: spec.task.samples].sum())
    left = Rollouts(
        kept, lengths, work.rollouts.ids[tokens:], work.rollouts.nats[tokens:],
        work.rollouts.rewards[spec.task.samples :],
    )  # fmt: skip
    with pytest.raises(RolloutsError, match="and was not asked"):
        checked(made, left)


def test_sizes_are_compared_before_anything_is_unpacked(made):
    spec, work, _ = made
    blob = packing.encode(work.rollouts)
    for damaged in (b"", blob[:10], b"x" * len(blob), blob[:-3], blob + b"more"):
        with pytest.raises(RolloutsError):
            packing.decode(damaged, spec, STEPS)
    large = packing._COUNTS.pack(packing.MAGIC, 16, 1 << 31, 1 << 31) + blob[16:]
    with pytest.raises(RolloutsError, match="more than there can be"):
        packing.decode(large, spec, STEPS)
    longer = packing._COUNTS.pack(packing.MAGIC, 16, 128, 1) + blob[16:]
    with pytest.raises(RolloutsError, match="longer or shorter than they say"):
        packing.decode(longer, spec, STEPS)


def test_checks_that_hang_do_not_prove_what_is_called_right(made):
    """Answers that make the check hang are no way to a reward; a few may be this machine's fault."""
    _, work, rewards = made
    text = np.frombuffer(b"hang", np.uint8)
    rollouts = work.rollouts
    full = np.flatnonzero(rollouts.lengths == 4)[:6]
    starts = np.concatenate([[0], np.cumsum(rollouts.lengths)])[full]
    ids, claimed = rollouts.ids.copy(), rollouts.rewards.copy()
    for row, start in zip(full, starts, strict=True):
        ids[start : start + 4], claimed[row] = text, 1.0
    before, rewards.problems.verifier.seconds = rewards.problems.verifier.seconds, 0.3
    try:
        with pytest.raises(RolloutsError, match="whose check fails or takes too long here"):
            checked(made, rollouts._replace(ids=ids, rewards=claimed))
    finally:
        rewards.problems.verifier.seconds = before


def test_what_was_written_says_nothing_of_entropy_that_follows(made):
    told = msgspec.structs.replace(made[1].written, entropy=7.0)
    assert checked(made, said=told) == told
    assert checked(made, said=Written()).answers == made[1].written.answers
