"""The ledger of a campaign, and how a campaign is resumed from it.

A campaign's decisions are a pure function of what its ledger holds: what was measured, proposed
and drawn. So to resume is to decide everything once more, with each entry taken from the ledger
while it lasts, and only then with new runs. The chained, signed table is that of a training run
(`duckweed.ledger.ledger`); kinds of entry are listed in docs/evolve.md.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from duckweed.evolve.trial_spec import TrialResult, TrialSpec
from duckweed.ledger.ledger import Entry, Ledger
from duckweed.net.identity import load_or_create, verify

TRIAL = "trial"
ASIDE = frozenset({TRIAL, "failure", "guest", "audit", "reveal", "plants", "stop"})
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
        self._decided: list[Entry] = []  # entries that decide, in order
        for entry in self.ledger.entries():
            if entry.kind == TRIAL:
                self.results[entry.body["cell"]] = msgspec.convert(
                    entry.body["result"], TrialResult
                )
            elif entry.kind == "audit":
                self._audit(entry.body)
            elif entry.kind == "guest" and entry.body["expelled"]:
                self.expelled.add(entry.body["key"])
            elif entry.kind not in ASIDE:
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

    def take(self, kind: str, make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], str]:
        """The body of the next deciding entry and its hash: from the ledger, else made and
        appended. Raises JournalError where the ledger has an entry of another kind there."""
        if not self.replaying:
            entry = self.ledger.append(kind, self.number, make())
            return entry.body, entry.hash
        entry = self._decided[self._cursor]
        if entry.kind != kind:
            raise JournalError(
                f"{self.ledger.path}: entry {entry.number} is a {entry.kind!r} where this program "
                f"decides a {kind!r}: the campaign was made by another version; use that one, or "
                "start a new campaign"
            )
        self._cursor += 1
        return entry.body, entry.hash

    def note(self, kind: str, body: dict[str, Any]) -> str:
        """A decision that follows from what is known; it must be the same on every replay."""
        plain = msgspec.json.decode(msgspec.json.encode(body))
        found, head = self.take(kind, lambda: plain)
        if found != plain:
            raise JournalError(
                f"{self.ledger.path}: the ledger's {kind!r} for generation {self.number} differs "
                "from what follows from the entries before it; it was made with other settings or "
                "another version, or not by this program"
            )
        return head

    def aside(self, kind: str, body: dict[str, Any]) -> None:
        """An entry that decides nothing by its place."""
        self.ledger.append(kind, self.number, body)

    def trial(self, trial: TrialSpec, result: TrialResult, purpose: str) -> None:
        """Record a finished trial; the trial itself is kept, so that anyone can run it again."""
        self.aside(
            TRIAL,
            {
                "cell": trial.id,
                "what": msgspec.to_builtins(trial),
                "result": msgspec.to_builtins(result),
                "purpose": purpose,
            },
        )
        self.results[trial.id] = result

    def audit(self, trial: TrialSpec, theirs: TrialResult, ours: TrialResult) -> None:
        """Record that a remote worker's trial was run again here, before its result is."""
        body = {
            "cell": trial.id,
            "guest": theirs.worker,
            "theirs": {"weights": theirs.weights, "loss": theirs.loss},
            "result": msgspec.to_builtins(ours),
        }
        self.aside("audit", body)
        self._audit(body)

    def _audit(self, body: dict[str, Any]) -> None:
        self.audits[body["cell"]] = self.audits.get(body["cell"], 0.0) + body["result"]["flops"]

    def close(self) -> None:
        self.ledger.close()
