"""The uncertain inputs: a low, a median and a high value (10 %, 50 %, 90 %), each with its source."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from duckweed.plan.errors import PlanError, unknown
from duckweed.plan.inputs import table

Array = NDArray[np.float64]
Values = Mapping[str, float | Array]

NINETIETH = 1.2815515655446004
"""The 90th percentile of the standard normal law."""


@dataclass(frozen=True)
class Range:
    """form `log`: normal in the logarithm; `share`: normal in log(x / (1 - x)), never leaving (0, 1).
    The two sides of the median may have different widths."""

    name: str
    low: float
    median: float
    high: float
    form: str
    what: str
    source: str

    def at(self, normal: Array) -> Array:
        """The value at a standard normal deviate."""
        forward = np.log if self.form == "log" else lambda x: np.log(x / (1 - x))
        low, middle, high = (float(forward(v)) for v in (self.low, self.median, self.high))
        side = np.where(normal < 0, middle - low, high - middle)
        moved = middle + side * normal / NINETIETH
        return np.asarray(np.exp(moved) if self.form == "log" else 1 / (1 + np.exp(-moved)))


@cache
def ranges() -> dict[str, Range]:
    found = {}
    for row in table.rows("assumptions"):
        numbers = (float(row["low"]), float(row["median"]), float(row["high"]))
        found[row["name"]] = Range(row["name"], *numbers, row["form"], row["what"], row["source"])
    return found


def medians(**fixed: float) -> dict[str, float | Array]:
    """The median of every input; `fixed` overrides by name (PlanError for an unknown name)."""
    known = ranges()
    for name, value in fixed.items():
        if name not in known:
            raise unknown("assumption", name, known)
        if not math.isfinite(value) or value < 0:
            raise PlanError(f"The assumption {name} = {value} is not possible.")
    return {name: fixed.get(name, given.median) for name, given in known.items()}


def sample(count: int, seed: int = 0, **fixed: float) -> dict[str, float | Array]:
    """`count` draws of every input that is not fixed, as arrays [count]; independent of each other."""
    generator = np.random.default_rng(seed)
    drawn = medians(**fixed)
    for name, given in ranges().items():
        deviates = generator.standard_normal(count)
        if name not in fixed:
            drawn[name] = given.at(deviates)
    return drawn
