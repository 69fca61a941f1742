"""What would have to change: one lever at a time, the cheapest combination, the largest model.

Every question is a search by bisection over whole plans, in a coarser space than the plan's own.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from duckweed.plan.inputs import assumptions, models
from duckweed.plan.inputs.crowd import Crowd
from duckweed.plan.inputs.models import Model
from duckweed.plan.report import Option
from duckweed.plan.search import DAY, Space, Target, default_space, evaluate, search

SITES = (2, 4, 8, 16, 32, 64)
"""Factors on the machines of a site that are tried."""
PRECISION = 0.02
"""Relative precision of a lever's factor."""


@dataclass(frozen=True)
class Lever:
    """factor: how much of it is needed (None: no amount within `limit` suffices); days: with that."""

    name: str
    what: str
    factor: float | None
    limit: float
    days: float
    means: str = ""


def coarse(target: Target, crowd: Crowd) -> Space:
    """A smaller space: fewer wires, steps, batches and limits; layouts are all kept."""
    space = default_space(target, crowd)
    names = ("bf16", "fp4", "integer-1.0", "integer-2.0", "sparse-64")
    kept = tuple(pair for pair in space.paths if pair[0].name in names and pair[1] != "gather")
    return replace(space, paths=kept, steps=(1, 30, 100, 500), micro=(1, 16, 256, 1024))


def days(target: Target, crowd: Crowd, fixed: dict[str, float] | None = None) -> float:
    """The fastest plan at the medians, in days; infinite if there is none."""
    found = search(target, crowd, assumptions.medians(**(fixed or {})), coarse)
    return float(found.seconds.min()) / DAY if found.seconds.size else math.inf


def smallest(possible: Callable[[float], bool], limit: float) -> float | None:
    """The smallest factor in [1, limit] for which it is possible, by bisection on its logarithm."""
    if possible(1.0):
        return 1.0
    if not possible(limit):
        return None
    low, high = 0.0, math.log(limit)
    while high - low > math.log1p(PRECISION):
        middle = (low + high) / 2
        low, high = (low, middle) if possible(math.exp(middle)) else (middle, high)
    return math.exp(high)


def shrunk(model: Model, factor: float) -> Model:
    """The model with all its sizes divided by the factor, in usual proportions."""
    shape = model.shape
    small = models.by_hand(
        f"{shape.name}/{factor:.3g}",
        shape.total / factor,
        shape.active / factor,
        context=model.context,
    )
    return replace(small, tokens=model.tokens, batch=model.batch)


Change = Callable[[float], tuple[Target, Crowd, dict[str, float]]]


def changes(
    target: Target, crowd: Crowd, fixed: dict[str, float]
) -> list[tuple[str, str, float, Change]]:
    """Name, meaning, limit and effect of each lever."""

    def scaled(name: str) -> Change:
        return lambda k: (target, crowd.scaled(**{name: k}), fixed)

    def less(name: str) -> Change:
        base = fixed.get(name, 1.0)
        return lambda k: (target, crowd, {**fixed, name: base / k})

    smallest_model = max(1.0, min(1e4, target.model.shape.active / 5e6))
    found: list[tuple[str, str, float, Change]] = [
        ("machines", "more machines of the same kinds", 1e3, scaled("machines")),
        ("link", "faster links, both ways", 1e5, scaled("link")),
        ("memory", "more memory in each machine, device and main", 1e3, scaled("memory")),
        ("speed", "faster devices", 1e3, scaled("speed")),
        ("latency", "shorter delays", 1e3, scaled("latency")),
        ("site", "more machines at each site, same local network and link", 1e3, scaled("site")),
        ("exchange bits", "fewer bits per contribution at the same loss", 1e4, less("bits_factor")),
        (
            "stage bits",
            "fewer bits between stages and experts at the same loss",
            1e5,
            less("traffic_factor"),
        ),
        (
            "model",
            "a smaller model of usual proportions on the same tokens",
            smallest_model,
            lambda k: (replace(target, model=shrunk(target.model, k)), crowd, fixed),
        ),
        (
            "tokens",
            "fewer tokens",
            1e4,
            lambda k: (replace(target, tokens=target.tokens / k), crowd, fixed),
        ),
    ]
    return found


def levers(
    target: Target, crowd: Crowd, deadline: float, fixed: dict[str, float] | None = None
) -> list[Lever]:
    """For a deadline in days: how far each lever alone must go. The smallest factor comes first."""
    result = []
    for name, what, limit, change in changes(target, crowd, fixed or {}):
        if name == "site":
            result.append(sites(what, change, deadline, target, crowd))
            continue
        factor = smallest(lambda k, change=change: days(*change(k)) <= deadline, limit)  # type: ignore[misc]
        reached = factor or limit
        got = days(*change(reached))
        result.append(Lever(name, what, factor, limit, got, meaning(name, reached, target, crowd)))
    return sorted(result, key=lambda lever: lever.factor or math.inf)


