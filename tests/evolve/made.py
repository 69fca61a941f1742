"""A made-up world with known effects, in which the real decision core and the real ledger run."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from duckweed.evolve.campaign.budget import Budget
from duckweed.evolve.campaign.folder import Campaign
from duckweed.evolve.campaign.journal import Journal
from duckweed.evolve.campaign.loop import Loop
from duckweed.evolve.decide.campaign import begin, campaign
from duckweed.evolve.decide.requests import (
    Afford,
    Allowed,
    Ask,
    Check,
    Need,
    Note,
    Run,
    Settings,
    Standing,
)
from duckweed.evolve.decide.trial_spec import Cell, Proposal, Recipe, Result, digest
from duckweed.evolve.entries import CampaignEntry
from duckweed.evolve.propose.allocation import Council, opened
from duckweed.evolve.propose.proposers import Chance, Evolution, KnownChanges
from duckweed.evolve.space.commitments import Sealed
from duckweed.evolve.space.registry import Known, Registry, Switch
from duckweed.evolve.space.signed_registry import release
from duckweed.evolve.workers.pool import Stopped

SLOPE, NOISE = 0.5, 0.01  # bits per byte per e-fold of compute; sd of one run in bits per byte

REGISTRY = Registry(
    switches=(
        Switch("inner.learning_rate", "log", 1e-4, 1.0),
        Switch("inner.batch", "int", 1, 64),
        Switch("good", "choice", values=(False, True)),
        Switch("better", "choice", values=(False, True)),
        Switch("small", "choice", values=(False, True)),
        Switch("null", "linear", 0.0, 1.0),
        Switch("bad", "choice", values=(False, True)),
        Switch("awful", "choice", values=(False, True)),
    ),
    known=(Known("good", {"good": True}), Known("better", {"better": True})),
    nulls=(Known("null", {"null": 0.5}), Known("null", {"null": 0.25})),
    harms=(Known("bad", {"bad": True}), Known("awful", {"awful": True})),
)
PLAIN: Recipe = {"inner.learning_rate": 0.01, "inner.batch": 8, "null": 0.0}
SETTINGS = Settings(
    budget=1e9, pilot=6, pairs=10, candidates=4, vault_seeds=2, planned=12, plant=0.5, seed=1
)


def gain(recipe: Recipe) -> float:
    """What a recipe is truly worth, in ln compute over the best plain one."""
    found = -0.2 * math.log2(float(recipe["inner.learning_rate"]) / 0.02) ** 2
    found -= 0.05 * math.log2(float(recipe["inner.batch"]) / 4) ** 2
    for key, worth in (("good", 0.4), ("better", 0.3), ("small", 0.05), ("bad", -0.3)):
        found += worth * bool(recipe.get(key))
    return found


def run(cell: Cell) -> Result:
    """A run of the made-up world: the same cell gives the same loss."""
    rng = random.Random(f"{cell.id}")
    common = random.Random(f"{cell.seed}").gauss(0, NOISE)  # what parent and child share
    loss = 4 - SLOPE * (math.log(cell.budget * cell.size / 1e9) + gain(cell.recipe))
    diverges = bool(cell.recipe.get("awful"))
    return Result(
        None if diverges else loss + common + rng.gauss(0, NOISE),
        flops=1.1 * cell.budget,
        weights=digest(cell),
        reason="diverged" if diverges else "",
        seconds=1.0,
    )


class MadeWorkers:
    """Stands where the pool stands. breaks: number of runs after which it is interrupted; lies:
    what a worker other than the first says of a cell."""

    def __init__(
        self, breaks: int | None = None, lies: Callable[[Result], Result] | None = None
    ) -> None:
        self.breaks, self.lies, self.done = breaks, lies, 0
        self.failed = None

    def is_guest(self, number: int) -> bool:
        return False

    def run(self, groups, done, stopped, limit, avoid=None):  # type: ignore[no-untyped-def]
        for group in groups:
            for cell in group:
                if reason := stopped():
                    raise Stopped(reason)
                if self.done == self.breaks:
                    raise Stopped("interrupted")
                self.done += 1
                result = run(cell)
                if avoid is not None and self.lies:
                    result = self.lies(result)
                done(cell, result)


class MadeGuest(MadeWorkers):
    """Every second group is run by a guest, number 9, until it is expelled. tells: what it makes
    of a result."""

    def __init__(self, tells: Callable[[Result], Result] = lambda result: result) -> None:
        super().__init__()
        self.tells, self.expelled, self.here = tells, False, 0

    def is_guest(self, number: int) -> bool:
        return number == 9

    def expel(self, number: int) -> None:
        self.expelled = True

    def run(self, groups, done, stopped, limit, avoid=None, own=False):  # type: ignore[no-untyped-def]
        def told(cell: Cell, result: Result) -> None:
            done(cell, msgspec.structs.replace(self.tells(result), worker=9))

        for place, group in enumerate(groups):
            guests = not (own or avoid or self.expelled) and place % 2 == 0
            self.here += own
            super().run([group], told if guests else done, stopped, limit)


def loop(
    path: Path, budget: Budget, workers: MadeWorkers | None = None, settings: Settings = SETTINGS
) -> Loop:
    """A campaign in the made-up world, new or to be gone on with."""
    path.mkdir(exist_ok=True)
    folder = Campaign(path)
    if not folder.secret.exists():
        folder.secret.write_bytes(bytes(31) + bytes([settings.seed]))
    journal = Journal(path)
    made = release(REGISTRY, Sealed.open(folder.secret).secret)
    genesis = CampaignEntry(journal.key, msgspec.to_builtins(settings), list(made.commitments))
    journal.take(CampaignEntry, lambda: genesis)
    proposers = [KnownChanges(REGISTRY), Chance(REGISTRY), Evolution(REGISTRY)]
    council = Council(REGISTRY, proposers, Sealed.open(folder.secret), lambda recipe: None)
    pool: object = workers or MadeWorkers()
    return Loop(folder, journal, pool, council, settings, PLAIN, budget, 1)  # type: ignore[arg-type]


class Verdict(msgspec.Struct):
    """What became of a proposal that was decided: what its seal held, and whether it passed."""

    kind: str
    accepted: bool


def decide(settings: Settings, flops: float) -> tuple[Standing, list[Verdict]]:
    """The bare decision core until so many FLOPs are spent, without ledger or disk."""
    standing = begin(settings)
    sealed = Sealed(bytes(31) + bytes([settings.seed]))
    proposers = [KnownChanges(REGISTRY), Chance(REGISTRY), Evolution(REGISTRY)]
    council = Council(REGISTRY, proposers, sealed, lambda recipe: None)
    results: dict[str, Result] = {}
    kinds: dict[int, str] = {}
    verdicts: list[Verdict] = []
    steps, answer, head = campaign(standing, PLAIN), None, ""
    while True:
        match steps.send(answer):
            case Run(groups, _):
                for cell in (cell for group in groups for cell in group):
                    results.setdefault(cell.id, run(cell))
                answer = [[results[cell.id] for cell in group] for group in groups]
            case Check(cell):
                answer = (results[cell.id], run(cell))
            case Ask() as ask:
                found = council.propose(ask, standing)["proposals"]
                answer = msgspec.convert(msgspec.to_builtins(found), list[Proposal])
                kinds |= {p.number: opened(sealed, REGISTRY, p)["kind"] for p in answer}
            case Allowed(recipes):
                answer = [True for _ in recipes]
            case Note(kind, body):
                answer = head = digest([head, kind, body])
                if kind == "decision":
                    verdicts.append(Verdict(kinds[body["number"]], body["accepted"]))
            case Afford(wanted, _):
                answer = wanted * standing.overhead <= flops - standing.spent
            case Need(needed, _):
                answer = None
                if needed * standing.overhead > flops - standing.spent:
                    return standing, verdicts
