"""Runs with real processes over the real transport: exactness, and what a crash may not cost."""

import json
import os
import shutil
import signal
import sqlite3
import time

import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import RUN
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import load_or_create, verify
from duckweed.process import local_run
from duckweed.process.local_run import LocalRun, RunFailed
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import state as states
from duckweed.run.events import (
    ContributionRefused,
    PeerEnded,
    ProcessFailed,
    Progress,
    RoundClosed,
    StateDiffers,
)
from duckweed.run.folder import RunFolder

pytestmark = pytest.mark.slow

# patience: however busy the machine is, no peer is thought slow enough to be given fewer steps.
SPEC = {"rounds.count": 4, "rounds.checkpoint": 2, "inner.state": "kept", "rounds.patience": 60.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("local")


CASES = {"overlap": {"rounds.overlap": 0.5}}


@pytest.fixture(scope="module", params=CASES)
def expected(base, request):
    """What is changed in the specification, and the final state hash of the run as a simulation."""
    changes = CASES[request.param]
    spec = tiny.specification(base, SPEC | changes)
    folder, ground, state = tiny.found(base, name_of("simulation", changes), spec)
    final = Simulation(folder, spec, founding.layout(folder), ground, state, "cpu").run()
    return changes, final.hash()


def name_of(run, changes):
    return f"{run}-{next(iter(changes))}"


def founded(base, name, changes=None):
    spec = tiny.specification(base, SPEC | (changes or {}))
    return tiny.found(base, name, spec)[0], spec


def go(folder, spec, until=lambda event: False):
    """Start the run and watch it until it ends or an event says so; returns the events."""
    seen = []
    with LocalRun(folder, spec, "cpu", 1, spec.rounds.peers, forks=commands.forks()) as run:
        run.start()
        for event in run.events():
            if not isinstance(event, Progress):
                seen.append(event)
            if until(event):
                break
    return seen


def entries(folder):
    ledger = Ledger(folder.ledger)
    ledger.verify(verify)
    found = list(ledger.entries(*RUN))
    ledger.close()
    return found


def final(folder):
    layout = founding.layout(folder)
    path = folder.state(folder.saved_rounds()[-1])
    return states.load(path, layout)


def check_ledger(folder, spec):
    """All rounds closed once each, all states agreed on, no block counted twice or left out."""
    found = entries(folder)
    rounds = [e for e in found if e.kind == "round"]
    assert [e.round for e in rounds] == list(range(spec.rounds.count))
    agreed = {e.round: e.body.hash for e in found if e.kind == "state"}
    assert agreed[spec.rounds.count] == final(folder).hash()
    assert final(folder).round == spec.rounds.count
    counted = [e.body.blocks[p] for e in rounds for p in e.body.closed.accepted]
    assert len(set(counted)) == len(counted)
    return rounds, counted


def is_round(number):
    return lambda event: isinstance(event, RoundClosed) and event.round == number


def pid(folder, name):
    return int((folder.path / f"{name}.pid").read_text())


def slot_of(folder, index):
    """Which process has become peer number `index`: the order in which they join is free."""
    (key,) = [e.body.key for e in entries(folder) if e.kind == "peer" and e.body.index == index]
    return next(s for s in range(3) if load_or_create(folder.peer(s) / "key").id == key)


def test_processes_reach_the_bits_of_the_simulation(base, expected):
    changes, hash_ = expected
    folder, spec = founded(base, name_of("whole", changes), changes)
    seen = go(folder, spec)
    assert not [
        e for e in seen if isinstance(e, ProcessFailed | StateDiffers | ContributionRefused)
    ]
    assert len([e for e in seen if isinstance(e, PeerEnded)]) == 3
    rounds, counted = check_ledger(folder, spec)
    assert sorted(counted) == list(range(12))
    assert all(e.body.closed.accepted == [0, 1, 2] for e in rounds)
    assert final(folder).hash() == hash_
    for line in folder.records(RoundClosed):
        assert set(line.timings) == {0, 1, 2}
        assert all(0 < share <= 1 for share in line.utilisation.values())
    steps = 2 if spec.rounds.overlap else 0  # of three
    ahead = [[c.ahead for c in e.body.contributions.values()] for e in rounds]
    assert ahead == [[0] * 3] + [[steps] * 3] * 3


def test_stopped_and_resumed_it_is_as_if_it_had_not_been_stopped(base, expected):
    changes, hash_ = expected
    folder, spec = founded(base, name_of("stopped", changes), changes)
    go(folder, spec, is_round(1))
    closed = [e.round for e in entries(folder) if e.kind == "round"]
    assert closed[:2] == [0, 1]
    assert len(closed) < spec.rounds.count
    go(folder, spec)
    check_ledger(folder, spec)
    assert final(folder).hash() == hash_


def test_a_peer_that_comes_as_all_is_done_is_sent_home(base, monkeypatch):
    """Its coordinator has ended, and does not come back."""
    monkeypatch.setattr(local_run, "PROCESS_GRACE", 4.0)
    folder, spec = founded(base, "late", {"rounds.count": 1, "rounds.peers": 1})
    with LocalRun(folder, spec, "cpu", 1, 1, forks=commands.forks()) as run:
        run.start()
        assert [e.round for e in run.events() if isinstance(e, RoundClosed)] == [0]
        run.enlist(1)
        closes = time.monotonic() + 60
        for event in run.events():
            assert not isinstance(event, ProcessFailed)
            assert time.monotonic() < closes
        assert run.over


def test_a_killed_peer_does_not_stop_the_run_and_its_block_is_trained_by_others(base):
    # A block takes a second to train: whoever is killed as round 1 opens has not handed it in, and
    # the others wait for it, and are still there when it is missed.
    folder, spec = founded(base, "killed-peer", {"inner.steps": 150, "rounds.count": 3})
    victim: list[int] = []

    def kill(event):
        if is_round(0)(event):
            victim.append(slot_of(folder, 2))
            os.kill(pid(folder, f"peer{victim[0]}"), signal.SIGKILL)
        return False

    seen = go(folder, spec, kill)
    assert victim
    assert any(isinstance(e, ProcessFailed) and f"peer {victim[0]} ended" in e.reason for e in seen)
    rounds, counted = check_ledger(folder, spec)
    first, second, third = (e.body for e in rounds)
    assert first.closed.accepted == [0, 1, 2]
    assert second.closed.accepted == third.closed.accepted == [0, 1]
    assert "nothing handed in" in second.closed.rejected[2]
    assert third.blocks[0] == second.blocks[2]  # what was lost comes first
    assert sorted(counted) == list(range(7))
    assert not [e for e in seen if isinstance(e, StateDiffers)]


@pytest.mark.long
def test_with_overlap_a_killed_peer_loses_the_rounds_that_it_had_work_for_and_no_text(base):
    changes = {"inner.steps": 300, "rounds.count": 5, "rounds.overlap": 0.5}
    folder, spec = founded(base, "killed-ahead", changes)

    def kill(event):
        if is_round(0)(event):
            os.kill(pid(folder, f"peer{slot_of(folder, 2)}"), signal.SIGKILL)
        return False

    seen = go(folder, spec, kill)
    assert not [e for e in seen if isinstance(e, StateDiffers | ContributionRefused)]
    rounds, counted = check_ledger(folder, spec)
    accepted = [e.body.closed.accepted for e in rounds]
    assert accepted == [[0, 1, 2]] + [[0, 1]] * 4
    # Work for the round after is given out before it is known that the peer is gone.
    lost = rounds[1].body.blocks[2]
    assert lost in [e.body.blocks[0] for e in rounds[2:]]
    assert lost in counted
    # The others did not wait for the dead one's last work: theirs was begun ahead as before.
    said = [c for e in rounds[1:] for c in e.body.contributions.values()]
    assert [c.ahead for c in said] == [150] * 8


def test_a_killed_coordinator_loses_no_closed_round(base, expected):
    changes, hash_ = expected
    folder, spec = founded(base, name_of("killed-coordinator", changes), changes)

    def kill(event):
        if is_round(1)(event):
            os.kill(pid(folder, "coordinator"), signal.SIGKILL)
        return False

    with pytest.raises(RunFailed, match="coordinator ended with code -9"):
        go(folder, spec, kill)
    before = [(e.number, e.hash) for e in entries(folder)]
    assert len([e for e in entries(folder) if e.kind == "round"]) >= 2
    go(folder, spec)
    assert [(e.number, e.hash) for e in entries(folder)][: len(before)] == before
    check_ledger(folder, spec)
    assert final(folder).hash() == hash_


@pytest.fixture(scope="module")
def stopped(base):
    folder, spec = founded(base, "interrupted", {"rounds.checkpoint": 1})
    go(folder, spec, is_round(2))
    entries(folder)
    return folder, spec


@pytest.fixture
def interrupted(stopped, tmp_path):
    """A run stopped after round 2, in a copy of its own."""
    folder, spec = stopped
    return RunFolder(shutil.copytree(folder.path, tmp_path / "run")), spec


def refused(folder, spec, message):
    files = {p: p.read_bytes() for p in folder.states.iterdir()}
    with pytest.raises(RunFailed, match=message):
        go(folder, spec)
    assert {p: p.read_bytes() for p in folder.states.iterdir()} == files


def test_a_tampered_ledger_is_refused_at_the_start(interrupted):
    folder, spec = interrupted
    with sqlite3.connect(folder.ledger) as db:
        (body,) = db.execute("SELECT body FROM ledger WHERE kind='round' AND round=0").fetchone()
        facts = json.loads(body)
        facts["closed"]["weights"][0] = 9
        db.execute("UPDATE ledger SET body=? WHERE kind='round' AND round=0", (json.dumps(facts),))
    db.close()
    refused(folder, spec, "changed after it was written")


def test_a_shortened_ledger_is_refused_at_the_start(interrupted):
    folder, spec = interrupted
    with sqlite3.connect(folder.ledger) as db:
        db.execute("DELETE FROM ledger WHERE number > 4")
    db.close()
    refused(folder, spec, "entries were cut off")


def test_an_empty_ledger_is_refused_at_the_start(interrupted):
    folder, spec = interrupted
    folder.ledger.write_bytes(b"")
    refused(folder, spec, "lost its ledger")


def test_another_specification_is_refused_at_the_start(interrupted):
    folder, spec = interrupted
    before = folder.spec.read_text()
    folder.spec.write_text(before.replace("steps = 3", "steps = 4"))
    refused(folder, spec, "not the specification that the run began with")


def test_a_truncated_state_is_refused_and_the_one_before_it_still_serves(interrupted):
    folder, spec = interrupted
    last = folder.state(folder.saved_rounds()[-1])
    last.write_bytes(last.read_bytes()[:-100])
    refused(folder, spec, f"{last.name}.*cannot be read as a checkpoint")
    last.unlink()
    go(folder, spec)
    check_ledger(folder, spec)
