"""The ledger of a campaign, and how a campaign is resumed from it.

A campaign's decisions are a pure function of what its ledger holds: what was measured, proposed
and drawn. So to resume is to decide everything once more, with each entry taken from the ledger
while it lasts, and only then with new runs. The chained, signed table is that of a training run
(`duckweed.ledger.ledger`); kinds of entry are listed in docs/evolve.md.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from duckweed.evolve.entries import (
    CAMPAIGN,
    AuditEntry,
    Declared,
    FailureEntry,
    GuestEntry,
    PlantsEntry,
    RevealEntry,
    StopEntry,
    TrialEntry,
)
from duckweed.evolve.trial_spec import TrialResult, TrialSpec
from duckweed.ledger.entries import B, Body
from duckweed.ledger.ledger import Entry, Ledger
from duckweed.net.identity import load_or_create, verify

ASIDE = (
    TrialEntry, FailureEntry, GuestEntry, AuditEntry, RevealEntry, PlantsEntry, StopEntry
)  # fmt: skip
"""Kinds that decide nothing by their place in the order."""


class JournalError(ValueError):
    """The ledger does not fit this program or these settings; nothing was changed."""


def _signed_by(key: str, signer: str, message: bytes, signature: bytes) -> bool:
    return signer == key and verify(signer, message, signature)


class Journal:
    """An open ledger with a cursor over the entries that decide."""

    def __init__(self, folder: Path) -> None:
        identity = load_or_create(folder / "campaign.key")
        self.key = identity.id
        self.ledger = Ledger(folder / "ledger.db", identity.sign)
        self.ledger.verify(partial(_signed_by, identity.id))
        self.number = 0  # the generation that entries are filed under
        self.results: dict[str, TrialResult] = {}  # by id of the trial
        self.audits: dict[str, float] = {}  # FLOPs of audits by id of the trial, not yet counted
        self.expelled: set[str] = set()  # keys of remote workers
        self._decided: list[Entry[Body]] = []  # entries that decide, in order
        for entry in self.ledger.entries(*CAMPAIGN):
            match entry.body:
                case TrialEntry(cell=name, result=result):
                    self.results[name] = result
                case AuditEntry() as audit:
                    self._audit(audit)
                case GuestEntry(key=key, expelled=True):
                    self.expelled.add(key)
            if not isinstance(entry.body, ASIDE):
                self._decided.append(entry)
        self._cursor = 0

    @property
    def replaying(self) -> bool:
        """Whether the next decision is in the ledger already."""
        return self._cursor < len(self._decided)

    @property
    def processes(self) -> int:
        """The highest number of a worker so far."""
        return max((r.worker for r in self.results.values()), default=0)

    def take(self, kind: type[B], make: Callable[[], B]) -> tuple[B, str]:
        """What the next deciding entry says, and its hash: from the ledger, else made and appended.
        Raises JournalError where the ledger has an entry of another kind there."""
        if not self.replaying:
            made = self.ledger.append(self.number, make())
            return made.body, made.hash
        entry = self._decided[self._cursor]
        if not isinstance(entry.body, kind):
            raise JournalError(
                f"{self.ledger.path}: entry {entry.number} is a {entry.kind!r} where this program "
                f"decides a {kind.kind!r}: the campaign was made by another version; use that one, or "
                "start a new campaign"
            )
        self._cursor += 1
        return entry.body, entry.hash

    def note(self, decision: B) -> tuple[B, str]:
        """A decision that follows from what is known, as the ledger has it, and the entry's hash; it
        must be the same on every replay."""
        type_ = type(decision)
        body = msgspec.json.decode(msgspec.json.encode(decision), type=type_)  # not finite: None
        replaying = self.replaying
        found, head = self.take(type_, lambda: body)
        if replaying and found != body:
            raise JournalError(
                f"{self.ledger.path}: the ledger's {body.kind!r} for generation {self.number} differs "
                "from what follows from the entries before it; it was made with other settings or "
                "another version, or not by this program"
            )
        return body, head

    def aside(self, body: Body) -> None:
        """An entry that decides nothing by its place."""
        self.ledger.append(self.number, body)

    def trial(self, trial: TrialSpec, result: TrialResult, purpose: str) -> TrialEntry:
        """Record a finished trial; the trial itself is kept, so that anyone can run it again."""
        entry = TrialEntry(trial.id, trial, result, purpose)
        self.aside(entry)
        self.results[trial.id] = result
        return entry

    def audit(self, trial: TrialSpec, theirs: TrialResult, ours: TrialResult) -> None:
        """Record that a remote worker's trial was run again here, before its result is."""
        entry = AuditEntry(trial.id, theirs.worker, Declared(theirs.weights, theirs.loss), ours)
        self.aside(entry)
        self._audit(entry)

    def _audit(self, entry: AuditEntry) -> None:
        self.audits[entry.cell] = self.audits.get(entry.cell, 0.0) + entry.result.flops

    def close(self) -> None:
        self.ledger.close()
