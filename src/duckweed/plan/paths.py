"""What a crowd can train as paths: K models of one layout, each on the text that is routed to it, of which
every machine holds one. No token crosses the internet, so that memory and links bind one path, not the whole.

A system of K paths of p parameters is worth a dense model of p K^a parameters. The exponent a is that of the
published and own measurements in tables/paths.csv: the least, the median and the largest of them. It is not
carried beyond the largest number of paths that was measured.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from duckweed.plan import report
from duckweed.plan.inputs import assumptions, models, table
from duckweed.plan.inputs.crowd import Crowd
from duckweed.plan.inverse import coarse, smallest
from duckweed.plan.penalty import PER_PARAMETER
from duckweed.plan.report import Interval, Option, Role, Traffic
from duckweed.plan.search import DAY, Space, Target, evaluate, only, search

SMALLEST, LARGEST = 1e7, 1e13
"""Parameters of a path, dense."""
TRIES = 5
"""With a shorter time each, until the median of the samples is within the deadline."""


@dataclass(frozen=True)
class Paths:
    """The system of the largest equivalent size among the numbers of paths that were tried."""

    count: int
    """K."""
    parameters: float
    """Of one path."""
    tokens: float
    """Of all paths together: 20 for each parameter of each; a common start comes on top."""
    days: Interval
    equivalent: Interval
    """Parameters of the dense model that the system is worth."""
    machines: int
    """That train one path together, each holding the whole of it (or a site its share)."""
    memory: tuple[Role, ...]
    exchange: Traffic | None
    """Within a path; None where one machine trains it."""

    @property
    def total(self) -> float:
        return self.count * self.parameters


@cache
def exponents() -> Interval:
    """The least, the median and the largest a of K^a over tables/paths.csv."""
    found = [
        math.log(float(row["equivalent"]) / float(row["parameters"])) / math.log(int(row["paths"]))
        for row in table.rows("paths")
    ]
    return Interval(min(found), float(np.median(found)), max(found))


def most() -> int:
    """The largest number of paths that somebody measured."""
    return max(int(row["paths"]) for row in table.rows("paths"))


def largest_measured() -> float:
    """Parameters of the largest path that somebody measured."""
    return max(float(row["parameters"]) for row in table.rows("paths"))


def equivalent(count: int, parameters: float) -> Interval:
    """Parameters of the dense model that `count` paths of `parameters` are worth. Raises ValueError beyond
    what was measured."""
    if not 1 <= count <= most():
        raise ValueError(f"{count} paths: nothing was measured beyond {most()}")
    a = exponents()
    low, median, high = (parameters * count**power for power in (a.low, a.median, a.high))
    return Interval(low, median, high)


def held(target: Target, crowd: Crowd) -> Space:
    """The configurations in which nothing crosses the internet inside a model: a replica per machine or
    per site."""
    space = coarse(target, crowd)
    whole = tuple(x for x in space.layouts if x.stages == x.spread == 1)
    return replace(space, layouts=whole)


def paths(
    target: Target, crowd: Crowd, deadline: float, fixed: dict[str, float] | None = None
) -> Paths | None:
    """What the crowd can train as paths in `deadline` days; None where not even two paths of ten million
    parameters can be. All paths together need no more text than the target has."""
    limit = deadline
    for _ in range(TRIES):
        found = _largest(target, crowd, limit, fixed)
        if found is None or found.days.median <= deadline:
            return found
        limit *= (
            deadline / found.days.median
        )  # the median of the samples, not of their inputs, counts
    return None


def _largest(
    target: Target, crowd: Crowd, deadline: float, fixed: dict[str, float] | None
) -> Paths | None:
    """By the medians of the inputs alone."""
    best: tuple[float, int, float] | None = None
    for count in numbers(crowd):
        if size := largest_path(target, crowd, count, deadline, fixed):
            worth = equivalent(count, size).median
            if best is None or worth > best[0]:
                best = worth, count, size
    return None if best is None else _described(target, crowd, best[1], best[2], fixed)


def numbers(crowd: Crowd) -> list[int]:
    """Numbers of paths that are tried: powers of two, with a machine for each."""
    limit = min(crowd.machines, most())
    return [2**power for power in range(1, int(math.log2(limit)) + 1)] if limit >= 2 else []


def largest_path(
    target: Target, crowd: Crowd, count: int, deadline: float, fixed: dict[str, float] | None = None
) -> float | None:
    """Parameters of the largest dense path that a `count`-th of the machines holds and trains in time."""
    share = crowd.scaled(machines=1 / count)
    top = min(LARGEST, target.tokens / (PER_PARAMETER * count))
    if top < SMALLEST:
        return None
    values = assumptions.medians(**(fixed or {}))

    def possible(factor: float) -> bool:
        found = search(one_path(target, top / factor), share, values, held)
        return bool(found.seconds.size) and float(found.seconds.min()) <= deadline * DAY

    factor = smallest(possible, top / SMALLEST)
    return None if factor is None else top / factor


def one_path(target: Target, parameters: float) -> Target:
    """The target of one path: dense, 20 tokens a parameter."""
    model = models.dense(parameters, context=target.model.context)
    return replace(target, model=model, tokens=PER_PARAMETER * parameters)


def _described(
    target: Target, crowd: Crowd, count: int, size: float, fixed: dict[str, float] | None
) -> Paths:
    share, goal = crowd.scaled(machines=1 / count), one_path(target, size)
    found = search(goal, share, assumptions.medians(**(fixed or {})), held)
    index = found.best()
    assert index is not None
    space, people = only(found.space, index), found.crowd
    samples = assumptions.sample(report.SAMPLES, seed=0, **(fixed or {}))
    spread = evaluate(goal, people, space, samples)
    median = evaluate(goal, people, space, report.first(found))
    days = Interval.of(spread.seconds.ravel() / DAY)
    option = Option("paths", days, "", False, space, median, spread)
    machines = int(report.scalar(median.terms["count"])) * option.layout.machines
    parameters = goal.model.shape.total
    return Paths(
        count,
        parameters,
        count * goal.tokens,
        days,
        equivalent(count, parameters),
        machines,
        tuple(report.memory(option)),
        report.traffic(option),
    )
