"""When one trend reaches another: a distribution of dates, including never."""

import math

import msgspec
import numpy as np

from duckweed.forecast.law import Array
from duckweed.forecast.trend import Trend

UNTIL = 2100.0
"""What has not crossed by this year counts as never."""
MARKS = (2030, 2035, 2040)


class Crossing(msgspec.Struct, frozen=True):
    """orders: gap now in orders of magnitude, years: gap now in years of the target's growth,
    both 10, 50, 90 %. date: 10, 50, 90 % of the crossing (decimal year), None for never; by:
    P(crossed by 2030, 2035, 2040); never: P(not by 2100); closing: orders closed a year now."""

    chaser: str
    target: str
    orders: tuple[float, ...]
    years: tuple[float | None, ...]
    date: tuple[float | None, ...]
    by: dict[int, float]
    never: float
    closing: tuple[float, ...]
    note: str = ""


def dates(chaser: Trend, target: Trend | float, now: float, until: float = UNTIL) -> Array:
    """The year of crossing for every draw, inf for never; `now` where it has happened. [B]"""
    grid = np.append(np.arange(now, until, 0.25), until)
    gap = _height(target, grid, chaser.level.size) - chaser.at(grid)
    under = gap <= 0
    first = under.argmax(axis=1)
    index = np.arange(len(gap))
    before = np.maximum(first - 1, 0)
    g0, g1 = gap[index, before], gap[index, first]
    part = np.where(first > 0, g0 / np.where(g0 == g1, 1.0, g0 - g1), 0.0)
    when = grid[before] + part * (grid[first] - grid[before])
    return np.where(under.any(axis=1), when, np.inf)


def crossing(
    chaser: Trend, target: Trend | float, now: float, name: str, orders: float | None = None
) -> Crossing:
    """Sum up when `chaser` reaches `target` (a trend, or a fixed level in the chaser's units).

    orders: a gap at `now` that overrides the fitted levels, as in Epoch's closed form.
    """
    if orders is not None:
        shift = (
            _height(target, np.array([now]), chaser.level.size)
            - orders
            - chaser.at(np.array([now]))
        )
        chaser = msgspec.structs.replace(chaser, level=chaser.level + shift[:, 0])
    when = dates(chaser, target, now)
    level = chaser.at(np.array([now]))[:, 0]
    height = _height(target, np.array([now]), level.size)[:, 0]
    pace = target.growth(now) if isinstance(target, Trend) else np.zeros(level.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        years = np.where(pace > 0, (height - level) / pace, np.inf)
    quantiles = [0.1, 0.5, 0.9]
    few = [t.series for t in (chaser, target) if isinstance(t, Trend) and t.series.few]
    note = "; ".join(f"{s.label} rest on {len(s.t)} points" for s in few)
    return Crossing(
        chaser.series.label,
        name,
        tuple(float(q) for q in np.quantile(height - level, quantiles)),
        tuple(_finite(q) for q in _rank(years, quantiles)),
        tuple(_finite(q) for q in _rank(when, quantiles)),
        {year: float((when <= year).mean()) for year in MARKS if year > now},
        float(np.isinf(when).mean()),
        tuple(float(q) for q in np.quantile(chaser.growth(now) - pace, quantiles)),
        note,
    )


def _height(target: Trend | float, grid: Array, draws: int) -> Array:
    if isinstance(target, Trend):
        return target.at(grid)
    return np.full((draws, len(grid)), float(target))


def _rank(values: Array, quantiles: list[float]) -> list[float]:
    """Quantiles by rank, which inf survives."""
    ordered = np.sort(values)
    return [float(ordered[min(int(q * len(ordered)), len(ordered) - 1)]) for q in quantiles]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
