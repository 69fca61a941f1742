"""What a campaign has spent, and whether its budget pays for what comes next."""

import time

from duckweed.evolve.budget import Budget, BudgetError, span
from duckweed.evolve.campaign.journal import Journal
from duckweed.evolve.decide.requests import CampaignState
from duckweed.evolve.trial_spec import TrialSpec

HANGS = 20.0  # times the expected duration after which a worker counts as hung
LEAST_LIMIT = 300.0  # seconds for a trial, however short it should be
FIRST_LIMIT = 3600.0  # seconds for a trial before the pace is known


class Exhausted(Exception):
    """The budget does not pay for what comes next."""


class Account:
    """Time and FLOPs of one session and those before it. workers: that share the work."""

    def __init__(
        self, budget: Budget, journal: Journal, state: CampaignState, workers: int
    ) -> None:
        self.budget, self.workers = budget, workers
        self._journal, self._state = journal, state
        self._began = time.monotonic()
        self._before = sum(r.seconds for r in journal.results.values())

    @property
    def seconds(self) -> float:
        """Machine time spent: that of earlier sessions, from their runs, and that of this one."""
        return self._before / self.workers + time.monotonic() - self._began

    @property
    def out_of_time(self) -> bool:
        return self.budget.seconds is not None and self.seconds > self.budget.seconds

    @property
    def pace(self) -> float:
        """FLOPs per second of one worker, from the runs so far; 0 before any."""
        ran = [r for r in self._journal.results.values() if r.loss is not None]
        seconds = sum(r.seconds for r in ran)
        return sum(r.flops for r in ran) / seconds if seconds else 0.0

    def limit(self, groups: list[list[TrialSpec]]) -> float:
        """Seconds for one of these trials, after which its worker counts as hung."""
        largest = max(trial.budget for group in groups for trial in group)
        pace = self.pace
        return max(LEAST_LIMIT, HANGS * largest / pace) if pace else FIRST_LIMIT

    def pays(self, flops: float) -> bool:
        """Whether the budget pays for runs of this many training FLOPs."""
        needed, left = self._funds(flops)
        return needed <= left

    def require(self, flops: float, why: str) -> None:
        """Raises Exhausted, or BudgetError where it was too small from the beginning."""
        needed, left = self._funds(flops)
        if needed <= left:
            return
        in_flops = self.budget.flops is not None

        def said(amount: float) -> str:
            return f"{amount:.2g} FLOP" if in_flops else span(amount)

        if self._state.noise:
            raise Exhausted(
                f"the budget is spent: {why} would need about {said(needed)}, {said(max(0.0, left))} "
                "are left"
            )
        least = 1.1 * ((self._state.spent if in_flops else self.seconds) + needed)
        in_all = f"{least:.2g}flop" if in_flops else f"{least / 60:.0f}m"
        pace = "" if in_flops else " at the pace of this machine"
        raise BudgetError(
            f"the budget of {self.budget.text} is too small: {why} need about {said(needed)}{pace}, "
            f"{said(max(0.0, left))} are left. Give at least --budget {in_all}, or smaller trials "
            "with --trial; nothing that was run is lost (--resume)"
        )

    def _funds(self, flops: float) -> tuple[float, float]:
        """What is needed with evaluation, and what is left: in FLOPs, or in seconds."""
        flops *= self._state.overhead
        if self.budget.flops is not None:
            return flops, self.budget.flops - self._state.spent
        return flops / self.pace / self.workers, (self.budget.seconds or 0.0) - self.seconds
