"""Trials run again from the ledger: whether they give what stands there, bit for bit."""

import random
from collections.abc import Iterator

import msgspec

from duckweed.evolve.campaign.folder import Campaign
from duckweed.evolve.decide.trial_spec import Cell, Result
from duckweed.evolve.entries import TrialEntry
from duckweed.evolve.workers.pool import Pool
from duckweed.ledger.ledger import Entry, Ledger, LedgerError

LONGEST = 3600.0  # seconds for one trial


class Repeated(msgspec.Struct, frozen=True):
    """An entry of the ledger and the same trial now."""

    entry: Entry[TrialEntry]
    result: Result

    @property
    def same(self) -> bool:
        """Weights, loss, tokens and FLOPs; the time it takes is its own."""
        then = self.entry.body.result
        return msgspec.structs.replace(then, seconds=0.0, worker=0) == msgspec.structs.replace(
            self.result, seconds=0.0, worker=0
        )


def chosen(ledger: Ledger, numbers: list[int], count: int) -> list[Entry[TrialEntry]]:
    """The trials with these entry numbers, or `count` at random. Raises LedgerError."""
    trials = {entry.number: entry for entry in ledger.entries(TrialEntry)}
    if unknown := [n for n in numbers if n not in trials]:
        raise LedgerError(f"{ledger.path}: entry {unknown[0]} is no trial")
    numbers = numbers or sorted(random.sample(sorted(trials), min(count, len(trials))))
    return [trials[n] for n in numbers]


def repeat(folder: Campaign, entries: list[Entry[TrialEntry]]) -> Iterator[Repeated]:
    """One after the other, by fresh processes. Raises WorkerFailed."""
    found: dict[str, Result] = {}

    def done(cell: Cell, result: Result) -> None:
        found[cell.id] = result

    with Pool(folder, 1) as pool:
        for entry in entries:
            cell = entry.body.what
            pool.run([[cell]], done, lambda: None, LONGEST)
            yield Repeated(entry, found[cell.id])
