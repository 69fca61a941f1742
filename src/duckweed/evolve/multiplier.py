"""How much compute a recipe saves: the multiplier m, at which the parent needs m times the child's
compute for the same held-out loss.

Whole runs of both recipes, each on a schedule stretched to its own budget, at three or more
budgets C (FLOPs counted by the harness) and several seeds; least squares of

    loss = a - b x - g B,       x = ln C - mean ln C,  B = 1 for the child

with normal noise; then ln m = g/b. Its interval is Fieller's (1954), exact for a ratio of two
normal estimates: all theta for which (g - theta b)^2 <= t^2 Var(g - theta b), t from Student's
distribution with runs - 3 degrees of freedom. The percentile bootstrap is not used: with five
seeds a cell its 95 % interval holds the truth 90 % of the time (docs/evolve.md).

Two checks by further terms, each with its own two-sided p: `- h x B` (the slopes differ, so m
depends on scale; m is then also given at every budget) and `+ q x^2` (the loss is curved in
ln C, so m at a budget outside the ones run would be wrong). Runs of parent and child on the same
seed are treated as independent, which makes the interval wider than need be, not narrower.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from duckweed.evolve.student import Array, t_cdf, t_quantile

LEAST_BUDGETS = 3
LEAST_SEEDS = 2
ALARM = 0.01
"""p below which a check (interaction, curvature) is reported as found."""


class MultiplierError(ValueError):
    """Runs from which no multiplier can be had: says why and what is missing."""


class Run(msgspec.Struct, frozen=True):
    """One whole run: budget in FLOPs, held-out loss in nats per byte or token, which arm."""

    budget: float
    loss: float
    child: bool


class AtBudget(msgspec.Struct, frozen=True):
    """m at one budget (FLOPs of the child) when slopes may differ."""

    budget: float
    m: float
    low: float
    high: float


class Multiplier(msgspec.Struct, frozen=True):
    """m, low, high: the multiplier and its interval at `level`; log_m, se: ln m and its standard
    error by the delta method; p_better: P(m > 1), as one-sided confidence from t; gain (nats) and
    slope (nats per e-fold of compute) of the fit; sd: of one run (nats); smallest: multiplier
    that such an experiment finds in 8 of 10 cases at one-sided 5 %; interaction, p_interaction,
    curvature, p_curvature: see the module; by_budget: m where slopes may differ; extrapolated:
    m is larger than the range of budgets, so no two runs had the same loss."""

    m: float
    low: float
    high: float
    level: float
    log_m: float
    se: float
    p_better: float
    gain: float
    slope: float
    sd: float
    dof: int
    runs: int
    budgets: list[float]
    smallest: float
    interaction: float
    p_interaction: float
    curvature: float
    p_curvature: float
    by_budget: list[AtBudget]
    extrapolated: bool

    @property
    def depends_on_scale(self) -> bool:
        return self.p_interaction < ALARM

    @property
    def reported(self) -> AtBudget:
        """The one figure to give: m of all budgets together, at the middle one; where m depends on
        scale there is no such thing, and it is that of the middle budget alone."""
        middle = self.by_budget[len(self.by_budget) // 2] if self.by_budget else None
        if middle is not None and self.depends_on_scale:
            return middle
        budget = middle.budget if middle else self.budgets[len(self.budgets) // 2]
        return AtBudget(budget, self.m, self.low, self.high)

    @property
    def reported_se(self) -> float:
        """Standard error of ln m as reported."""
        if not self.depends_on_scale:
            return self.se
        r = self.reported
        if not (r.low > 0 and math.isfinite(r.high)):
            return math.inf
        return math.log(r.high / r.low) / 2 / t_quantile((1 + self.level) / 2, self.dof)

    @property
    def caution(self) -> str:
        """In words what the figure leaves out, else empty."""
        said = []
        if self.depends_on_scale:
            ends = [self.by_budget[0], self.by_budget[-1]]
            both = " and ".join(
                f"{e.m:.2f} ({e.low:.2f} to {e.high:.2f}) at {e.budget:.2g} FLOP" for e in ends
            )
            way = "shrinks" if ends[0].m > ends[1].m else "grows"
            said.append(f"it {way} with compute: {both}")
        if self.extrapolated:
            said.append(
                f"beyond {self.budgets[-1] / self.budgets[0]:.3g} times no two runs were equal: there "
                "it continues the slope of the runs, which a longer run may leave"
            )
        return "; ".join(said)

    @property
    def curved(self) -> bool:
        return self.p_curvature < ALARM


class _Fit(msgspec.Struct, frozen=True):
    """Least squares: coefficients, their covariance, degrees of freedom, residual sd."""

    beta: Array
    cov: Array
    dof: int
    sd: float

    def p(self, place: int) -> float:
        """Two-sided p of one coefficient being 0."""
        se = math.sqrt(self.cov[place, place])
        if se == 0:
            return 0.0 if self.beta[place] != 0 else 1.0
        return 2 * float(t_cdf(-abs(self.beta[place]) / se, self.dof))


def fit(runs: Sequence[Run], level: float = 0.95) -> Multiplier:
    """The multiplier of the child over the parent. Raises MultiplierError for fewer than three
    budgets, fewer than two seeds in a cell, a diverged run, or a loss that does not fall with
    compute."""
    if not 0 < level < 1:
        raise MultiplierError(f"level must lie between 0 and 1, got {level}")
    budgets = _check(runs)
    log_c = np.log([run.budget for run in runs])
    centre = float(log_c.mean())
    x, child = log_c - centre, np.array([float(run.child) for run in runs])
    y = np.array([run.loss for run in runs], dtype=np.float64)
    one = np.ones_like(x)
    plain = _least_squares(np.stack([one, -x, -child], 1), y)
    bent = _least_squares(np.stack([one, -x, -child, x * x], 1), y)
    slopes = _least_squares(np.stack([one, -x, -child, -x * child], 1), y)
    _, slope, gain = map(float, plain.beta)
    low, high = _fieller(plain, np.array([0.0, 0, 1]), np.array([0.0, 1, 0]), level)
    log_m = gain / slope
    way = np.array([0.0, -log_m, 1]) / slope
    se = math.sqrt(float(way @ plain.cov @ way))
    se_gain = math.sqrt(plain.cov[2, 2])
    found = t_quantile(0.95, plain.dof) + t_quantile(0.8, plain.dof)
    return Multiplier(
        m=_exp(log_m), low=_exp(low), high=_exp(high), level=level, log_m=log_m, se=se,
        p_better=float(t_cdf(gain / max(se_gain, 1e-300), plain.dof)), gain=gain, slope=slope,
        sd=plain.sd, dof=plain.dof, runs=len(runs), budgets=budgets,
        smallest=_exp(found * se_gain / slope),
        interaction=float(slopes.beta[3]), p_interaction=slopes.p(3),
        curvature=float(bent.beta[3]), p_curvature=bent.p(3),
        by_budget=[_at(slopes, c, math.log(c) - centre, level) for c in budgets],
        extrapolated=abs(log_m) > math.log(budgets[-1] / budgets[0]),
    )  # fmt: skip


def _check(runs: Sequence[Run]) -> list[float]:
    for run in runs:
        if not (math.isfinite(run.budget) and run.budget > 0):
            raise MultiplierError(f"a budget must be a positive number of FLOPs, got {run.budget}")
        if not math.isfinite(run.loss):
            who = "child" if run.child else "parent"
            raise MultiplierError(
                f"the {who} diverged at {run.budget:.3g} FLOPs: it has no multiplier, and the run "
                "must not be left out"
            )
    budgets = sorted({run.budget for run in runs})
    if len(budgets) < LEAST_BUDGETS:
        raise MultiplierError(
            f"{len(budgets)} budget(s): a slope with an interval needs at least {LEAST_BUDGETS}"
        )
    for budget in budgets:
        for child in (False, True):
            seeds = sum(run.budget == budget and run.child == child for run in runs)
            if seeds < LEAST_SEEDS:
                raise MultiplierError(
                    f"{seeds} run(s) of the {'child' if child else 'parent'} at {budget:.3g} FLOPs; "
                    f"every cell needs at least {LEAST_SEEDS}"
                )
    return budgets


def _least_squares(design: Array, y: Array) -> _Fit:
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    rest = y - design @ beta
    dof = y.size - design.shape[1]
    var = float(rest @ rest) / dof
    return _Fit(beta, inverse * var, dof, math.sqrt(var))


def _fieller(found: _Fit, over: Array, under: Array, level: float) -> tuple[float, float]:
    """Interval of (over @ beta) / (under @ beta)."""
    t2 = t_quantile((1 + level) / 2, found.dof) ** 2
    top, bottom = float(over @ found.beta), float(under @ found.beta)
    a = bottom**2 - t2 * float(under @ found.cov @ under)
    if bottom <= 0 or a <= 0:
        raise MultiplierError(
            f"the loss does not clearly fall with compute (slope {bottom:.3g} nats per e-fold), so a "
            "gain in loss is no gain in compute; use budgets further apart or more seeds"
        )
    b = top * bottom - t2 * float(over @ found.cov @ under)
    c = top**2 - t2 * float(over @ found.cov @ over)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a


def _at(slopes: _Fit, budget: float, x: float, level: float) -> AtBudget:
    over, under = np.array([0.0, 0, 1, x]), np.array([0.0, 1, 0, 0])
    try:
        low, high = _fieller(slopes, over, under, level)
    except MultiplierError:  # the parent's slope alone is less certain than the common one
        low, high = -math.inf, math.inf
    middle = float(over @ slopes.beta) / float(under @ slopes.beta)
    return AtBudget(budget, _exp(middle), _exp(low), _exp(high))


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))
