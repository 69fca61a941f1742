"""Guests that run trials: what they say counts only after a part of it was run again here."""

import msgspec
import pytest

from duckweed.cli.evolve_view import ledger_tables
from duckweed.evolve.campaign.budget import Budget
from duckweed.evolve.campaign.history import read
from duckweed.evolve.entries import AuditEntry, CheckEntry, DecisionEntry, TrialEntry
from duckweed.ledger.ledger import Ledger
from evolve.made import MadeGuest, MadeWorkers, loop

ENOUGH = Budget(flops=8e11)


def campaign(path, workers):
    at_work = loop(path, ENOUGH, workers)
    at_work.run()
    at_work.journal.close()
    return at_work


def better(result):
    """As a guest would say that wants the last change to be adopted."""
    if result.loss is None:
        return result
    return msgspec.structs.replace(result, loss=result.loss - 0.1, weights="f" * 32)


def entries(path, kind):
    ledger = Ledger(path / "ledger.db")
    found = [entry.body for entry in ledger.entries(kind)]
    ledger.close()
    return found


def test_an_honest_guest_stays_and_its_audits_are_paid_for(tmp_path):
    guest = MadeGuest()
    at_work = campaign(tmp_path, guest)
    assert not guest.expelled
    assert len(entries(tmp_path, DecisionEntry)) >= 2
    assert any(body.result.worker == 9 for body in entries(tmp_path, TrialEntry))
    assert len(entries(tmp_path, AuditEntry)) == guest.here > 10
    ran = [
        body for kind in (TrialEntry, AuditEntry, CheckEntry) for body in entries(tmp_path, kind)
    ]
    assert at_work.standing.spent == pytest.approx(sum(body.result.flops for body in ran))
    assert at_work.standing.spent <= ENOUGH.flops


def test_a_guest_that_lies_is_expelled_and_nothing_it_said_is_kept(tmp_path):
    guest = MadeGuest(better)
    campaign(tmp_path, guest)
    assert guest.expelled
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
    first = campaign(tmp_path, MadeGuest())
    again = loop(tmp_path, Budget(flops=1.0), MadeWorkers())
    again.run()
    assert again.standing.spent == first.standing.spent
    assert again.standing.generation == first.standing.generation
    again.journal.close()
