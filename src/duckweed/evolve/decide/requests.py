"""What a campaign asks of the world, and what it knows: the seam between deciding and doing.

The phases of a campaign are generators: they yield one of these requests, are sent the answer, and
touch neither clock nor disk nor chance. The loop (`duckweed.evolve.campaign.loop`) answers with processes
and a ledger, tests and the simulation study with numbers.
"""

from collections.abc import Generator
from typing import Any, TypeVar

import msgspec

from duckweed.evolve.decide.trial_spec import Cell, Recipe, Result
from duckweed.evolve.statistics.spending import Spending


class Run(msgspec.Struct, frozen=True):
    """Run the cells; those of one group on one worker, one after the other. Answer: list of lists
    of Result in the same shape."""

    groups: list[list[Cell]]
    purpose: str


class Check(msgspec.Struct, frozen=True):
    """Run a finished cell once more on a worker that did not run it. Answer: Result."""

    cell: Cell


class Ask(msgspec.Struct, frozen=True):
    """Proposals for the parent. Answer: list of Proposal, numbered from `first`."""

    first: int
    slots: int
    planted: bool
    parent: Recipe


class Allowed(msgspec.Struct, frozen=True):
    """Which of these recipes may be run: within the bounds of the campaign. Answer: list of bool;
    it follows from the recipes alone, so that the ledger need not keep it."""

    recipes: list[Recipe]


class Note(msgspec.Struct, frozen=True):
    """Write a decision into the ledger. Answer: the ledger's head after it."""

    kind: str
    body: dict[str, Any]


class Need(msgspec.Struct, frozen=True):
    """Go on only if so many FLOPs are left; else the campaign ends here. Answer: None."""

    flops: float
    why: str


class Afford(msgspec.Struct, frozen=True):
    """Whether so many FLOPs are left for something that may also be left out. Answer: bool, which
    the ledger keeps: what was left then cannot be told from the entries alone."""

    flops: float
    why: str


UNMEASURED = 1.5  # overhead of evaluation supposed before any run; small models pay most

Request = Run | Check | Ask | Allowed | Note | Need | Afford
T = TypeVar("T")
Steps = Generator[Request, Any, T]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a campaign decides. budget: FLOPs of a reference run; alpha: false discovery rate of the
    campaign; planned: confirmations it is spent over; pilot, pairs: pairs of the A/A pilot, most
    pairs of a confirmation; candidates: screened for each,
    0: nothing but what is planted; margin: what a child must be better by,
    as a share of compute; scale, scale_pairs: times the size of the scale check, and its pairs;
    vault_seeds: per cell of the vault; vault_shares: its budgets over `budget`, at which both
    recipes run (generation 0 at larger ones too, as far as it takes); prune_every:
    generations between prunings; plant: share of rounds in which a planted proposal goes straight
    to confirmation; rates: factors of the learning rate that generation 0 is tuned over."""

    budget: float = 3e11
    alpha: float = 0.05
    planned: int = 20
    pilot: int = 8
    pairs: int = 12
    candidates: int = 8
    margin: float = 0.01
    scale: int = 2
    scale_pairs: int = 2
    vault_seeds: int = 5
    vault_shares: tuple[float, ...] = (0.5, 1.0, 2.0)
    prune_every: int = 3
    plant: float = 0.25
    rates: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
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


class Screened(msgspec.Struct, frozen=True):
    """What screening saw of a proposal: share of the reference budget at its last rung, and how
    much lower its loss was than the parent's there (one run each; -inf: it diverged)."""

    number: int
    difference: Recipe
    proposer: str
    share: float
    gain: float
    generation: int


class Credit(msgspec.Struct):
    """What a proposer cost and brought: FLOPs of screening and confirmation, confirmed gain in ln
    compute, proposals, confirmed and adopted ones."""

    spent: float = 0.0
    gain: float = 0.0
    proposals: int = 0
    confirmations: int = 0
    adopted: int = 0


class Standing(msgspec.Struct):
    """All that a campaign knows. zero: the tuned generation 0; parent: the recipe in force; slope:
    bits per byte per e-fold of compute; spent: FLOPs of every run so far."""

    settings: Settings
    zero: Recipe
    parent: Recipe
    spending: Spending
    generation: int = 0
    wave: int = 0
    barren: int = 0  # waves without anything new, one after the other
    proposals: int = 0
    slope: float = 0.0
    noise: float = 0.0
    spent: float = 0.0
    nominal: float = 0.0  # training budgets of the same runs
    seen: set[str] = msgspec.field(default_factory=set)
    screened: list[Screened] = msgspec.field(default_factory=list)
    credits: dict[str, Credit] = msgspec.field(default_factory=dict)
    tried: set[str] = msgspec.field(default_factory=set)

    def cost(self, cells: list[Cell], results: list[Result]) -> float:
        """Count FLOPs of runs not yet counted; returns what was added."""
        added = 0.0
        for cell, result in zip(cells, results, strict=True):
            if cell.id not in self.seen:
                self.seen.add(cell.id)
                added += result.flops
                self.nominal += cell.budget
        self.spent += added
        return added

    @property
    def overhead(self) -> float:
        """FLOPs of a run, evaluation included, over its training budget."""
        return self.spent / self.nominal if self.nominal else UNMEASURED

    def credit(self, proposer: str) -> Credit:
        return self.credits.setdefault(proposer, Credit())


def run(
    standing: Standing, groups: list[list[Cell]], purpose: str
) -> Steps[tuple[list[list[Result]], float]]:
    """Run and count; returns results and the FLOPs that were not spent before."""
    results = yield Run(groups, purpose)
    cells = [cell for group in groups for cell in group]
    flat = [result for group in results for result in group]
    return results, standing.cost(cells, flat)
