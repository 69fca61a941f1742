"""What a campaign asks of the world, and what it knows: the seam between deciding and doing.

The phases of a campaign are generators: they yield one of these requests, are sent the answer, and
touch neither clock nor disk nor chance. The loop (`duckweed.evolve.campaign.loop`) answers with
processes and a ledger, tests with numbers.
"""

from collections.abc import Generator
from typing import Any, TypeVar

import msgspec

from duckweed.evolve.statistics.spending import Spending
from duckweed.evolve.trial_spec import Recipe, TrialResult, TrialSpec
from duckweed.ledger.entries import Body


class RunTrials(msgspec.Struct, frozen=True):
    """Run trials. Answer: lists of TrialResult in the same shape."""

    groups: list[list[TrialSpec]]  # those of one group on one worker, one after the other
    purpose: str  # for the ledger


class RerunTrial(msgspec.Struct, frozen=True):
    """Run a finished trial once more on a worker that did not run it. Answer: both TrialResults."""

    trial: TrialSpec


class AskProposals(msgspec.Struct, frozen=True):
    """Proposals for the parent. Answer: list of Proposal."""

    first: int  # number of the first one
    slots: int  # proposals at most
    planted: bool  # one planted proposal, or none, in place of the proposers'
    parent: Recipe


class AskAllowed(msgspec.Struct, frozen=True):
    """Which of these recipes are within the bounds of the campaign. Answer: list of bool. It follows
    from the recipes alone, so that the ledger need not keep it."""

    recipes: list[Recipe]


class Record(msgspec.Struct, frozen=True):
    """Write a decision into the ledger. Answer: the ledger's head after it."""

    entry: Body


class RequireBudget(msgspec.Struct, frozen=True):
    """Go on only if these FLOPs are left; else the campaign ends here. Answer: None."""

    flops: float
    why: str


class AskBudget(msgspec.Struct, frozen=True):
    """Whether these FLOPs are left for something that may also be left out. Answer: bool, which
    the ledger keeps: what was left then does not follow from the entries."""

    flops: float
    why: str


UNMEASURED = 1.5  # overhead of evaluation assumed before any run; small models pay most

Request = RunTrials | RerunTrial | AskProposals | AskAllowed | Record | RequireBudget | AskBudget
T = TypeVar("T")
Steps = Generator[Request, Any, T]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a campaign decides. The names stand in ledgers and in `--set`."""

    budget: float = 3e11  # training FLOPs of a reference trial
    alpha: float = 0.05  # false discovery rate of the campaign
    planned: int = 20  # confirmations that alpha is spent over
    pilot: int = 8  # pairs of the A/A pilot
    pairs: int = 12  # most pairs of a confirmation
    candidates: int = 8  # screened for each confirmation; 0: only planted ones are confirmed
    margin: float = 0.01  # share of compute by which a child must be better
    scale: int = 2  # times the size, in the scale check
    scale_pairs: int = 2  # its pairs
    vault_seeds: int = 5  # of the final comparison, for each recipe and budget
    vault_shares: tuple[float, ...] = (0.5, 1.0, 2.0)  # its budgets over `budget`, for both recipes
    prune_every: int = 3  # generations between leave-one-outs
    plant: float = 0.25  # share of rounds that begin with a planted proposal
    rates: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)  # factors that generation 0 is tuned over
    rate: str = "inner.learning_rate"  # the key that `rates` scales
    batch: str = "inner.batch"  # the key that is halved and doubled after it
    seed: int = 0

    def __post_init__(self) -> None:
        least = {
            "planned": 1, "pilot": 4, "pairs": 2, "candidates": 0, "scale": 1, "scale_pairs": 1,
            "vault_seeds": 2, "prune_every": 1,
        }  # fmt: skip
        for name, low in least.items():
            if not low <= getattr(self, name) <= 10_000:
                raise ValueError(f"{name} = {getattr(self, name)}: from {low} to 10000")
        if not 0 < self.budget < 1e24:
            raise ValueError(f"budget = {self.budget:g} FLOPs: more than 0, less than 1e24")
        for name in ("alpha", "margin", "plant"):
            if not 0 <= getattr(self, name) <= 1 or (name == "alpha" and self.alpha in (0, 1)):
                raise ValueError(f"{name} = {getattr(self, name)}: a share, from 0 to 1")
        if not self.rates or not all(0 < x < 1e6 for x in self.rates):
            raise ValueError(f"rates = {list(self.rates)}: factors of the learning rate, above 0")
        if len(self.vault_shares) < 3 or not all(0 < x <= 16 for x in self.vault_shares):
            raise ValueError("vault_shares: at least three shares of the budget, each up to 16")
        if not self.candidates and self.plant < 1:
            raise ValueError(
                "candidates = 0 screens nothing, which makes sense with plant = 1 only: a campaign "
                "that tests its own honesty"
            )


class ScreeningResult(msgspec.Struct, frozen=True):
    """What the last rung showed of a proposal: one run of the child and one of the parent."""

    number: int  # of the proposal
    difference: Recipe
    proposer: str
    share: float  # of the reference budget
    gain: float  # how much lower the child's loss was; -inf: it diverged
    generation: int


class Credit(msgspec.Struct):
    """What a proposer cost and brought."""

    spent: float = 0.0  # FLOPs of screening, confirmation and scale check
    gain: float = 0.0  # confirmed, in ln compute
    proposals: int = 0
    confirmations: int = 0
    adopted: int = 0


class CampaignState(msgspec.Struct):
    """All that a campaign knows."""

    settings: Settings
    zero: Recipe  # the tuned generation 0
    parent: Recipe  # the recipe in force
    spending: Spending
    generation: int = 0
    screenings: int = 0  # rounds of screening so far
    empty_rounds: int = 0  # the last ones in a row in which nothing new was proposed
    proposals: int = 0  # numbers given out
    slope: float = 0.0  # bits per byte per e-fold of compute
    noise: float = 0.0  # sd of a pair of the pilot
    spent: float = 0.0  # FLOPs of every run so far
    nominal: float = 0.0  # training budgets of the same runs
    seen: set[str] = msgspec.field(default_factory=set)  # ids of trials whose FLOPs are counted
    screened: list[ScreeningResult] = msgspec.field(default_factory=list)
    credits: dict[str, Credit] = msgspec.field(default_factory=dict)  # by proposer
    tried: set[str] = msgspec.field(default_factory=set)  # recipes of this generation, as digests

    def cost(self, trials: list[TrialSpec], results: list[TrialResult]) -> float:
        """Count the FLOPs of runs not yet counted; returns what was added."""
        added = 0.0
        for trial, result in zip(trials, results, strict=True):
            if trial.id not in self.seen:
                self.seen.add(trial.id)
                added += result.flops
                self.nominal += trial.budget
        self.spent += added
        return added

    @property
    def overhead(self) -> float:
        """FLOPs of a run, evaluation included, over its training budget."""
        return self.spent / self.nominal if self.nominal else UNMEASURED

    def credit(self, proposer: str) -> Credit:
        return self.credits.setdefault(proposer, Credit())


def run_trials(
    state: CampaignState, groups: list[list[TrialSpec]], purpose: str
) -> Steps[tuple[list[list[TrialResult]], float]]:
    """Run and count; returns results and the FLOPs that were not spent before."""
    results = yield RunTrials(groups, purpose)
    trials = [trial for group in groups for trial in group]
    flat = [result for group in results for result in group]
    return results, state.cost(trials, flat)
