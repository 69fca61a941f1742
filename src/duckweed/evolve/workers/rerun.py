"""Trials of a ledger run again, and whether they give the same bit for bit."""

import random
from collections.abc import Iterator

import msgspec

from duckweed.evolve.entries import TrialEntry
from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialResult
from duckweed.evolve.workers.pool import Batch, Pool
from duckweed.ledger.ledger import Entry, Ledger, LedgerError

LONGEST = 3600.0  # seconds for one trial


class Repeated(msgspec.Struct, frozen=True):
    """An entry of the ledger and the same trial now."""

    entry: Entry[TrialEntry]
    result: TrialResult

    @property
    def same(self) -> bool:
        """Apart from the time and the worker."""
        then = self.entry.body.result
        return msgspec.structs.replace(then, seconds=0.0, worker=0) == msgspec.structs.replace(
            self.result, seconds=0.0, worker=0
        )


def chosen(ledger: Ledger, numbers: list[int], count: int) -> list[Entry[TrialEntry]]:
    """The trials with these entry numbers, or `count` at random. Raises LedgerError."""
    trials = {entry.number: entry for entry in ledger.entries(TrialEntry)}
    if unknown := [n for n in numbers if n not in trials]:
        raise LedgerError(f"{ledger.path}: entry {unknown[0]} is not a trial")
    numbers = numbers or sorted(random.sample(sorted(trials), min(count, len(trials))))
    return [trials[n] for n in numbers]


def repeat(folder: CampaignFolder, entries: list[Entry[TrialEntry]]) -> Iterator[Repeated]:
    """One after the other, by fresh processes. Raises WorkerFailed."""
    found: list[TrialResult] = []
    with Pool(folder, 1) as pool:
        for entry in entries:
            pool.run(Batch([[entry.body.what]], lambda _, result: found.append(result), LONGEST))
            yield Repeated(entry, found[-1])
