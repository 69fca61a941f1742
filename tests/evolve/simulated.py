"""A simulated world with known effects, in which the real decision core and the real ledger run."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from duckweed.evolve.budget import Budget
from duckweed.evolve.campaign.create import OpenCampaign
from duckweed.evolve.campaign.journal import Journal
from duckweed.evolve.campaign.loop import Loop
from duckweed.evolve.decide.campaign import begin, campaign
from duckweed.evolve.decide.requests import (
    AskAllowed,
    AskBudget,
    AskProposals,
    CampaignState,
    Record,
    RequireBudget,
    RerunTrial,
    RunTrials,
    Settings,
)
from duckweed.evolve.entries import CampaignEntry, DecisionEntry
from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.propose.allocation import Allocator, reveal
from duckweed.evolve.propose.proposers import EvolutionarySearch, KnownChanges, RandomSearch
from duckweed.evolve.space.commitments import CampaignSecret
from duckweed.evolve.space.registry import KnownChange, Registry, Switch
from duckweed.evolve.space.signed_registry import release
from duckweed.evolve.trial_spec import Recipe, TrialResult, TrialSpec, digest
from duckweed.evolve.workers.pool import Batch, Stopped

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
    known=(KnownChange("good", {"good": True}), KnownChange("better", {"better": True})),
    nulls=(KnownChange("null", {"null": 0.5}), KnownChange("null", {"null": 0.25})),
    harms=(KnownChange("bad", {"bad": True}), KnownChange("awful", {"awful": True})),
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


def run(trial: TrialSpec) -> TrialResult:
    """A run of the simulated world: the same trial gives the same loss."""
    rng = random.Random(f"{trial.id}")
    common = random.Random(f"{trial.seed}").gauss(0, NOISE)  # what parent and child share
    loss = 4 - SLOPE * (math.log(trial.budget * trial.size / 1e9) + gain(trial.recipe))
    diverges = bool(trial.recipe.get("awful"))
    return TrialResult(
        None if diverges else loss + common + rng.gauss(0, NOISE),
        flops=1.1 * trial.budget,
        weights=digest(trial),
        reason="diverged" if diverges else "",
        seconds=1.0,
    )


class SimulatedPool:
    """In the place of a pool. breaks: number of runs after which it is interrupted; lies: what a
    worker other than the first says of a trial."""

    def __init__(
        self,
        breaks: int | None = None,
        lies: Callable[[TrialResult], TrialResult] | None = None,
    ) -> None:
        self.breaks, self.lies, self.done = breaks, lies, 0
        self.failed: object = None

    def is_remote(self, number: int) -> bool:
        return False

    def run(self, batch: Batch, avoid: int | None = None, own: bool = False) -> None:
        for trial in (trial for group in batch.groups for trial in group):
            if reason := batch.stopped():
                raise Stopped(reason)
            if self.done == self.breaks:
                raise Stopped("interrupted")
            self.done += 1
            result = run(trial)
            if avoid is not None and self.lies:
                result = self.lies(result)
            batch.done(trial, result)


class SimulatedRemote(SimulatedPool):
    """Every second group is run by a remote worker, number 9, until it is expelled. tells: what it
    makes of a result."""

    def __init__(self, tells: Callable[[TrialResult], TrialResult] = lambda result: result) -> None:
        super().__init__()
        self.tells, self.expelled, self.here = tells, False, 0

    def is_remote(self, number: int) -> bool:
        return number == 9

    def expel(self, number: int) -> None:
        self.expelled = True

    def run(self, batch: Batch, avoid: int | None = None, own: bool = False) -> None:
        def told(trial: TrialSpec, result: TrialResult) -> None:
            batch.done(trial, msgspec.structs.replace(self.tells(result), worker=9))

        for place, group in enumerate(batch.groups):
            remote = not (own or avoid or self.expelled) and place % 2 == 0
            self.here += own
            one = replace(batch, groups=[group], done=told if remote else batch.done)
            super().run(one, avoid)


def loop(
    path: Path, budget: Budget, workers: SimulatedPool | None = None, settings: Settings = SETTINGS
) -> Loop:
    """A campaign in the simulated world, new or to be resumed."""
    path.mkdir(exist_ok=True)
    folder = CampaignFolder(path)
    if not folder.secret.exists():
        folder.secret.write_bytes(bytes(31) + bytes([settings.seed]))
    journal = Journal(path)
    secret = CampaignSecret.open(folder.secret)
    plants = list(release(REGISTRY, secret.key).commitments)
    genesis = CampaignEntry(journal.key, msgspec.to_builtins(settings), plants)
    journal.take(CampaignEntry, lambda: genesis)
    opened = OpenCampaign(folder, journal, settings, REGISTRY, PLAIN)
    pool: object = workers or SimulatedPool()
    return Loop(opened, pool, allocator(secret), budget, 1)  # type: ignore[arg-type]


def allocator(secret: CampaignSecret) -> Allocator:
    proposers = [KnownChanges(REGISTRY), RandomSearch(REGISTRY), EvolutionarySearch(REGISTRY)]
    return Allocator(REGISTRY, proposers, secret, lambda recipe: None)


class Verdict(msgspec.Struct):
    """What became of a proposal that was decided: what its seal held, and whether it passed."""

    kind: str
    accepted: bool


def decide(settings: Settings, flops: float) -> tuple[CampaignState, list[Verdict]]:
    """The bare decision core until so many FLOPs are spent, without ledger or disk."""
    state = begin(settings)
    secret = CampaignSecret(bytes(31) + bytes([settings.seed]))
    proposers = allocator(secret)
    results: dict[str, TrialResult] = {}
    kinds: dict[int, str] = {}
    verdicts: list[Verdict] = []
    steps, answer, head = campaign(state, PLAIN), None, ""
    while True:
        match steps.send(answer):
            case RunTrials(groups, _):
                for trial in (trial for group in groups for trial in group):
                    results.setdefault(trial.id, run(trial))
                answer = [[results[trial.id] for trial in group] for group in groups]
            case RerunTrial(trial):
                answer = (results[trial.id], run(trial))
            case AskProposals() as ask:
                answer = proposers.propose(ask, state).proposals
                kinds |= {p.number: reveal(secret, p).label for p in answer}
            case AskAllowed(recipes):
                answer = [True for _ in recipes]
            case Record(entry):
                answer = head = digest([head, entry.kind, msgspec.to_builtins(entry)])
                if isinstance(entry, DecisionEntry):
                    verdicts.append(Verdict(kinds[entry.number], entry.accepted))
            case AskBudget(wanted, _):
                answer = wanted * state.overhead <= flops - state.spent
            case RequireBudget(needed, _):
                answer = None
                if needed * state.overhead > flops - state.spent:
                    return state, verdicts
