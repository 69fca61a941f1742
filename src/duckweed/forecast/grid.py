"""The race and the crossings for every combination of a few values: what the page's sliders choose from.

Rows are in the order of `itertools.product` over the values.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from duckweed.forecast.crossing import dates
from duckweed.forecast.law import Array
from duckweed.forecast.outcome import months
from duckweed.forecast.outlook import DEEPSEEK_V3, Fits
from duckweed.forecast.race import run
from duckweed.forecast.scenario import MONTH, Scenario, draw
from duckweed.forecast.trend import CONSUMER_FLOOR, Series, Trend

RETURNS = (0.5, 0.8, 1.2, 1.6, 2.0, 3.0)
AUTOMATED = (0.1, 0.3, 1.0)
"""Share of research that is automated at the start."""
LAGS = (1.0, 3.0, 8.0)
"""Months that the follower is behind at the start."""
COMPUTE = (1.0, 0.3, 0.01)
"""The follower's, times the leader's."""
LEAKS = (0.0, 0.3, 0.7, 0.9)
HORIZON = 3.0
"""Years of a race."""

FRONTIER = (2.0, 3.0, 4.0, 4.6, 5.0, 6.0, 8.0, 10.0)
"""Growth of the frontier's compute, times a year."""
CROWD = (2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 30.0)
"""Growth of decentralised records today, times a year."""
FADES = (1.0, 2.0, 3.0, 5.0, 10.0, math.inf)
"""Years over which the growth of decentralised records fades; infinite: never."""


def combinations(*axes: Sequence[float]) -> list[Array]:
    """Every combination of the values, one flat array for each axis."""
    return [grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")]


class Races(msgspec.Struct, frozen=True):
    """A leader and one follower for RETURNS x AUTOMATED x LAGS x COMPUTE x LEAKS (C combinations)."""

    times: list[float]
    """[T] years."""
    gap: Array
    """[C, T] years of today's progress between the two."""
    lag: Array
    """[C, T] years that the follower is behind on the calendar."""
    front: Array
    """[F, T] the leader's progress since the start, in years of today's progress, for RETURNS x
    AUTOMATED: no follower of the grid passes it."""
    peak: Array
    """[C] largest gap of the first year, in years of today's progress."""
    diverges: Array
    """[C] year in which the leader diverges; infinite: never."""


def races(scenario: Scenario) -> Races:
    """The scenario's central path with the first follower and the returns replaced by the grid's."""
    returns, automated, lag, compute, leak = combinations(RETURNS, AUTOMATED, LAGS, COMPUTE, LEAKS)
    drawn = draw(msgspec.structs.replace(scenario, actors=scenario.actors[:2]), 1)
    same = np.zeros(returns.size, dtype=int)
    law = msgspec.structs.replace(drawn.law.take(same), returns=returns, start=automated)

    def second(all_of: Array, follower: Array) -> Array:
        return np.stack([np.full(returns.size, all_of[0, 0]), follower])

    actors = msgspec.structs.replace(
        drawn.actors.take(same),
        compute=second(drawn.actors.compute, compute),
        behind=second(drawn.actors.behind, lag * MONTH),
        leak=second(drawn.actors.leak, leak),
    )
    times = months(HORIZON)
    track = run(law, actors, times)
    year = run(law, actors, months(1.0))
    now = drawn.compute_rate * (1 - drawn.share)
    front = drawn.share * track.level[:, 0] / law.today + now * track.times[:, None]
    followers = len(LAGS) * len(COMPUTE) * len(LEAKS)
    return Races(
        times,
        track.gap_years(drawn.share, drawn.compute_rate, actors.behind)[:, 1].T,
        track.lag[:, 1].T,
        front.T[::followers],
        year.peak_years(drawn.share, drawn.compute_rate, actors.behind)[1],
        track.diverges,
    )


class Crossings(msgspec.Struct, frozen=True):
    """Decentralised records against the frontier, from the levels that were fitted."""

    years: list[float]
    """[T] decimal years of the curves."""
    frontier: Array
    """[F, T] log10 FLOP for FRONTIER."""
    crowd: Array
    """[C, T] log10 FLOP of decentralised records for CROWD x FADES."""
    meets: Array
    """[F C] year in which decentralised records reach the frontier for FRONTIER x CROWD x FADES;
    infinite: not by 2100."""
    passes: Array
    """[C] year in which they reach DeepSeek-V3's compute for CROWD x FADES."""


def crossings(fits: Fits, until: float) -> Crossings | None:
    """None where one of the two trends could not be fitted. until: last year of the curves."""
    if not {"frontier", "decentralised"} <= set(fits.trends):
        return None
    years = [*np.arange(fits.now, until, 0.5), until]
    grown, crowd, fade = combinations(FRONTIER, CROWD, FADES)
    meets = dates(_chaser(fits, crowd, fade), _target(fits, grown), fits.now)
    chaser, target = (
        _chaser(fits, *combinations(CROWD, FADES)),
        _target(fits, np.array(FRONTIER)),
    )
    at = np.array(years)
    return Crossings(
        [round(float(year), 3) for year in years],
        target.at(at),
        chaser.at(at),
        meets,
        dates(chaser, DEEPSEEK_V3, fits.now),
    )


def _level(fits: Fits, key: str, count: int) -> Array:
    """The median of the fitted trend on the day of the forecast."""
    return np.full(count, float(np.median(fits.trends[key].at(np.array([fits.now])))))


def _target(fits: Fits, growth: Array) -> Trend:
    zero, never = np.zeros(growth.size), np.full(growth.size, np.inf)
    level = _level(fits, "frontier", growth.size)
    return Trend(_series(fits), "set", fits.now, level, np.log10(growth), never, zero, zero)


def _chaser(fits: Fits, growth: Array, fade: Array) -> Trend:
    """Once start-up growth has faded, that of consumer FLOP per dollar remains."""
    floor = np.where(np.isfinite(fade), CONSUMER_FLOOR, 0.0)
    level = _level(fits, "decentralised", growth.size)
    rate = np.log10(growth) - floor
    return Trend(_series(fits), "set", fits.now, level, rate, fade, floor, np.zeros(growth.size))


def _series(fits: Fits) -> Series:
    return Series(key="", label="", unit="", t=[fits.now], y=[0.0], names=[""])
