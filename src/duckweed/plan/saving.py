"""What a budget of bytes (`--saving`, `rounds.saving`) comes to for a model and a crowd: how many rounds, how long each
is, what a machine sends and fetches, and how long exchange takes."""

import math
from dataclasses import dataclass, replace

import numpy as np

from duckweed.plan.errors import PlanError
from duckweed.plan.exchange import find
from duckweed.plan.inputs import assumptions
from duckweed.plan.inputs.crowd import Crowd
from duckweed.plan.report import SAMPLES, Interval, Option, first, scalar, traffic
from duckweed.plan.search import (
    DAY,
    Evaluation,
    Space,
    Target,
    default_space,
    evaluate,
    only,
    search,
)
from duckweed.run.defaults import BUDGET
from duckweed.run.registry import WIRES
from duckweed.run.schedule import WORTH, Schedule, within
from duckweed.run.spec import DEFAULT_WIRE

WIRE = "integer-1.0"
"""The row of wire.csv that is the wire of a run which says nothing of it."""
MOST = 1e6
"""As in a run's specification."""


@dataclass(frozen=True)
class Budget:
    """A run with a budget of bytes. saving: as asked; fewer: what is to be expected, since contributions are a
    little smaller than the rule of the rounds takes them to be; steps: of a replica over the run; sequences: of a replica's step; sent, fetched: bytes of a
    machine over the run; exchange: seconds of one; share: of the time, that exchange takes."""

    saving: float
    fewer: float
    rounds: int
    steps: int
    replicas: int
    sequences: int
    sent: float
    fetched: float
    exchange: float
    share: float
    days: Interval

    @property
    def schedule(self) -> Schedule:
        """How the steps are divided into rounds."""
        return Schedule(self.steps, self.rounds)


def check(saving: float) -> float:
    """Raises PlanError if no run can have it."""
    if not 1 <= saving <= MOST:
        raise PlanError(
            f"--saving {saving:g}: say how many times fewer bytes a machine is to send than with bf16 data "
            f"parallelism, between 1 and {MOST:,.0f}; `duckweed train` has {BUDGET['rounds.saving']:g}"
        )
    return saving


def budget(
    target: Target,
    crowd: Crowd,
    saving: float,
    fixed: dict[str, float] | None = None,
    seed: int = 0,
) -> Budget | None:
    """The fastest plan whose rounds follow from the budget; None where fewer than two replicas fit, so that
    nothing is exchanged.

    How long rounds are depends on the number of replicas, by what a ring all-reduce of as many sends. So it is
    searched twice: first with the length for very many, then with that for as many as were found."""
    steps, most, plan = per_round(saving, math.inf), math.inf, None
    for _ in range(2):
        plan = fastest(target, crowd, steps, most, fixed or {})
        if plan is None:
            return None
        most = scalar(plan.terms["count"])
        steps = per_round(saving, most)
    assert plan is not None
    samples = assumptions.sample(SAMPLES, seed, **(fixed or {}))
    spread = evaluate(target, plan.crowd, plan.space, samples)
    days = Interval.of(spread.seconds.ravel() / DAY)
    return told(Option("", days, space=plan.space, evaluation=plan, spread=spread), saving)


def fastest(
    target: Target, crowd: Crowd, steps: int, most: float, fixed: dict[str, float]
) -> Evaluation | None:
    """The fastest plan of two to `most` replicas that exchange every so many steps, at the medians; None if
    there is none."""

    def offered(target: Target, crowd: Crowd) -> Space:
        return space(target, crowd, steps, most)

    found = search(target, crowd, assumptions.medians(**fixed), offered)
    index = found.best(found.terms["count"][0] >= 2) if found.space.layouts else None
    if index is None:
        return None
    return evaluate(target, found.crowd, only(found.space, index), first(found))


def per_round(saving: float, peers: float) -> int:
    """Inner steps of a round: the budget says them, whatever the number of steps of the run."""
    many = 1_000_000
    schedule = within(saving, many, int(min(peers, many)), bits())
    return max(1, round(schedule.steps / schedule.rounds))


def bits() -> float:
    """Of a contribution and for each parameter, as the rule of the rounds has it."""
    wire = WIRES.find(DEFAULT_WIRE)
    return float(wire.expected_bits(wire.section()))


def space(target: Target, crowd: Crowd, steps: int, most: float) -> Space:
    """What may be chosen beside the budget: layouts, sequences a step, and up to `most` replicas, two at least."""
    whole = default_space(target, crowd, [find(WIRE)])
    caps = (*(x for x in whole.caps if 2 <= x < most), most)
    stores = tuple(pair for pair in whole.paths if pair[1] == "store")
    return replace(whole, paths=stores, steps=(steps,), late=(False,), caps=caps)


def told(option: Option, saving: float) -> Budget:
    """The figures of one plan."""
    plan, how, moved = option.evaluation, option.settings(), traffic(option)
    assert plan is not None
    assert moved is not None
    assert option.days is not None
    tokens = plan.target.tokens * scalar(plan.terms["penalty"])
    replicas, sequences = how["replicas"], how["sequences_per_step"]
    steps = max(1, math.ceil(tokens / (replicas * sequences * plan.target.model.context)))
    rounds = within(saving, steps, replicas, bits())
    sent = rounds.rounds * moved.sent
    used = [pool for pool in plan.pools if scalar(pool.terms["used"]) >= 1]
    exchange = max(scalar(pool.terms["exchange"]) for pool in used)
    return Budget(
        saving,
        ring(plan, option, replicas) * steps / sent,
        rounds.rounds,
        steps,
        replicas,
        sequences,
        sent,
        rounds.rounds * moved.fetched,
        exchange,
        exchange / moved.round,
        option.days,
    )


def ring(plan: Evaluation, option: Option, replicas: int) -> float:
    """Bytes that a machine would send in each step of bf16 data parallelism: 2 (M - 1) / M values of each
    parameter that it holds."""
    shard = max(float(np.ravel(pool.grid("shard"))[0]) for pool in plan.pools)
    return 2 * (replicas - 1) / replicas * WORTH / 8 * shard / option.layout.unit
