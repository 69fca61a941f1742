"""A run is audited from its ledger and its files: what is right is the same to the last bit, what was not
done as claimed is found, and what cannot be compared is said."""

import json
import shutil

import msgspec
import numpy as np
import pytest
from fixtures import audited
from typer.testing import CliRunner

from duckweed.audit.claims import Claims, States
from duckweed.audit.contributions import Contributions, handed_in
from duckweed.audit.findings import Outcome, tally
from duckweed.audit.learner import learner_of
from duckweed.audit.merges import audit_round
from duckweed.cli import app
from duckweed.ledger.entries import RoundEntry, StateEntry
from duckweed.run.folder import RunFolder
from duckweed.run.spec import override


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def honest(base):
    return audited.simulated(base)


@pytest.fixture
def copy(honest, tmp_path):
    """A copy of an honest run, to damage."""
    shutil.copytree(honest.path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def rounds(folder, *numbers):
    claims = Claims(folder)
    states = States(claims)
    wanted = numbers or sorted(claims.rounds)
    return [finding for n in wanted for finding in audit_round(claims, states, n)]


def contributions(folder, peer, *numbers, data=None):
    claims = Claims(folder)
    learner = learner_of(claims, data, "cpu", lambda text: None)
    one = Contributions(claims, States(claims), learner, peer)
    return [one.audit(n) for n in numbers or handed_in(claims, peer)]


def outcomes(findings):
    return [(one.what, one.round, one.outcome.value) for one in findings if one.outcome != "same"]


def run(*words):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["audit", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


# --- rounds


@pytest.mark.parametrize(
    "changes",
    [
        {"merge.rule": "bounded", "rounds.checkpoint": 1},
        {"members.join": "open"},
        {"wire.kind": "sparse", "merge.rule": "contributors", "outer.momentum": 0.6},
    ],
    ids=["bounded", "open", "sparse"],
)
def test_an_honest_run_is_the_same_to_the_last_bit(tmp_path, changes):
    found = rounds(audited.simulated(tmp_path, changes=changes))
    assert [(one.what, one.round) for one in found] == [
        (what, n) for n in range(audited.ROUNDS) for what in ("merge", "state")
    ]
    assert all(one.outcome == Outcome.SAME for one in found)
    assert all(one.claimed == one.recomputed for one in found)


def test_all_rounds_or_one_alone_are_audited_from_the_first_state_on(honest):
    assert outcomes(rounds(honest)) == []
    assert [one.outcome for one in rounds(honest, 2)] == [Outcome.SAME, Outcome.SAME]


def test_weights_that_do_not_follow_from_the_tokens_are_found(honest):
    folder = audited.forged(honest, audited.round_changed(1, weights=[1, 2, 1]))
    merge, state = rounds(folder, 1)
    assert merge.outcome == Outcome.DIFFERS
    assert "weights [1, 2, 1] in the ledger, [1, 1, 1] from what was handed in" in merge.detail
    assert state.outcome == Outcome.SAME  # what was handed in does lead to it


def test_what_is_remembered_of_peers_and_does_not_follow_from_the_rounds_is_found(tmp_path):
    # Who audits does not hand in, and two contributions are too few to be compared.
    changes = {"members.join": "open", "members.audits": 0.0}
    folder = audited.simulated(tmp_path, changes=changes)
    closed = Claims(folder).rounds[1].closed
    assert {peer: one.work for peer, one in closed.standing.items()} == dict.fromkeys(range(3), 384)
    assert len(set(closed.weights)) == 1
    kinder = closed.standing | {2: msgspec.structs.replace(closed.standing[2], work=10_000)}
    merge, _ = rounds(audited.forged(folder, audited.round_changed(1, standing=kinder)), 1)
    assert merge.outcome == Outcome.DIFFERS
    assert "what is remembered of the peers is not what follows from the rounds" in merge.detail
    assert rounds(folder, 1)[0].outcome == Outcome.SAME


def test_work_that_was_left_out_without_a_reason_is_found(honest):
    """The coordinator says that peer 1 does not count, and merges without it."""
    claims = Claims(honest)
    closed = claims.rounds[0].closed
    fewer = {"accepted": [0, 2], "blobs": [closed.blobs[0], closed.blobs[2]], "weights": [1, 1]}
    folder = audited.forged(honest, audited.round_changed(0, rejected={1: "no"}, **fewer))
    merge, _ = rounds(folder, 0)
    assert merge.outcome == Outcome.DIFFERS
    assert "the ledger counts the work of peers 0 2" in merge.detail


def test_another_update_than_the_sum_is_found(honest):
    update = Claims(honest).rounds[2].closed.update
    folder = audited.forged(honest, audited.round_changed(0, update=update))
    merge, _ = rounds(folder, 0)
    assert merge.outcome == Outcome.DIFFERS
    assert merge.claimed == update != merge.recomputed


def test_a_state_that_does_not_follow_is_found_and_later_rounds_are_not_blamed(honest):
    def change(body):
        return StateEntry("0" * 64, 3) if body == wrong else body

    wrong = next(e for e in _bodies(honest, StateEntry))  # after round 0
    found = rounds(audited.forged(honest, change))
    assert outcomes(found) == [("state", 0, "differs"), ("state", 1, "not compared")]
    assert tally(found).code == 1


def test_a_missing_or_damaged_blob_is_said_and_nothing_else_is_blamed(copy):
    handed = Claims(copy).rounds[1].contributions
    copy.blob(handed[2].blob).unlink()
    found = rounds(copy)
    assert outcomes(found) == [("merge", 1, "not compared"), ("state", 1, "not compared")]
    assert handed[2].blob[:16] in found[2].detail
    assert tally(found).code == 2
    copy.blob(handed[2].blob).write_bytes(b"something else")
    assert "damaged" in rounds(copy, 1)[0].detail


def test_updates_are_not_needed_where_each_round_is_closed_again_from_a_saved_state(tmp_path):
    folder = audited.simulated(tmp_path, changes={"rounds.checkpoint": 1})
    for entry in Claims(folder).rounds.values():
        folder.blob(entry.closed.update).unlink()
    assert outcomes(rounds(folder, 0, 2)) == []


def test_a_saved_state_that_was_changed_is_not_believed(copy):
    path = copy.state(0)
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    found = rounds(copy, 0)
    assert [one.outcome for one in found] == [Outcome.SAME, Outcome.MISSING]
    assert "damaged" in found[1].detail


def _bodies(folder, kind):
    from contextlib import closing

    from duckweed.ledger.ledger import Ledger

    with closing(Ledger(folder.ledger)) as ledger:
        return [entry.body for entry in ledger.entries(kind)]


NONSENSE = {
    "no tokens": {"contributions": {p: {"tokens": 0} for p in range(3)}},
    "a span beyond the block": {"parts": {1: (0, 10**9)}},
    "too few scales": {"closed": {"shared": [1.0]}},
    "too few weights": {"closed": {"weights": [1]}},
    "no update": {"closed": {"update": None}},
    "nothing handed in": {"contributions": {}},
    "no blocks": {"blocks": {}},
    "a blob by the name of another file": {"contributions": {1: {"blob": "../../run.toml"}}},
}


@pytest.mark.parametrize("fields", NONSENSE.values(), ids=NONSENSE)
def test_no_ledger_ends_an_audit(honest, fields):
    """Numbers that no run has are a finding, whoever signed them."""

    def change(body):
        if not isinstance(body, RoundEntry) or body.closed.round != 0:
            return body
        new = dict(fields)
        if "closed" in new:
            new["closed"] = msgspec.structs.replace(body.closed, **new["closed"])
        if said := new.get("contributions"):
            new["contributions"] = body.contributions | {
                p: msgspec.structs.replace(body.contributions[p], **more)
                for p, more in said.items()
            }
        return msgspec.structs.replace(body, **new)

    folder = audited.forged(honest, change)
    found = [*rounds(folder), *contributions(folder, 1)]
    assert any(one.outcome in (Outcome.DIFFERS, Outcome.MISSING) for one in found)


# --- contributions


@pytest.mark.parametrize(
    "changes",
    [{"rounds.overlap": 0.67}, {"inner.state": "fresh", "wire.kind": "sparse"}],
    ids=["overlap", "fresh and sparse"],
)
def test_contributions_of_an_honest_peer_are_the_same_to_the_last_bit(tmp_path, changes):
    found = contributions(audited.simulated(tmp_path, changes=changes), 1)
    assert [one.round for one in found] == list(range(audited.ROUNDS))
    assert all(one.outcome == Outcome.SAME for one in found)
    assert all(one.claimed == one.recomputed for one in found)


def test_a_late_contribution_alone_is_done_again_from_the_first_one_on(honest):
    assert outcomes(contributions(honest, 2, 2)) == []


def test_a_peer_that_does_not_hand_in_what_it_trained_is_found_and_others_are_not(tmp_path):
    shuffled = audited.recoding(1, lambda values: np.random.default_rng(0).permutation(values))
    folder = audited.simulated(tmp_path, prepare=shuffled)
    assert outcomes(rounds(folder)) == []  # it was added up as it was handed in
    first, *_ = contributions(folder, 1)
    assert first.outcome == Outcome.DIFFERS
    assert first.difference.differ > 0.1 * first.difference.codes
    assert first.claimed != first.recomputed
    assert outcomes(contributions(folder, 0)) == []


def test_what_follows_on_a_contribution_that_differs_is_not_judged_if_it_does_not_fit(tmp_path):
    """A peer that flips one contribution, and goes on with what it carried as if it had not."""
    flip = audited.recoding(1, lambda values: -values, range(1, 2))
    found = contributions(audited.simulated(tmp_path, prepare=flip), 1)
    assert [one.outcome.value for one in found] == ["same", "differs", "same"]


def test_a_peer_that_lost_its_residual_in_a_restart_is_no_cheat(tmp_path):
    def forget(simulation):
        worker = simulation.workers[1]
        honest = worker.train

        def train(state, span, report=None, begun=None, given=None):
            if state.round == 1:
                worker.carried = type(worker)(
                    worker.spec, worker.layout, worker.learner, 1, None,
                    worker.costs, worker.states, worker.tell,
                ).carried  # fmt: skip
            return honest(state, span, report, begun)

        worker.train = train

    found = contributions(audited.simulated(tmp_path, prepare=forget), 1)
    assert [one.outcome.value for one in found] == ["same", "same", "same"]
    assert "nothing carried" in found[1].detail
    assert "nothing carried" not in found[2].detail


def test_tokens_and_loss_that_were_not_reached_are_found(honest):
    def change(body):
        if isinstance(body, RoundEntry) and body.closed.round == 0:
            said = body.contributions | {
                0: msgspec.structs.replace(body.contributions[0], tokens=10**6),
                1: msgspec.structs.replace(body.contributions[1], loss=1.5),
            }
            return msgspec.structs.replace(body, contributions=said)
        return body

    folder = audited.forged(honest, change)
    assert "1,000,000 tokens claimed, 192 trained on" in contributions(folder, 0, 0)[0].detail
    assert "a training loss of 1.5000 claimed" in contributions(folder, 1, 0)[0].detail
    assert contributions(folder, 2, 0)[0].outcome == Outcome.SAME


def test_a_machine_of_another_kind_blames_no_honest_peer_and_finds_the_others(tmp_path):
    """Here: one that multiplies in bf16 where the peers did so in float32. What differs grows from one
    contribution to the next, until nothing can be told any more."""
    flip = audited.recoding(1, lambda values: -values)
    changes = {"rounds.count": 6, "inner.precision": "fp32"}
    folder = audited.simulated(tmp_path, changes=changes, prepare=flip)
    claims = Claims(folder)
    claims.spec = override(claims.spec, {"inner.precision": "bf16"})
    learner = learner_of(claims, None, "cpu", lambda text: None)

    def audit(peer):
        one = Contributions(claims, States(claims), learner, peer)
        return [one.audit(n) for n in handed_in(claims, peer)]

    found = audit(0)
    assert found[0].outcome == Outcome.NEAR
    assert found[0].difference.differ > 0
    assert all(one.outcome in (Outcome.NEAR, Outcome.MISSING) for one in found)
    assert audit(1)[0].outcome == Outcome.DIFFERS


def test_announced_sizes_that_were_not_reached_here_are_told(tmp_path):
    def lie(simulation):
        worker = simulation.workers[1]
        honest = worker.compress

        def compress(state, index, trained):
            made = honest(state, index, trained)
            made.announcement.rms = [2 * one for one in made.announcement.rms]
            return made

        worker.compress = compress

    found = contributions(audited.simulated(tmp_path, prepare=lie), 1, 0)[0]
    assert found.outcome == Outcome.NEAR
    assert "announced sizes of another hash" in found.detail


def test_a_contribution_that_is_not_here_or_was_not_handed_in_is_not_compared(copy):
    claims = Claims(copy)
    copy.blob(claims.rounds[1].contributions[0].blob).unlink()
    found = contributions(copy, 0)
    assert [one.outcome.value for one in found] == ["same", "not compared", "not compared"]


# --- the command


def test_the_command_says_what_it_compared_and_its_exit_code_is_for_scripts(honest):
    code, told = run(honest.path)
    assert code == 0
    assert "chain and signatures hold" in told
    assert "3 of 3 contributions count" in told
    assert "6 the same" in told
    assert "not looked at: how contributions were made" in told
    code, told = run(honest.path, "--peer", 1, "--round", 0)
    assert code == 0
    assert "round 0 peer 1 contribution" in told
    assert "codes" in told


def test_words_that_their_peer_did_not_sign_are_found(honest):
    def change(body):
        if isinstance(body, RoundEntry) and body.closed.round == 0:
            said = msgspec.structs.replace(body.contributions[2], loss=1.0)
            return msgspec.structs.replace(body, contributions=body.contributions | {2: said})
        return body

    code, told = run(audited.forged(honest, change).path, "--round", 0)
    assert code == 1
    assert "1 are not what their peers signed: round 0, peer 2" in told
    assert "9 contributions are signed by their peers" in run(honest.path, "--round", 0)[1]


def test_of_a_run_that_goes_on_the_last_round_is_named_and_left_out(honest):
    last = list(_bodies(honest, StateEntry))[-1]
    folder = audited.forged(honest, lambda body: None if body == last else body)
    code, told = run(folder.path)
    assert code == 0
    assert "not looked at: round 2, whose state the peers have not agreed on yet" in told
    code, told = run(folder.path, "--round", 2)
    assert code == 2
    assert "round 2 merge" in told
    assert "1 the same, 1 not compared" in told


def test_the_command_names_the_codes_that_differ(tmp_path):
    folder = audited.simulated(tmp_path, prepare=audited.recoding(1, lambda values: -values))
    code, told = run(folder.path, "--peer", 1, "--peer", 0)
    assert code == 1
    assert "claimed" in told
    assert " codes of model.layers." in told
    code, told = run(folder.path, "--peer", 1, "--json")
    facts = json.loads(told)
    assert code == facts["exit"] == 1
    assert facts["machine"]["threads"] == 1
    finding = facts["findings"][1]
    assert finding["outcome"] == "differs"
    layout = Claims(folder).layout
    assert [one["name"] for one in finding["difference"]["tensors"]] == list(layout.names)
    assert finding["difference"]["codes"] == layout.total


def test_a_ledger_that_was_changed_is_found(copy):
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(copy.ledger)) as db:
        db.execute("UPDATE ledger SET round = round + 1 WHERE number = 5")
        db.commit()
    code, told = run(copy.path)
    assert code == 1
    assert "entry 5" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--round", "9"], "there is no round 9 in the ledger, which has 3"),
        (["--peer", "7"], "there is no peer 7 in the ledger, which has 3"),
        (["--peer", "x"], "Invalid value"),
    ],
)
def test_what_the_ledger_does_not_have_is_said(honest, words, expected):
    code, told = run(honest.path, *words)
    assert code == 2
    assert expected in told


def test_a_folder_without_ledger_or_text_says_what_is_missing(copy):
    """As on a machine where the run did not begin."""
    (copy.path / "local.json").unlink()
    code, told = run(copy.path, "--peer", 0, "--round", 0)
    assert code == 2
    assert "say where it is with --data" in told.replace("\n", " ")
    text = copy.path / "own.txt"
    text.write_text("another text " * 4000)
    code, told = run(copy.path, "--peer", 0, "--round", 0, "--data", text)
    assert code == 2
    assert "name the run's text with --data" in told.replace("\n", " ")
    copy.ledger.unlink()
    code, told = run(copy.path)
    assert code == 2
    assert "there is no ledger in it" in told.replace("\n", " ")


def test_the_text_of_the_run_may_lie_elsewhere(copy, base, monkeypatch):
    (copy.path / "local.json").unlink()
    monkeypatch.chdir(base)  # where the specification's config.json is
    code, told = run(copy.path, "--peer", 0, "--round", 0, "--data", base / "text.txt")
    assert code == 0, told
