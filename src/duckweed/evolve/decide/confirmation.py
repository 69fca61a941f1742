"""The confirmation of one proposal: announced beforehand, on seeds that nobody could choose.

Parent and child are trained in pairs on the same seed by the same worker, in turns; after every
pair the evidence is asked. Seeds follow from the proposal and the head of the ledger at its
announcement, so that neither a proposer nor a worker can look for lucky ones.
"""

import math

import msgspec

from duckweed.evolve.decide.requests import CampaignState, Record, RerunTrial, Steps, run_trials
from duckweed.evolve.entries import AnnouncementEntry, DecisionEntry
from duckweed.evolve.statistics.sequential import Evidence, Verdict, decision, interval
from duckweed.evolve.trial_spec import Proposal, Recipe, TrialSpec, digest, seed_of

TEST = "paired sequential t, duckweed.evolve.sequential"
"""The test as announcements name it: words of the ledger, which a replay compares."""


class _Pair(msgspec.Struct, frozen=True):
    """Parent and child on one seed."""

    parent: TrialSpec
    child: TrialSpec
    parent_first: bool  # every second pair begins with the child

    @property
    def group(self) -> list[TrialSpec]:
        both = [self.parent, self.child]
        return both if self.parent_first else both[::-1]


class _Confirmation(msgspec.Struct):
    """A confirmation under way."""

    proposal: Proposal
    parent: Recipe
    child: Recipe
    budget: float  # FLOPs of a run
    level: float  # alpha of this test
    most: int  # pairs at most
    head: str  # of the ledger at the announcement
    evidence: Evidence
    verdict: Verdict = "continue"
    pairs: list[_Pair] = []
    differences: list[float] = []  # parent's loss minus child's, -inf where the child diverged
    parent_diverged: int = 0

    def next_pairs(self, count: int) -> list[_Pair]:
        """Up to `count` more, on fresh seeds."""
        first = len(self.pairs)
        return [self._pair(i) for i in range(first, min(first + count, self.most))]

    def _pair(self, i: int) -> _Pair:
        name = digest(self.proposal)
        seed = seed_of(name, self.head, i)
        # The parent against itself on one seed would be the same run twice.
        same = self.child == self.parent
        other = seed_of(name, self.head, i, "child") if same else seed
        parent = TrialSpec(self.parent, seed, self.budget)
        return _Pair(parent, TrialSpec(self.child, other, self.budget), i % 2 == 0)

    def take(self, pair: _Pair, parent: float, child: float) -> None:
        """The losses of a pair; they are evidence unless the verdict has been reached before."""
        self.pairs.append(pair)
        if self.verdict != "continue":
            return
        if not math.isfinite(parent):  # such a pair says nothing; the next seed is taken
            self.parent_diverged += 1
            if len(self.pairs) >= self.most:
                self.verdict = "undecided"
            return
        self.differences.append(parent - child)
        self.evidence = self.evidence.update(parent - child)
        self.verdict = decision(self.evidence, self.level, self.most - self.parent_diverged)


def confirm(state: CampaignState, proposal: Proposal, together: int = 1) -> Steps[Evidence | None]:
    """The evidence where the child is accepted at the level that the ledger holds, else None.
    together: pairs at once."""
    test = yield from _announce(state, proposal)
    credit = state.credit(proposal.proposer)
    while test.verdict == "continue":
        pairs = test.next_pairs(together)
        results, added = yield from run_trials(state, [p.group for p in pairs], "confirmation")
        credit.spent += added
        for pair, row in zip(pairs, results, strict=True):
            parent, child = row if pair.parent_first else row[::-1]
            test.take(pair, parent.value, child.value)
    checked = None
    if test.verdict == "accepted":
        checked = yield from _check(state, test)
    accepted = bool(checked)
    state.spending = state.spending.record(accepted)
    credit.confirmations += 1
    yield Record(_decision(state, test, checked))
    return test.evidence if accepted else None


def _announce(state: CampaignState, proposal: Proposal) -> Steps[_Confirmation]:
    """Everything about the test goes into the ledger before its first run."""
    s = state.settings
    level = state.spending.level
    child = state.parent | proposal.difference
    margin = state.slope * math.log1p(s.margin)
    announced = AnnouncementEntry(
        number=proposal.number,
        parent=digest(state.parent),
        child=digest(child),
        commitment=proposal.commitment,
        test=TEST,
        level=level,
        margin=margin,
        pairs=s.pairs,
        budget=s.budget,
    )
    head = yield Record(announced)
    return _Confirmation(
        proposal, state.parent, child, s.budget, level, s.pairs, head, Evidence(margin)
    )


def _check(state: CampaignState, test: _Confirmation) -> Steps[bool]:
    """No worker confirms alone: one of the pairs, drawn from the head of the ledger, is run again
    by another worker, which must reach the same weights bit for bit."""
    drawn = test.pairs[seed_of("check", test.head) % len(test.pairs)]
    for trial in drawn.group:
        first, again = yield RerunTrial(trial)
        state.spent += again.flops
        if (first.weights, first.loss) != (again.weights, again.loss):
            return False
    return True


def _decision(state: CampaignState, test: _Confirmation, checked: bool | None) -> DecisionEntry:
    """The decision as the ledger has it; checked: whether the check agreed, None without one."""
    evidence = test.evidence
    low, high = (x if math.isfinite(x) else None for x in interval(evidence))
    assert test.verdict != "continue"
    return DecisionEntry(
        number=test.proposal.number,
        verdict=test.verdict,
        accepted=bool(checked),
        checked=checked,
        differences=[None if d == -math.inf else d for d in test.differences],
        parent_diverged=test.parent_diverged,
        e_value=evidence.e_value,
        mean=None if evidence.diverged or not evidence.pairs else evidence.mean,
        interval=(low, high),
        inert=evidence.inert,
        spent=state.spent,
    )
