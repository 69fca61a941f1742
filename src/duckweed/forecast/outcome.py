"""What a race says: distances after the horizon, chances, on what they depend, and regimes."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from duckweed.forecast.law import Array
from duckweed.forecast.race import run
from duckweed.forecast.scenario import (
    ACTOR,
    WORLD,
    Drawn,
    Scenario,
    Value,
    central,
    draw,
    with_world,
    world_values,
)

YEARS = (1.0, 3.0, 10.0)
QUANTILES = (0.1, 0.5, 0.9)
RETURN_BINS = (0.0, 1.0, 1.5, 2.0, np.inf)


class Distance(msgspec.Struct, frozen=True):
    """How far one follower is behind. gap: progress gap in years of today's progress; lag: years
    on the calendar; both as 10, 50, 90 % quantiles at the horizon; peak: largest gap within the
    first year; chance: P(peak >= 1, 3, 10 years); closer: P(lag at the horizon < at the start);
    ahead: P(at or before the front at the horizon); start: gap at the start."""

    name: str
    start: float
    gap: tuple[float, ...]
    lag: tuple[float, ...]
    peak: tuple[float, ...]
    chance: tuple[float, ...]
    closer: float
    ahead: float


class Dependence(msgspec.Struct, frozen=True):
    """P(peak >= 1, 3, 10 years within the first year) for samples with returns in [low, high)."""

    low: float
    high: float
    samples: int
    chance: tuple[float, ...]


class Outcome(msgspec.Struct, frozen=True):
    """A race over many samples. diverges: P(the leader diverges before the horizon);
    compressed: P(some twelve months hold >= 3, >= 10 years of today's progress)."""

    scenario: str
    about: str
    samples: int
    horizon: float
    followers: list[Distance]
    by_returns: list[Dependence]
    diverges: float
    diverges_at: float | None
    compressed: tuple[float, float]
    found_by: dict[str, float]


class Path(msgspec.Struct, frozen=True):
    """Curves over time: years [T]; gap and lag per follower, quantiles [3][T]; the front's
    progress in years of today's progress, quantiles [3][T]."""

    times: list[float]
    front: list[list[float]]
    gap: dict[str, list[list[float]]]
    lag: dict[str, list[list[float]]]


def outcome(scenario: Scenario, samples: int = 20_000, seed: int = 0) -> Outcome:
    """Run a scenario and sum it up. Peak gaps and chances count the first year only."""
    drawn = draw(scenario, samples, seed)
    times = months(scenario.horizon)
    track = run(drawn.law, drawn.actors, times, drawn.events, seed)
    year = (
        track
        if scenario.horizon <= 1
        else run(drawn.law, drawn.actors, months(1.0), drawn.events, seed)
    )
    peak = year.peak_years(drawn.share, drawn.compute_rate, drawn.actors.behind)
    gap = track.gap_years(drawn.share, drawn.compute_rate, drawn.actors.behind)[-1]
    lag, behind = track.lag[-1], np.broadcast_to(drawn.actors.behind, peak.shape)
    followers = [
        Distance(
            name,
            float(np.median(_start(drawn)[i])),
            _quantiles(gap[i]),
            _quantiles(lag[i]),
            _quantiles(peak[i]),
            _chances(peak[i]),
            float((lag[i] < behind[i] * 0.99).mean()),
            float((lag[i] <= 0).mean()),
        )
        for i, name in enumerate(drawn.actors.names)
        if i > 0
    ]
    gone = track.diverges[np.isfinite(track.diverges)]
    found = {name: float((track.finder == i).mean()) for i, name in enumerate(drawn.actors.names)}
    return Outcome(
        scenario.name,
        scenario.about,
        samples,
        scenario.horizon,
        followers,
        _by_returns(drawn.law.returns, peak[1]),
        gone.size / samples,
        float(np.median(gone)) if gone.size else None,
        _compressed(track.level.max(axis=1), drawn, times),
        found if scenario.paradigm else {},
    )


def paths(scenario: Scenario, samples: int = 2000, seed: int = 0) -> Path:
    """The same as curves (for pictures): 10, 50, 90 % at every month."""
    drawn = draw(scenario, samples, seed)
    times = months(scenario.horizon)
    track = run(drawn.law, drawn.actors, times, drawn.events, seed)
    gap = track.gap_years(drawn.share, drawn.compute_rate, drawn.actors.behind)
    front = drawn.share * track.level.max(axis=1) / drawn.law.today
    front = front + (1 - drawn.share) * drawn.compute_rate * track.times[:, None]
    first = [0.0]

    def band(values: Array, start: float) -> list[list[float]]:
        return [[start, *map(float, np.quantile(values, q, axis=1))] for q in QUANTILES]

    start = _start(drawn)
    names = list(enumerate(drawn.actors.names))[1:]
    return Path(
        first + list(times),
        band(front, 0.0),
        {name: band(gap[:, i], float(np.median(start[i]))) for i, name in names},
        {
            name: band(track.lag[:, i], float(np.median(drawn.actors.behind[i])))
            for i, name in names
        },
    )


def months(horizon: float) -> list[float]:
    """The end of every month up to the horizon, in years."""
    count = max(1, round(horizon * 12))
    return [horizon * (i + 1) / count for i in range(count)]


def _start(drawn: Drawn) -> Array:
    behind = np.broadcast_to(drawn.actors.behind, (len(drawn.actors.names), drawn.share.size))
    return (drawn.share + (1 - drawn.share) * drawn.compute_rate) * behind


def _quantiles(values: Array) -> tuple[float, ...]:
    return tuple(float(np.quantile(values, q)) for q in QUANTILES)


def _chances(peak: Array) -> tuple[float, ...]:
    return tuple(float((peak >= years).mean()) for years in YEARS) if peak.size else (0.0,) * 3


def _by_returns(returns: Array, peak: Array) -> list[Dependence]:
    bins = []
    for low, high in pairwise(RETURN_BINS):
        inside = (returns >= low) & (returns < high)
        bins.append(Dependence(low, high, int(inside.sum()), _chances(peak[inside])))
    return bins


def _compressed(front: Array, drawn: Drawn, times: Sequence[float]) -> tuple[float, float]:
    """P(>= 3, >= 10 years of today's progress in some twelve months), front: [T, S] doublings."""
    years = np.concatenate([np.zeros((1, front.shape[1])), drawn.share * front / drawn.law.today])
    years += ((1 - drawn.share) * drawn.compute_rate) * np.array([0.0, *times])[:, None]
    window = min(len(times), round(12 * len(times) / max(12 * times[-1], 1)))
    best = (years[window:] - years[:-window]).max(axis=0)
    return float((best >= 3).mean()), float((best >= 10).mean())


class Sway(msgspec.Struct, frozen=True):
    """What one parameter does alone: P(peak >= 1 year) over its interval's lower and upper end."""

    name: str
    low: float
    high: float
    at_low: float
    at_high: float


def dependence(scenario: Scenario, samples: int = 3000, seed: int = 0) -> list[Sway]:
    """On what the chance of falling a year behind depends: each uncertain parameter fixed at the
    ends of its interval, all others drawn. Largest effect first."""
    sways = []
    for key, value in world_values(scenario).items():
        if not isinstance(value, float | int):
            ends = [
                outcome(with_world(scenario, {key: end}), samples, seed).followers[0].chance[0]
                for end in (value.low, value.high)
            ]
            sways.append(Sway(key, value.low, value.high, *ends))
    return sorted(sways, key=lambda s: -abs(s.at_high - s.at_low))


REGIMES = ("catches up", "keeps pace", "falls behind", "left in the dust")


class Regimes(msgspec.Struct, frozen=True):
    """The map: gap[compute][leak][returns] in years of today's progress at the horizon, or the
    largest on the way where that reached a year (at the ceiling a gap closes again)."""

    returns: list[float]
    leak: list[float]
    compute: list[float]
    gap: list[list[list[float]]]
    start: float
    horizon: float


def regimes(scenario: Scenario, compute: Sequence[float] = (1.0, 0.3, 0.03)) -> Regimes:
    """Central paths over a grid of returns, leak, and the first follower's compute, over at least
    five years; what leaks arrives after a month, so that a full leak can hold a short lead."""
    horizon = max(5.0, scenario.horizon)
    returns = np.geomspace(0.5, 3.5, 25)
    leak = np.linspace(0.0, 1.0, 21)
    fast = with_world(scenario, {f"{scenario.actors[1].name}.delay": 1.0})
    drawn = draw(fast, 1)
    grid_leak, grid_returns = (g.ravel() for g in np.meshgrid(leak, returns, indexing="ij"))
    size, times = grid_leak.size, months(horizon)
    law = drawn.law.take(np.zeros(size, dtype=int))
    law = msgspec.structs.replace(law, returns=grid_returns)
    base = drawn.actors.take(np.zeros(size, dtype=int))
    gaps = []
    for share in compute:
        more, leaks = (
            np.tile(a, (1, size)) if a.shape[1] == 1 else a.copy()
            for a in (base.compute, base.leak)
        )
        more[1], leaks[1] = share, grid_leak
        actors = msgspec.structs.replace(base, compute=more, leak=leaks)
        track = run(law, actors, times, drawn.events)
        gap = track.gap_years(drawn.share, drawn.compute_rate, base.behind)[-1, 1]
        peak = track.peak_years(drawn.share, drawn.compute_rate, base.behind)[1]
        gap = np.where(peak >= 1.0, peak, gap)
        gaps.append(gap.reshape(leak.size, returns.size).tolist())
    start = float(_start(drawn)[1, 0])
    return Regimes(returns.tolist(), leak.tolist(), list(compute), gaps, start, horizon)


def regime(gap: float, start: float) -> str:
    """The name of a place on the map: by the gap at the horizon against the one at the start."""
    if gap < 0.5 * start:
        return REGIMES[0]
    if gap <= 1.5 * start:
        return REGIMES[1]
    return REGIMES[2] if gap < 1.0 else REGIMES[3]


def explain(scenario: Scenario) -> list[tuple[str, str, str, str, str]]:
    """Every parameter: name, value, unit, reason, source."""
    rows = [
        (key, _show(value), WORLD[key].unit, WORLD[key].reason, WORLD[key].source)
        for key, value in world_values(scenario).items()
    ]
    for actor in scenario.actors:
        for key, parameter in ACTOR.items():
            value = _show(getattr(actor, key))
            rows.append(
                (f"{actor.name}.{key}", value, parameter.unit, parameter.reason, parameter.source)
            )
    return rows


def _show(value: Value) -> str:
    if isinstance(value, float | int):
        return f"{value:g}"
    kind = f"{value.level:.0%} interval" if value.shape == "lognormal" else f"{value.shape} uniform"
    return f"{central(value):g} ({value.low:g} to {value.high:g}, {kind})"
