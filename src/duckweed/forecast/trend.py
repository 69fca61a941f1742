"""Growth trends with honest intervals: fits, draws, and how each would have done before.

Two forms, on y = log10 of the quantity (or the quantity itself where it grows by points):

    steady    y = a + b t
    slowing   y = a + floor t + b tau (1 - e^(-t/tau)),  rate = floor + b e^(-t/tau)

tau runs over a grid; steady is its limit tau -> inf. `mixed` gives both the same weight before
the data. Intervals are a studentised residual bootstrap: residuals, inflated by their leverage,
are resampled with a little smoothing, the line is refitted, and the deviation is scaled by the
ratio of the residual spreads. Below five points there is too little to resample: then the draws
are Bayesian, with a spread that is worth four points of `PRIOR_SPREAD`, and the fit says so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from duckweed.forecast.data.table import Fact, Facts, running_best, running_top, year_of
from duckweed.forecast.law import Array

Form = Literal["steady", "slowing", "mixed"]
FORMS: tuple[Form, ...] = ("steady", "slowing", "mixed")

TAUS = (0.7, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 10.0)
"""Years over which growth loses e-fold: from a start-up effect to nearly steady."""
FEW = 5
PRIOR_SPREAD, PRIOR_POINTS = 0.3, 4
SMOOTH = 0.3
"""Part of the resampled residuals' variance that is normal noise, so that ties do not matter."""


class TrendError(ValueError):
    """A trend that cannot be fitted or set: says why and what would do."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Points to fit. t: decimal years, y: log10 of the values (log) or the values themselves."""

    key: str
    label: str
    unit: str
    t: list[float]
    y: list[float]
    names: list[str]
    log: bool = True
    floor: float = 0.0

    @property
    def few(self) -> bool:
        return len(self.t) < FEW


class Trend(msgspec.Struct, frozen=True):
    """Draws of a fitted trend. level, rate, tau, floor: [B]; y(t) = level + floor (t-origin) +
    rate tau (1 - e^(-(t-origin)/tau)), tau = inf for steady. spread: [B] residual std."""

    series: Series
    form: str
    origin: float
    level: Array
    rate: Array
    tau: Array
    floor: Array
    spread: Array
    set_by_user: bool = False

    def at(self, years: Array) -> Array:
        """y at the given decimal years, shape [B, T]."""
        t = np.asarray(years, dtype=float)[None, :] - self.origin
        return (
            self.level[:, None]
            + self.floor[:, None] * t
            + self.rate[:, None] * _phi(t, self.tau[:, None])
        )

    def growth(self, year: float) -> Array:
        """dy/dt at that year, [B]."""
        with np.errstate(over="ignore"):
            fade = np.exp(np.clip(-(year - self.origin) / self.tau, -50, 50))
        return self.floor + self.rate * fade

    def factor(self, year: float, quantiles: Sequence[float] = (0.1, 0.5, 0.9)) -> list[float]:
        """Growth per year as a factor (log series) or in points, at the quantiles."""
        growth = np.quantile(self.growth(year), quantiles)
        return [float(10**g if self.series.log else g) for g in growth]


def _phi(t: Array, tau: Array) -> Array:
    """tau (1 - e^(-t/tau)), and t itself for tau = inf."""
    finite = np.where(np.isfinite(tau), tau, 1.0)
    curved = finite * -np.expm1(np.clip(-t / finite, -700, 50))
    return np.where(np.isfinite(tau), curved, t)


def fit(series: Series, form: Form = "mixed", draws: int = 2000, seed: int = 0) -> Trend:
    """Fit a series. Raises TrendError below three points or where all share one date."""
    t, y = np.array(series.t), np.array(series.y)
    if t.size < 3 or np.ptp(t) <= 0:
        raise TrendError(
            f"{series.label}: {t.size} usable points; a trend needs three on different dates"
        )
    rng = np.random.default_rng(seed)
    origin = float(t.min())
    taus = {"steady": [math.inf], "slowing": list(TAUS), "mixed": [math.inf, *TAUS]}[form]
    prior = np.array([1.0 if math.isinf(tau) else 1.0 / len(TAUS) for tau in taus])
    designs = [_design(t - origin, tau, series.floor) for tau in taus]
    fitted = [_least_squares(x, y - base) for x, base in designs]
    rss = np.array([(e**2).sum() for _, e, _ in fitted])
    weight = prior if series.few else prior * (rss / rss.min()) ** (-(t.size - 2) / 2)
    counts = rng.multinomial(draws, weight / weight.sum())
    pieces = []
    for tau, count, (x, _), solved in zip(taus, counts, designs, fitted, strict=True):
        if count:
            beta, spread = (_bayes if series.few else _bootstrap)(x, solved, int(count), rng)
            floor = 0.0 if math.isinf(tau) else series.floor
            pieces.append((beta, spread, np.full(count, tau), np.full(count, floor)))
    columns: list[Array] = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    beta, wide, slow, least = columns
    return Trend(series, form, origin, beta[:, 0], beta[:, 1], slow, least, wide)


