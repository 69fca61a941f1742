"""Returns to research of a campaign: how the gain grows with all the compute that was spent on it.

A_k is the multiplier of generation k over generation 0, measured on held-out text; S_k all
research compute up to then (screening, failures, confirmation, scale checks, pruning). Two laws:

    power        ln A = r ln(1 + S/R0)          Jones' law; r: doublings of A per doubling of effort
    saturating   ln A = L (1 - exp(-S/K))       the low fruit, and then nothing

R0 is the research that generation 0 already embodies (tuning of the baseline, pilot). It is known
only roughly, so it is a parameter with a lognormal prior around the figure that the caller gives.
Around the law the path moves in jumps of one accepted change each; increments are independent with
variance `lump` times their mean (a compound Poisson path with jumps of about `lump`), to which the
measurement errors of A are added. Everything is summed over a grid, so that with few points the
answer is the prior and says so (`mostly_prior`). The laws are compared by leave-one-out predictive
density (Vehtari, Gelman & Gabry 2017; exact here, from the grid).

Three cautions. With a proposer that does not itself improve, r describes how fast this search
space is fished out, not self-improvement. Under a power law d ln A / dS falls for every r. And
fewer than ten accepted changes say next to nothing about r.
"""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from duckweed.evolve.statistics.t_distribution import Array, t_quantile
from duckweed.evolve.trial_spec import Provenance

LEVEL = 0.95
FEW = 10
"""Accepted changes below which the posterior of r is called mostly prior."""
PRIOR_R, PRIOR_R_LOW, PRIOR_R_HIGH = 1.2, 0.4, 3.6
"""Prior of r: lognormal with this median and 80 % interval (Davidson & Houlden 2025)."""
Z80 = 1.2815515655446004
PRIOR_WIDTH = math.log(PRIOR_R_HIGH / PRIOR_R_LOW) / 2 / Z80
R0_FACTOR = 3.0
"""R0 is the caller's figure times or divided by this (one sd)."""
LUMP, LUMP_FACTOR = 2.0, 3.0
"""Prior of the lump: this many mean steps of ln A, times or divided by 3 (one sd). A Poisson path
with exponential jumps has a lump of two mean jumps."""
LEAST_LUMP = 0.02
LIMIT, LIMIT_FACTOR = math.log(2), 3.0
"""Prior of the saturating law's limit L: a doubling, times or divided by 3 (one sd)."""
SCALE_FACTOR = 3.0
"""Prior of K: half of all that was spent, times or divided by 3 (one sd)."""


class ReturnsError(ValueError):
    """Points or a file that cannot be used: says which and what was expected."""


class Point(msgspec.Struct, frozen=True):
    """Generation k after one accepted change."""

    spent: float  # all research compute so far, in FLOPs
    log_gain: float  # ln of the multiplier over generation 0
    se: float  # standard error of log_gain
    provenance: Provenance = "novel"  # of the change that made this generation


class Estimate(msgspec.Struct, frozen=True):
    """A positive number and its equal-tailed interval."""

    middle: float  # geometric mean: exp of the posterior mean of the logarithm
    low: float
    high: float
    level: float = LEVEL  # of the interval


class Trend(msgspec.Struct, frozen=True):
    """How the gain per FLOP develops."""

    marginal: Estimate  # d ln A / dS (per FLOP) at the end under the power law
    early: float  # mean gain per FLOP in the first half of the spending
    late: float  # and in the second
    change: float  # second derivative of ln A from a quadratic through the origin (per FLOP^2)
    change_low: float  # its interval at LEVEL
    change_high: float
    verdict: Literal["rising", "falling", "unclear"]  # what that interval allows


class Returns(msgspec.Struct, frozen=True):
    """What a campaign says about returns to research."""

    r: Estimate  # posterior
    prior: Estimate  # of r
    accepted: int  # changes behind it
    mostly_prior: bool
    limit: Estimate  # A at infinity under the saturating law
    reached: Estimate  # share of ln(limit) so far
    elpd_difference: float  # leave-one-out log predictive density, power minus saturating law
    elpd_se: float  # its standard error
    prefers: Literal["power", "saturating", "neither"]  # needs a difference above 2 se and above 4
    trend: Trend | None  # from four points on
    without_known: Estimate | None  # r without the gains of known changes, their cost kept
    points: list[Point]


class ReturnsFile(msgspec.Struct, frozen=True):
    """`returns.json`, which `duckweed forecast --returns` reads."""

    mean: float  # geometric mean of r
    low: float
    high: float
    level: float  # of the interval
    accepted: int  # changes behind it
    mostly_prior: bool
    source: str  # name of the campaign


class _Posterior(msgspec.Struct, frozen=True):
    """Over a grid of G parameter pairs and lumps."""

    weight: Array  # [G], sums to 1
    first: Array  # the first parameter [G]
    second: Array  # the second one [G]
    loo: Array  # ln p(y_i | the others) [n]


