"""Remote workers: their results count only after a part of them was run again here."""

import msgspec
import pytest

from duckweed.cli.views.evolve import ledger_tables
from duckweed.evolve.budget import Budget
from duckweed.evolve.campaign.history import read
from duckweed.evolve.entries import AuditEntry, CheckEntry, DecisionEntry, TrialEntry
from duckweed.ledger.ledger import Ledger
from evolve.simulated import SimulatedPool, SimulatedRemote, loop

ENOUGH = Budget(flops=8e11)


def campaign(path, workers):
    at_work = loop(path, ENOUGH, workers)
    at_work.run()
    at_work.journal.close()
    return at_work


def better(result):
    """As a remote worker would say that wants the last change to be adopted."""
    if result.loss is None:
        return result
    return msgspec.structs.replace(result, loss=result.loss - 0.1, weights="f" * 32)


def entries(path, kind):
    ledger = Ledger(path / "ledger.db")
    found = [entry.body for entry in ledger.entries(kind)]
    ledger.close()
    return found


def test_an_honest_remote_worker_stays_and_its_audits_are_paid_for(tmp_path):
    remote = SimulatedRemote()
    at_work = campaign(tmp_path, remote)
    assert not remote.expelled
    assert len(entries(tmp_path, DecisionEntry)) >= 2
    assert any(body.result.worker == 9 for body in entries(tmp_path, TrialEntry))
    assert len(entries(tmp_path, AuditEntry)) == remote.here > 10
    ran = [
        body for kind in (TrialEntry, AuditEntry, CheckEntry) for body in entries(tmp_path, kind)
    ]
    assert at_work.state.spent == pytest.approx(sum(body.result.flops for body in ran))
    assert at_work.state.spent <= ENOUGH.flops


def test_a_remote_worker_that_lies_is_expelled_and_nothing_it_said_is_kept(tmp_path):
    remote = SimulatedRemote(better)
    campaign(tmp_path, remote)
    assert remote.expelled
    for body in entries(tmp_path, TrialEntry):
        assert body.result.worker != 9
        assert body.result.weights != "f" * 32
    (audit,) = entries(tmp_path, AuditEntry)
    assert audit.theirs.weights == "f" * 32
    ledger = Ledger(tmp_path / "ledger.db")
    shown = ledger_tables(read(ledger))
    ledger.close()
    assert "run again here: 1, of which 0 agree" in " ".join(map(str, shown))


def test_going_on_with_a_ledger_that_holds_audits_decides_the_same(tmp_path):
    first = campaign(tmp_path, SimulatedRemote())
    again = loop(tmp_path, Budget(flops=1.0), SimulatedPool())
    again.run()
    assert again.state.spent == first.state.spent
    assert again.state.generation == first.state.generation
    again.journal.close()
