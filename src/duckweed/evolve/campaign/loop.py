"""The loop: answers the campaign's requests with a ledger, workers and proposers.

All that a decision follows from is in the ledger before the decision is; to resume is to decide the
same once more (`duckweed.evolve.campaign.journal`).
"""

import queue
from collections.abc import Callable
from typing import Any

import msgspec

from duckweed.evolve.budget import Budget
from duckweed.evolve.campaign.account import Account, Exhausted
from duckweed.evolve.campaign.create import OpenCampaign
from duckweed.evolve.decide.campaign import begin, campaign
from duckweed.evolve.decide.requests import (
    AskAllowed,
    AskBudget,
    AskProposals,
    CampaignState,
    Record,
    Request,
    RequireBudget,
    RerunTrial,
    RunTrials,
)
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
from duckweed.evolve.propose.allocation import Allocator, reveal
from duckweed.evolve.space.signed_registry import reveal_plants
from duckweed.evolve.trial_spec import Proposal, TrialResult, TrialSpec
from duckweed.evolve.workers.audit import Audit
from duckweed.evolve.workers.pool import Batch, Pool, Stopped
from duckweed.ledger.entries import Body


class RunsStarted(msgspec.Struct, frozen=True):
    """Trials are about to be run."""

    purpose: str
    """What they are for, as in `TrialEntry`."""
    count: int
    """How many there are."""


Tell = Callable[[Body | RunsStarted], None]
"""Takes what happens in a campaign: mostly entries, once they are in the ledger."""