def returns(points: Sequence[Point], r0: float) -> Returns:
    """Posterior from the generations in order of spending; r0: research compute (FLOPs) that
    generation 0 embodies, at least the baseline's tuning and the pilot. No point at all gives the
    prior. Raises ReturnsError."""
    _check(points, r0)
    spent = np.array([p.spent for p in points], dtype=np.float64)
    y = np.array([p.log_gain for p in points], dtype=np.float64)
    noise = np.diag([p.se**2 for p in points]) if points else np.zeros((0, 0))
    power = _power(spent, y, noise, r0)
    flat = _saturating(spent, y, noise, r0)
    difference = power.loo - flat.loo
    total = float(difference.sum())
    se = float(difference.std(ddof=1) * math.sqrt(len(points))) if len(points) > 1 else math.inf
    r = _estimate(power.first, power.weight)
    width = math.log(r.high / r.low) / math.log(_PRIOR.high / _PRIOR.low)
    end = float(spent[-1]) if points else 0.0
    return Returns(
        r=r, prior=_PRIOR, accepted=len(points),
        mostly_prior=len(points) < FEW or width > 0.7,
        limit=_estimate(np.exp(flat.first), flat.weight),
        reached=_estimate(np.maximum(1 - np.exp(-end / flat.second), 1e-12), flat.weight),
        elpd_difference=total, elpd_se=se,
        prefers=_preferred(total, se),
        trend=_trend(spent, y, noise, power) if len(points) >= 4 else None,
        without_known=_without_known(points, spent, y, noise, r0, power),
        points=list(points),
    )  # fmt: skip


def _preferred(difference: float, se: float) -> Literal["power", "saturating", "neither"]:
    # with few points the se is too small, and differences below 4 mean nothing: Sivula, Magnusson
    # & Vehtari 2020, Uncertainty in Bayesian leave-one-out cross-validation based comparison
    if not abs(difference) > max(2 * se, 4):
        return "neither"
    return "power" if difference > 0 else "saturating"


def encode(found: Returns, source: str) -> bytes:
    """The content of `returns.json`; source: the campaign's name."""
    r = found.r
    file = ReturnsFile(r.middle, r.low, r.high, r.level, found.accepted, found.mostly_prior, source)
    return msgspec.json.format(msgspec.json.encode(file), indent=1)


def _check(points: Sequence[Point], r0: float) -> None:
    if not (math.isfinite(r0) and r0 > 0):
        raise ReturnsError(f"r0 must be the positive compute behind generation 0, got {r0}")
    before = 0.0
    for k, point in enumerate(points, 1):
        if not (math.isfinite(point.spent) and point.spent > before):
            raise ReturnsError(f"generation {k}: spent must grow, got {point.spent} after {before}")
        if not math.isfinite(point.log_gain) or not (math.isfinite(point.se) and point.se > 0):
            raise ReturnsError(
                f"generation {k}: needs a finite gain with a positive se, got {point.log_gain}, {point.se}"
            )
        before = point.spent


def _grid(median: float, width: float, count: int) -> tuple[Array, Array]:
    """Values and ln prior of a lognormal on `count` points over +-3.5 sd."""
    z = np.linspace(-3.5, 3.5, count)
    return median * np.exp(width * z), -0.5 * z * z


def _power(
    spent: Array, y: Array, noise: Array, r0: float, before_start: Array | None = None
) -> _Posterior:
    """before_start: ln prior of R0 on its grid, in place of the one around r0."""
    r, before_r = _grid(PRIOR_R, PRIOR_WIDTH, 61)
    start, around = _grid(r0, math.log(R0_FACTOR), 11)
    before = around if before_start is None else before_start
    shape = np.log1p(spent / start[:, None])
    return _posterior(r, before_r, start, before, shape, y, noise)


def _saturating(spent: Array, y: Array, noise: Array, r0: float) -> _Posterior:
    limit, before_limit = _grid(LIMIT, math.log(LIMIT_FACTOR), 61)
    whole = float(spent[-1]) if spent.size else r0
    scale, before_scale = _grid(whole / 2, math.log(SCALE_FACTOR), 21)
    shape = 1 - np.exp(-spent / scale[:, None])
    return _posterior(limit, before_limit, scale, before_scale, shape, y, noise)