def _design(t: Array, tau: float, floor: float) -> tuple[Array, Array]:
    base = np.zeros_like(t) if math.isinf(tau) else floor * t
    return np.stack([np.ones_like(t), _phi(t, np.array(tau))], axis=1), base


def _least_squares(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """beta, residuals, and the matrix that takes y to beta."""
    solve = np.linalg.pinv(x)
    beta = solve @ y
    return beta, y - x @ beta, solve


def _bootstrap(
    x: Array, solved: tuple[Array, Array, Array], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Studentised residual bootstrap (Davison & Hinkley 1997, 6.3.3): draws of beta, spread."""
    beta, residual, solve = solved
    n, p = x.shape
    leverage = np.einsum("ij,ji->i", x, solve)
    pool = residual / np.sqrt(np.maximum(1 - leverage, 1e-6))
    pool = pool - pool.mean()
    sigma = math.sqrt(max(float(residual @ residual) / (n - p), 1e-24))
    noise = rng.standard_normal((count, n)) * (math.sqrt(SMOOTH) * pool.std())
    error = math.sqrt(1 - SMOOTH) * pool[rng.integers(0, n, (count, n))] + noise
    shift = error @ solve.T
    left = error - shift @ x.T
    star = np.sqrt(np.maximum((left**2).sum(axis=1) / (n - p), 1e-24))
    return beta - shift * (sigma / star)[:, None], np.full(count, sigma)


def _bayes(
    x: Array, solved: tuple[Array, Array, Array], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Normal errors, flat prior on beta, spread worth PRIOR_POINTS points of PRIOR_SPREAD."""
    beta, residual, _ = solved
    free = x.shape[0] - x.shape[1] + PRIOR_POINTS
    total = float(residual @ residual) + PRIOR_POINTS * PRIOR_SPREAD**2
    sigma = np.sqrt(total / rng.chisquare(free, count))
    root = np.linalg.cholesky(np.linalg.inv(x.T @ x))
    return beta + sigma[:, None] * (rng.standard_normal((count, x.shape[1])) @ root.T), sigma


def with_growth(trend: Trend, low: float, high: float, seed: int = 0) -> Trend:
    """The same level at the last point, growing by low..high (factors a year) from there on."""
    if not 0 < low <= high:
        raise TrendError(f"{trend.series.key}.growth needs 0 < low <= high, got {low} to {high}")
    last = max(trend.series.t)
    rng = np.random.default_rng(seed)
    rate = np.log10(np.exp(rng.uniform(math.log(low), math.log(high), trend.level.size)))
    level = trend.at(np.array([last]))[:, 0]
    none, ever = np.zeros_like(rate), np.full_like(rate, np.inf)
    return Trend(trend.series, "set", last, level, rate, ever, none, trend.spread, True)


class Held(msgspec.Struct, frozen=True):
    """How a form did on points after `cut` that it had not seen. error: mean absolute error in
    units of y (orders of magnitude for log series); inside: share within the 80 % interval."""

    form: str
    cut: float
    seen: int
    later: int
    error: float
    inside: float


def back_test(series: Series, cuts: Sequence[float], draws: int = 1000) -> list[Held]:
    """Fit on what came before each cut (decimal year), compare with what came after; `flat` is
    the last seen value for ever, the forecast to beat."""
    held: list[Held] = []
    t, y = np.array(series.t), np.array(series.y)
    for cut in cuts:
        before, after = t < cut, t >= cut
        if before.sum() < FEW or after.sum() < 1:
            continue
        past = msgspec.structs.replace(
            series,
            t=t[before].tolist(),
            y=y[before].tolist(),
            names=[n for n, b in zip(series.names, before, strict=True) if b],
        )
        for form in FORMS:
            trend = fit(past, form, draws)
            ahead = trend.at(t[after])
            rng = np.random.default_rng(1)
            noisy = ahead + trend.spread[:, None] * rng.standard_normal(ahead.shape)
            low, high = np.quantile(noisy, [0.1, 0.9], axis=0)
            error = np.abs(np.median(ahead, axis=0) - y[after]).mean()
            inside = ((y[after] >= low) & (y[after] <= high)).mean()
            held.append(
                Held(form, cut, int(before.sum()), int(after.sum()), float(error), float(inside))
            )
        flat = np.abs(y[before][-1] - y[after]).mean()
        held.append(Held("flat", cut, int(before.sum()), int(after.sum()), float(flat), math.nan))
    return held


def _series(
    key: str,
    label: str,
    unit: str,
    rows: Sequence[Fact],
    value: Callable[[Any], float | None],
    log: bool = True,
    floor: float = 0.0,
) -> Series:
    kept = [(row, v) for row in rows if (v := value(row)) is not None]
    return Series(
        key=key,
        label=label,
        unit=unit,
        log=log,
        floor=floor,
        t=[row.year for row, _ in kept],
        y=[math.log10(v) if log else v for _, v in kept],
        names=[row.name for row, _ in kept],
    )


CONSUMER_FLOOR = math.log10(1.2)
"""Growth that remains when start-up growth has faded: consumer FLOP per dollar, 1.2x a year."""


def _eci(row: Any) -> float:
    return float(row.eci)


def all_series(facts: Facts) -> dict[str, Series]:
    """Every series the forecast fits, by key."""
    compute = lambda row: row.compute_flop  # noqa: E731
    models = [m for m in facts.models if m.date.year >= 2020]
    open_cn = [m for m in facts.models if m.open and m.country == "CN"]
    runs = [r for r in facts.runs if r.status == "complete"]
    priced = [d for d in facts.devices if d.price_usd]
    per_dollar = lambda row: row.flops_bf16 / row.price_usd  # noqa: E731
    found = [
        _series("frontier", "frontier records", "FLOP", running_best(models, compute), compute),
        _series(
            "top10",
            "ten largest at release",
            "FLOP",
            [m for m in running_top(facts.models, 10) if m.date.year >= 2020],
            compute,
        ),
        _series(
            "open",
            "open-weight records",
            "FLOP",
            running_best([m for m in models if m.open], compute),
            compute,
        ),
        _series(
            "china_open",
            "Chinese open-weight records",
            "FLOP",
            running_best(open_cn, compute),
            compute,
        ),
        _series(
            "decentralised",
            "decentralised records",
            "FLOP",
            running_best(runs, compute),
            compute,
            floor=CONSUMER_FLOOR,
        ),
        _series(
            "consumer",
            "consumer FLOP/s per dollar",
            "FLOP/s per $",
            [d for d in priced if d.kind == "consumer"],
            per_dollar,
        ),
        _series(
            "datacentre",
            "data-centre FLOP/s per dollar",
            "FLOP/s per $",
            [d for d in priced if d.kind == "datacentre"],
            per_dollar,
        ),
        _series(
            "upload",
            "household upload",
            "Mbit/s",
            [k for k in facts.links if k.direction == "up"],
            lambda row: row.mbps,
        ),
        _series(
            "download",
            "household download",
            "Mbit/s",
            [k for k in facts.links if k.direction == "down"],
            lambda row: row.mbps,
        ),
        _series(
            "installed",
            "Nvidia compute shipped",
            "H100 equivalents",
            [s for s in facts.stock if s.date >= facts.stock[0].date.replace(year=2023)]
            if facts.stock
            else [],
            lambda row: row.h100e,
        ),
        _series(
            "horizon",
            "METR time horizon, records since 2023",
            "minutes",
            [
                h
                for h in running_best(facts.horizons, lambda h: h.minutes)
                if year_of(h.date) >= 2023
            ],
            lambda row: row.minutes,
        ),
        _series(
            "capability",
            "Epoch Capabilities Index, records",
            "points",
            running_best(facts.scores, _eci),
            _eci,
            log=False,
        ),
    ]
    return {series.key: series for series in found}