class Loop:
    """A campaign at work. workers: that share the trials; tell: given every event."""

    def __init__(
        self,
        opened: OpenCampaign,
        pool: Pool,
        allocator: Allocator,
        budget: Budget,
        workers: int,
        tell: Tell = lambda event: None,
    ) -> None:
        self.folder, self.journal, self.settings = opened.folder, opened.journal, opened.settings
        self.plain, self.pool, self.allocator = opened.plain, pool, allocator
        self.workers, self.tell = workers, tell
        self.state: CampaignState = begin(self.settings)
        self.account = Account(budget, self.journal, self.state, workers)
        self._audit = Audit(pool, self.journal.audit)
        # Workers' threads report here; the ledger is written in this one alone.
        self._reports: queue.SimpleQueue[Body] = queue.SimpleQueue()
        pool.failed = lambda trial, reason: self.report(FailureEntry(trial.id, reason))

    def run(self) -> str:
        """Until the budget is spent or something stops it; returns why it ended."""
        steps = campaign(self.state, self.plain, max(1, self.workers // 2))
        ended = True
        try:
            self._measure_pace()
            answer: Any = None
            while True:
                answer = self._answer(steps.send(answer))
        except Stopped as end:
            reason, ended = str(end), self.account.out_of_time
        except Exhausted as end:
            reason = str(end)
        except StopIteration:
            reason = "nobody proposes anything new any more"
        finally:
            steps.close()
        self._reveal_proposals()
        if ended:
            self._reveal_plants()
        self.journal.aside(StopEntry(reason, self.account.seconds))
        return reason

    def _answer(self, request: Request) -> Any:
        match request:
            case RunTrials(groups, purpose):
                return self._run(groups, purpose)
            case RerunTrial(trial):
                return self._rerun(trial)
            case AskProposals():
                return self._proposals(request)
            case AskAllowed(recipes):
                return [self.allocator.affordable(recipe) is None for recipe in recipes]
            case Record(decision):
                entry, head = self.journal.note(decision)
                if isinstance(entry, GenerationEntry):
                    self.journal.number = entry.generation
                self.tell(entry)
                return head
            case RequireBudget(flops, why):
                return self._require_budget(flops, why)
            case AskBudget(flops, why):
                return self._ask_budget(flops, why)

    # --- runs

    def _run(self, groups: list[list[TrialSpec]], purpose: str) -> list[list[TrialResult]]:
        results = self.journal.results
        missing = [[trial for trial in group if trial.id not in results] for group in groups]
        missing = [group for group in missing if group]

        def done(trial: TrialSpec, result: TrialResult) -> None:
            self.tell(self.journal.trial(trial, result, purpose))

        if missing:
            self.tell(RunsStarted(purpose, sum(map(len, missing))))
            self._at_work(missing, done, self._audit.run)
        for group in groups:
            for trial in group:
                self.state.spent += self.journal.audits.pop(trial.id, 0.0)
        return [[results[trial.id] for trial in group] for group in groups]

    def _rerun(self, trial: TrialSpec) -> tuple[TrialResult, TrialResult]:
        first = self.journal.results[trial.id]

        def again() -> CheckEntry:
            found: list[TrialResult] = []
            self._at_work(
                [[trial]],
                lambda _, result: found.append(result),
                lambda batch: self.pool.run(batch, avoid=first.worker),
            )
            return CheckEntry(trial.id, found[0])

        entry, _ = self.journal.take(CheckEntry, again)
        return first, entry.result

    def _at_work(
        self,
        groups: list[list[TrialSpec]],
        done: Callable[[TrialSpec, TrialResult], None],
        run: Callable[[Batch], None],
    ) -> None:
        self._stop_if_asked()
        try:
            run(Batch(groups, done, self.account.limit(groups), self._stopped))
        finally:
            self._record_reports()

    def _measure_pace(self) -> None:
        """One short run, so that a budget in hours can be compared with costs in FLOPs."""
        if self.account.budget.seconds is not None and not self.account.pace:
            self._run([[TrialSpec(self.plain, 0, self.settings.budget / 4)]], "pace")

    # --- proposals

    def _proposals(self, request: AskProposals) -> list[Proposal]:
        entry, _ = self.journal.take(
            ProposalsEntry, lambda: self.allocator.propose(request, self.state)
        )
        self.tell(entry)
        return entry.proposals

    def _reveal_proposals(self) -> None:
        """Open the seals of what was decided."""
        known = {e.body.number for e in self.journal.ledger.entries(RevealEntry)}
        decided = {e.body.number for e in self.journal.ledger.entries(DecisionEntry)}
        for entry in list(self.journal.ledger.entries(ProposalsEntry)):
            for proposal in entry.body.proposals:
                if proposal.number in decided - known:
                    self.journal.aside(reveal(self.allocator.secret, proposal))

    def _reveal_plants(self) -> None:
        """At the end: everything that the registry could plant, with labels and salts."""
        if not any(self.journal.ledger.entries(PlantsEntry)):
            plants = reveal_plants(self.allocator.registry, self.allocator.secret.key)
            self.journal.aside(PlantsEntry(plants))

    # --- budget

    def _require_budget(self, flops: float, why: str) -> None:
        if not self.journal.replaying:
            self._stop_if_asked()
            self.account.require(flops, why)

    def _ask_budget(self, flops: float, why: str) -> bool:
        def make() -> AffordEntry:
            self._stop_if_asked()
            return AffordEntry(flops, why, self.account.pays(flops))

        return self.journal.take(AffordEntry, make)[0].paid

    def _stopped(self) -> str | None:
        self._record_reports()
        if self.folder.stop.exists():
            return "the file `stop` in its folder asks for it"
        if self.account.out_of_time:
            return f"the budget of {self.account.budget.text} is spent"
        return None

    def _stop_if_asked(self) -> None:
        if reason := self._stopped():
            raise Stopped(reason)

    # --- what workers report

    def report(self, entry: Body) -> None:
        """Write to the ledger as soon as it is free, and tell. From any thread."""
        self._reports.put(entry)

    def _record_reports(self) -> None:
        while not self._reports.empty():
            entry = self._reports.get()
            self.journal.aside(entry)
            self.tell(entry)
