"""The loop: answers the campaign's requests with a ledger, workers and proposers.

Everything that a decision rests on is in the ledger before the decision is; going on after a stop
is deciding the same once more (`duckweed.evolve.campaign.journal`).
"""

import queue
import time
from collections.abc import Callable
from typing import Any

import msgspec

from duckweed.evolve.campaign.budget import Budget, BudgetError, span
from duckweed.evolve.campaign.folder import Campaign
from duckweed.evolve.campaign.journal import Journal
from duckweed.evolve.decide.campaign import begin, campaign
from duckweed.evolve.decide.requests import (
    Afford,
    Allowed,
    Ask,
    Check,
    Need,
    Note,
    Request,
    Run,
    Settings,
    Standing,
)
from duckweed.evolve.decide.trial_spec import Cell, Proposal, Recipe, Result
from duckweed.evolve.entries import (
    AffordEntry,
    CheckEntry,
    DecisionEntry,
    FailureEntry,
    GenerationEntry,
    PlantsEntry,
    ProposalsEntry,
    RevealEntry,
    StopEntry,
)
from duckweed.evolve.propose.allocation import Council, opened
from duckweed.evolve.space import signed_registry
from duckweed.evolve.workers.audit import Audit
from duckweed.evolve.workers.pool import Pool, Stopped
from duckweed.ledger.entries import Body

HANGS = 20.0  # times the expected duration after which a worker counts as hung
LEAST_LIMIT = 300.0  # seconds


class RunsStarted(msgspec.Struct, frozen=True):
    """Trials are about to be run."""

    purpose: str
    """What they are for, as in `TrialEntry`."""
    count: int
    """How many there are."""


Tell = Callable[[Body | RunsStarted], None]
"""Takes what happens in a campaign: mostly entries, once they are in the ledger."""


class Exhausted(Exception):
    """The budget does not pay for what comes next."""