def _posterior(
    size: Array, before_size: Array, place: Array, before_place: Array, shape: Array, y: Array,
    noise: Array,
) -> _Posterior:  # fmt: skip
    """For the law y = size * shape, shape [place, n], with independent increments. The covariance
    is lump * size * shape[min(i, j)] + noise; for each place one basis makes both diagonal."""
    lump, before_lump = _grid(_lump(y), math.log(LUMP_FACTOR), 7)
    prior = before_place[:, None, None] + before_size[:, None] + before_lump  # [place, size, lump]
    first = np.broadcast_to(size[:, None], prior.shape).ravel()
    second = np.broadcast_to(place[:, None, None], prior.shape).ravel()
    if not y.size:
        return _Posterior(_normalised(prior)[1], first, second, np.zeros(0))
    n = y.size
    order = np.arange(n)
    root = np.linalg.inv(np.linalg.cholesky(noise))
    common = shape[:, np.minimum.outer(order, order)]
    values, vectors = np.linalg.eigh(root @ common @ root.T)
    basis = root.T @ vectors  # [place, n, n]; inverse covariance = basis diag(inside) basis^T
    scale = (size[:, None] * lump)[..., None]
    inside = 1 / (1 + scale * np.maximum(values, 0)[:, None, None])  # [place, size, lump, n]
    flat = np.einsum("pij,i->pj", basis, y)[:, None, None]
    rest = flat - size[:, None, None] * np.einsum("pij,pi->pj", basis, shape)[:, None, None]
    log_det = -np.log(inside).sum(-1) - 2 * np.log(np.diagonal(root)).sum()
    fit = -0.5 * ((inside * rest**2).sum(-1) + log_det + n * math.log(2 * math.pi))
    log_weight, weight = _normalised(prior + fit)
    pull = np.einsum("pij,pslj->psli", basis, inside * rest)
    var = 1 / np.einsum("pij,pslj->psli", basis**2, inside)
    alone = -0.5 * (np.log(2 * math.pi * var) + pull**2 * var)  # ln p(y_i | others, parameters)
    # 1 / p(y_i | others) = E[1 / p(y_i | others, parameters)] under the full posterior
    worst = log_weight[:, None] - alone.reshape(-1, n)
    top = worst.max(axis=0)
    return _Posterior(weight, first, second, -(top + np.log(np.exp(worst - top).sum(axis=0))))


def _lump(y: Array) -> float:
    """How large the jumps are that the path consists of, about."""
    steps = np.diff(y, prepend=0.0)
    return LUMP * max(float(np.abs(steps).mean()), LEAST_LUMP) if y.size else LEAST_LUMP


def _normalised(log_weight: Array) -> tuple[Array, Array]:
    """ln of the weights and the weights, flat, with sum 1."""
    flat = (log_weight - log_weight.max()).ravel()
    flat = flat - math.log(np.exp(flat).sum())
    return flat, np.exp(flat)


def _estimate(values: Array, weight: Array, level: float = LEVEL) -> Estimate:
    unique, place = np.unique(values, return_inverse=True)
    v, w = np.log(unique), np.bincount(place, weight)
    share = np.cumsum(w) - 0.5 * w
    low, high = np.interp([(1 - level) / 2, (1 + level) / 2], share, v)
    return Estimate(float(np.exp(v @ w)), float(np.exp(low)), float(np.exp(high)), level)


def _trend(spent: Array, y: Array, noise: Array, power: _Posterior) -> Trend:
    end = float(spent[-1])
    marginal = _estimate(power.first / (power.second + end), power.weight)
    middle = float(np.interp(end / 2, [0.0, *spent], [0.0, *y]))
    # generalised least squares: measurement errors, and increments that vary with a lump's size
    path = _lump(y) * max(float(y[-1]), LEAST_LUMP) * np.minimum.outer(spent, spent) / end
    whiten = np.linalg.inv(np.linalg.cholesky(noise + path))
    design = whiten @ np.stack([spent / end, (spent / end) ** 2], 1)
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ (whiten @ y)
    rest = whiten @ y - design @ beta
    dof = y.size - 2
    # the assumed variances are taken as they are unless the residuals say they are too small
    var = max(float(rest @ rest) / dof, 1.0)
    half = t_quantile((1 + LEVEL) / 2, dof) * math.sqrt(var * inverse[1, 1])
    change, low, high = (2 * v / end**2 for v in (beta[1], beta[1] - half, beta[1] + half))
    verdict: Literal["rising", "falling", "unclear"] = (
        "rising" if low > 0 else "falling" if high < 0 else "unclear"
    )
    return Trend(
        marginal, middle / (end / 2), (float(y[-1]) - middle) / (end / 2), float(change), float(low),
        float(high), verdict,
    )  # fmt: skip


def _without_known(
    points: Sequence[Point], spent: Array, y: Array, noise: Array, r0: float, power: _Posterior
) -> Estimate | None:
    """r of the steps that were not known, at the price of all of them, with R0 as found from all."""
    own = np.array([p.provenance != "known" for p in points], dtype=bool)
    if not own.any():
        return None
    if own.all():
        return _estimate(power.first, power.weight)
    n = len(points)
    steps = np.eye(n) - np.eye(n, k=-1)
    # cumulated steps of the changes that count; a tiny error keeps repeated points apart
    keep = np.tril(np.ones((n, n))) @ (own[:, None] * steps)
    cov = keep @ noise @ keep.T + 1e-6 * np.eye(n)
    starts, place = np.unique(power.second, return_inverse=True)
    before = np.log(np.maximum(np.bincount(place, power.weight, starts.size), 1e-300))
    found = _power(spent, keep @ y, cov, r0, before)
    return _estimate(found.first, found.weight)


_PRIOR = _estimate(
    *(lambda grid: (grid[0], np.exp(grid[1]) / np.exp(grid[1]).sum()))(
        _grid(PRIOR_R, PRIOR_WIDTH, 1001)
    )
)