def sites(what: str, change: Change, deadline: float, target: Target, crowd: Crowd) -> Lever:
    """Machines per site, tried one by one: more of them share one link, so more is not always faster."""
    tried = {float(k): days(*change(float(k))) for k in SITES}
    enough = [k for k, got in tried.items() if got <= deadline]
    factor = min(enough) if enough else min(tried, key=lambda k: tried[k])
    found = factor if enough else None
    return Lever(
        "site", what, found, SITES[-1], tried[factor], meaning("site", factor, target, crowd)
    )


def meaning(name: str, factor: float, target: Target, crowd: Crowd) -> str:
    """What a factor comes to in the crowd's own numbers."""
    group = crowd.groups[0]
    if name == "machines":
        return f"{crowd.machines * factor:,.0f} machines"
    if name == "link":
        return f"{group.up * factor / 1e6:,.0f} Mbit/s up"
    if name == "memory":
        return f"{group.device.memory * group.cards * factor / 1e9:,.0f} GB each"
    if name == "speed":
        return f"{group.rate(target.precision) * factor / 1e12:,.0f} TFLOP/s each"
    if name == "latency":
        return f"{group.latency / factor * 1e3:.3g} ms"
    if name == "site":
        return f"{group.site * factor:,.0f} machines a site"
    if name == "model":
        return f"{target.model.shape.total / factor / 1e9:.3g}B parameters"
    if name == "tokens":
        return f"{target.tokens / factor / 1e9:,.0f}B tokens"
    return f"1/{factor:,.3g} of the bits"


@dataclass(frozen=True)
class Combination:
    """Factors on machines, link and memory per machine that together reach the deadline."""

    machines: float
    link: float
    memory: float
    days: float


def combination(
    target: Target,
    crowd: Crowd,
    deadline: float,
    fixed: dict[str, float] | None = None,
    most: int = 12,
) -> Combination | None:
    """The fewest doublings of machines, link and memory in all that reach the deadline, at most
    `most`; every doubling counts the same, whatever it costs where you are."""
    for total in range(most + 1):
        for parts in itertools.product(range(total + 1), repeat=2):
            if sum(parts) > total:
                continue
            factors = (2.0 ** parts[0], 2.0 ** parts[1], 2.0 ** (total - sum(parts)))
            changed = crowd.scaled(machines=factors[0], link=factors[1], memory=factors[2])
            got = days(target, changed, fixed)
            if got <= deadline:
                return Combination(*factors, got)
    return None


@dataclass(frozen=True)
class Largest:
    """The largest compute-optimal dense model for a crowd and a time."""

    parameters: float
    tokens: float
    days: float
    strategy: str


def largest(
    target: Target, crowd: Crowd, deadline: float, fixed: dict[str, float] | None = None
) -> Largest | None:
    """Dense, 20 tokens a parameter, by bisection on its size; None if not even 10M parameters fit."""

    def goal(size: float) -> Target:
        return replace(
            target, model=models.dense(size, context=target.model.context), tokens=20 * size
        )

    def possible(factor: float) -> bool:
        return days(goal(1e13 / factor), crowd, fixed) <= deadline

    factor = smallest(possible, 1e6)
    if factor is None:
        return None
    best = goal(1e13 / factor)
    found = search(best, crowd, assumptions.medians(**(fixed or {})), coarse)
    index = found.best()
    assert index is not None
    strategy = found.space.layouts[index[1]].strategy
    return Largest(best.model.shape.total, best.tokens, float(found.seconds.min()) / DAY, strategy)


@dataclass(frozen=True)
class Bar:
    """Days of the chosen plan with one input at its low and at its high value."""

    name: str
    low: float
    high: float
    days_low: float
    days_high: float

    @property
    def swing(self) -> float:
        return abs(self.days_high - self.days_low)


def sensitivity(option: Option, fixed: dict[str, float] | None = None) -> list[Bar]:
    """The plan with each uncertain input at its 10 % and 90 % value; the widest first."""
    assert option.space is not None
    assert option.evaluation is not None
    ranges = [r for r in assumptions.ranges().values() if r.name not in (fixed or {})]
    width = len(ranges)
    values: dict[str, float | np.ndarray] = {}
    for name, median in assumptions.medians(**(fixed or {})).items():
        values[name] = np.full(2 * width, float(median))
    for position, given in enumerate(ranges):
        column = np.asarray(values[given.name])
        column[position], column[width + position] = given.low, given.high
    ev = evaluate(option.evaluation.target, option.evaluation.crowd, option.space, values)
    result = np.broadcast_to(ev.seconds.ravel() / DAY, (2 * width,))
    bars = [
        Bar(r.name, r.low, r.high, float(result[i]), float(result[width + i]))
        for i, r in enumerate(ranges)
    ]
    moved = [bar for bar in bars if bar.swing > 1e-9]
    return sorted(moved, key=lambda bar: -bar.swing)