class Loop:
    """A campaign at work. `standing` is what it knows so far."""

    def __init__(
        self,
        folder: Campaign,
        journal: Journal,
        pool: Pool,
        council: Council,
        settings: Settings,
        plain: Recipe,
        budget: Budget,
        workers: int,
        tell: Tell = lambda event: None,
    ) -> None:
        self.folder, self.journal, self.pool, self.council = folder, journal, pool, council
        self.settings, self.plain, self.budget, self.workers = settings, plain, budget, workers
        self.tell = tell
        self.standing: Standing = begin(settings)
        self._began = time.monotonic()
        self._before = sum(r.seconds for r in journal.results.values())
        self._audit = Audit(pool, journal.audit)
        # Workers' threads report here; the ledger is written in this one alone.
        self._reports: queue.SimpleQueue[Body] = queue.SimpleQueue()
        pool.failed = lambda cell, reason: self.report(FailureEntry(cell.id, reason))

    def run(self) -> str:
        """Until the budget is spent or something stops it; returns why it ended."""
        together = max(1, self.workers // 2)
        steps = campaign(self.standing, self.plain, together)
        ended = True
        try:
            self._pace_run()
            answer: Any = None
            while True:
                answer = self._answer(steps.send(answer))
        except Stopped as end:
            limit = self.budget.seconds
            reason, ended = str(end), limit is not None and self.seconds > limit
        except Exhausted as end:
            reason = str(end)
        except StopIteration:
            reason = "nobody proposes anything new any more"
        finally:
            steps.close()
        self.reveal()
        if ended:
            self.open_plants()
        self.journal.aside(StopEntry(reason, self.seconds))
        return reason

    @property
    def seconds(self) -> float:
        """Machine time spent: that of earlier sessions, from their runs, and that of this one."""
        return self._before / self.workers + time.monotonic() - self._began

    def _answer(self, request: Request) -> Any:
        match request:
            case Run(groups, purpose):
                return self._run(groups, purpose)
            case Check(cell):
                return self._check(cell)
            case Ask():
                return self._ask(request)
            case Allowed(recipes):
                return [self.council.affordable(recipe) is None for recipe in recipes]
            case Note(kind, facts):
                body, head = self.journal.note(kind, facts)
                if isinstance(body, GenerationEntry):
                    self.journal.number = body.generation
                self.tell(body)
                return head
            case Need(flops, why):
                return self._need(flops, why)
            case Afford():
                return self._afford(request)

    # --- runs

    def _run(self, groups: list[list[Cell]], purpose: str) -> list[list[Result]]:
        results = self.journal.results
        missing = [[c for c in group if c.id not in results] for group in groups]
        missing = [group for group in missing if group]

        def done(cell: Cell, result: Result) -> None:
            self.tell(self.journal.trial(cell, result, purpose))

        if missing:
            self.tell(RunsStarted(purpose, sum(map(len, missing))))
            self._at_work(self._audit.run, missing, done)
        for group in groups:
            for cell in group:
                self.standing.spent += self.journal.audits.pop(cell.id, 0.0)
        return [[results[cell.id] for cell in group] for group in groups]

    def _check(self, cell: Cell) -> tuple[Result, Result]:
        first = self.journal.results[cell.id]

        def again() -> CheckEntry:
            found: list[Result] = []
            self._at_work(
                self.pool.run, [[cell]], lambda _, result: found.append(result), avoid=first.worker
            )
            return CheckEntry(cell.id, found[0])

        body, _ = self.journal.take(CheckEntry, again)
        return first, body.result

    def _at_work(
        self,
        run: Callable[..., None],
        groups: list[list[Cell]],
        done: Callable[[Cell, Result], None],
        **more: Any,
    ) -> None:
        self._stop_if_asked()
        try:
            run(groups, done, self._stopped, self._limit(groups), **more)
        finally:
            self._record_reports()

    def _limit(self, groups: list[list[Cell]]) -> float:
        largest = max(c.budget for group in groups for c in group)
        pace = self.pace
        return max(LEAST_LIMIT, HANGS * largest / pace) if pace else 3600.0

    @property
    def pace(self) -> float:
        """FLOPs per second of one worker, from the runs so far; 0 before any."""
        ran = [r for r in self.journal.results.values() if r.loss is not None]
        seconds = sum(r.seconds for r in ran)
        return sum(r.flops for r in ran) / seconds if seconds else 0.0

    def _pace_run(self) -> None:
        """One short run, so that a budget in hours can be held against costs in FLOPs."""
        if self.budget.seconds is not None and not self.pace:
            self._run([[Cell(self.plain, 0, self.settings.budget / 4)]], "pace")

    # --- proposals

    def _ask(self, request: Ask) -> list[Proposal]:
        def make() -> ProposalsEntry:
            return msgspec.convert(
                msgspec.to_builtins(self.council.propose(request, self.standing)), ProposalsEntry
            )

        body, _ = self.journal.take(ProposalsEntry, make)
        self.tell(body)
        return body.proposals

    def reveal(self) -> None:
        """Open the seals of what was decided."""
        known = {e.body.number for e in self.journal.ledger.entries(RevealEntry)}
        decided = {e.body.number for e in self.journal.ledger.entries(DecisionEntry)}
        for entry in list(self.journal.ledger.entries(ProposalsEntry)):
            for proposal in entry.body.proposals:
                if proposal.number in decided - known:
                    seal = opened(self.council.sealed, self.council.registry, proposal)
                    self.journal.aside(msgspec.convert(seal, RevealEntry))

    def open_plants(self) -> None:
        """At the end: everything that the registry could plant, with labels and salts."""
        if not any(self.journal.ledger.entries(PlantsEntry)):
            plants = signed_registry.opened(self.council.registry, self.council.sealed.secret)
            self.journal.aside(PlantsEntry(plants))

    # --- budget

    def _need(self, flops: float, why: str) -> None:
        if self.journal.replaying:
            return
        self._stop_if_asked()
        needed, left = self._funds(flops)
        if needed > left:
            self._refuse(needed, left, why)

    def _afford(self, request: Afford) -> bool:
        def make() -> AffordEntry:
            self._stop_if_asked()
            needed, left = self._funds(request.flops)
            return AffordEntry(request.flops, request.why, needed <= left)

        return self.journal.take(AffordEntry, make)[0].paid

    def _funds(self, flops: float) -> tuple[float, float]:
        """What runs of so many training FLOPs need, and what is left: in FLOPs, or in seconds."""
        flops *= self.standing.overhead
        if self.budget.flops is not None:
            return flops, self.budget.flops - self.standing.spent
        return flops / self.pace / self.workers, (self.budget.seconds or 0.0) - self.seconds

    def _refuse(self, needed: float, left: float, why: str) -> None:
        in_flops = self.budget.flops is not None
        spent = self.standing.spent if in_flops else self.seconds

        def said(amount: float) -> str:
            return f"{amount:.2g} FLOP" if in_flops else span(amount)

        if not self.standing.noise:
            least = 1.1 * (spent + needed)
            in_all = f"{least:.2g}flop" if in_flops else f"{least / 60:.0f}m"
            pace = "" if in_flops else " at the pace of this machine"
            raise BudgetError(
                f"the budget of {self.budget.text} is too small: {why} need about {said(needed)}{pace}, "
                f"{said(max(0.0, left))} are left. Give at least --budget {in_all}, or smaller trials "
                "with --trial; nothing that was run is lost (--resume)"
            )
        raise Exhausted(
            f"the budget is spent: {why} would need about {said(needed)}, {said(max(0.0, left))} are left"
        )

    def _stopped(self) -> str | None:
        self._record_reports()
        if self.folder.stop.exists():
            return "the file `stop` in its folder asks for it"
        if self.budget.seconds is not None and self.seconds > self.budget.seconds:
            return f"the budget of {self.budget.text} is spent"
        return None

    def _stop_if_asked(self) -> None:
        if reason := self._stopped():
            raise Stopped(reason)

    def report(self, entry: Body) -> None:
        """Write into the ledger, as soon as it is free, and tell. From any thread."""
        self._reports.put(entry)

    def _record_reports(self) -> None:
        while not self._reports.empty():
            entry = self._reports.get()
            self.journal.aside(entry)
            self.tell(entry)
