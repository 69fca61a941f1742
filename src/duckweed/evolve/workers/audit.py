"""No remote worker is trusted: a part of what it ran is run again here before any of it counts.

Of every batch one in ten of a remote worker's trials, at least one, drawn at random after it answered,
is trained again by a process of this machine and must give the same weights bit for bit. Otherwise
that worker is never asked again, and all its trials of the batch are run elsewhere: the same trials
then decide as if it had never been there.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace

from duckweed.evolve.trial_spec import TrialResult, TrialSpec
from duckweed.evolve.workers.pool import Batch, Pool

SHARE = 0.1  # of a remote worker's trials that are run again

Audited = Callable[[TrialSpec, TrialResult, TrialResult], None]
"""(trial, the remote worker's result, ours)"""
Ran = list[tuple[TrialSpec, TrialResult]]


class Audit:
    """Runs batches over a pool and passes on the results that count. audited: told of every
    comparison."""

    def __init__(self, pool: Pool, audited: Audited) -> None:
        self.pool, self._audited = pool, audited

    def run(self, batch: Batch) -> None:
        """As `Pool.run`."""
        while batch.groups:
            batch = replace(batch, groups=self._once(batch))

    def _once(self, batch: Batch) -> list[list[TrialSpec]]:
        """Run the batch; returns the trials that must be run again."""
        held: dict[int, Ran] = {}

        def take(trial: TrialSpec, result: TrialResult) -> None:
            if self.pool.is_remote(result.worker):
                held.setdefault(result.worker, []).append((trial, result))
            else:
                batch.done(trial, result)

        self.pool.run(replace(batch, done=take))
        again = []
        for number, ran in held.items():
            if self._honest(ran, batch):
                for trial, result in ran:
                    batch.done(trial, result)
            else:
                self.pool.expel(number)
                again.append([trial for trial, _ in ran])
        return again

    def _honest(self, ran: Ran, batch: Batch) -> bool:
        """Whether a sample gives the same here."""
        found: list[TrialResult] = []
        for trial, theirs in secrets.SystemRandom().sample(ran, max(1, round(SHARE * len(ran)))):
            once = replace(batch, groups=[[trial]], done=lambda _, result: found.append(result))
            self.pool.run(once, own=True)
            ours = found[-1]
            self._audited(trial, theirs, ours)
            if (theirs.weights, theirs.loss) != (ours.weights, ours.loss):
                return False
        return True
