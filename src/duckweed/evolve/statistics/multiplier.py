"""How much compute a recipe saves: the multiplier m, at which generation 0 needs m times the
child's compute for the same held-out loss.

Whole runs of both recipes, each on a schedule stretched to its own budget C (FLOPs counted by the
harness), at three or more budgets and several seeds; generation 0 also at larger ones, until it has
reached the child's loss. Saving a factor m is a shift along ln C: with theta = ln m added to the
child's, the runs of both lie on one curve,

    loss = a - b u + q u^2 - g B,       u = ln C + theta B,  B = 1 for the child,

with g = 0. The estimate is the theta at which least squares finds g = 0; the 95 % interval holds
every theta at which Student's t-test, with runs - 4 degrees of freedom, does not find g to differ from
0. For a straight curve (q = 0) that is Fieller's interval (1954) of a ratio of two normal estimates.

Of generation 0 the largest budgets count, as many as the child has: there both have the same losses,
so that a parabola need fit over a short range only. One straight line through both at the same
budgets, as it was before, is 25 % too high where m falls as C^-0.2 and 14 % too low where the
loss falls as C^-0.6; a parabola in which each has a slope of its own often gives no upper end
(docs/evolve-statistics.md). The percentile bootstrap is not used: with five seeds for each recipe and budget its 95 %
interval holds the truth 90 % of the time.

Two checks by further terms, each with its own two-sided p: `- h x B` (x from the child's middle
budget: the slopes differ at the same loss, so m depends on scale; then the offset at the middle
budget alone is reported) and `- k x^2 B` (the bends differ). Runs of both recipes on the same seed
are treated as independent, which makes the interval wider than need be, not narrower.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from duckweed.evolve.statistics.t_distribution import Array, t_cdf, t_quantile

LEAST_BUDGETS = 3
LEAST_SEEDS = 2
ALARM = 0.01
"""p below which a check (scale, curve) is reported as found."""
REACH = math.log(20.0)
POINTS = 121
"""ln m is looked for up to REACH from a first guess, at POINTS places; then between two of them."""
STEP = 1e-3
"""Of ln m, for the slope."""
UNBOUNDED = 1e300
"""From here on an end of an interval stands for infinity, which JSON does not have."""


class MultiplierError(ValueError):
    """Runs from which no multiplier can be had: says why and what is missing."""


class Run(msgspec.Struct, frozen=True):
    """One whole run of either recipe."""

    budget: float  # FLOPs
    loss: float  # held-out, in nats or bits per byte or token
    child: bool  # else of generation 0


class AtBudget(msgspec.Struct, frozen=True):
    """m and its interval at one budget."""

    budget: float  # FLOPs of the child
    m: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether the interval has two ends."""
        return self.low > 0 and self.high < UNBOUNDED

    @property
    def interval(self) -> str:
        return f"{self.low:.2f} to {self.high:.2f}"

    def __str__(self) -> str:
        return f"{self.m:.2f} ({self.interval})"


class Multiplier(msgspec.Struct, frozen=True):
    """The multiplier from all of the child's budgets together, with its interval and checks.

    Ledgers of format 2 and before hold more fields, and the curvature of one straight line."""

    m: float
    low: float  # end of the interval at `level`
    high: float
    level: float
    slope: float  # nats per e-fold of compute where both recipes have the same loss
    sd: float  # of one run, in nats
    dof: int  # degrees of freedom
    runs: int  # how many were used
    budgets: list[float]  # FLOPs, of all runs
    interaction: float  # difference of the slopes, in nats per e-fold
    p_interaction: float  # of no such difference
    p_curvature: float  # of no difference between the bends
    by_budget: list[AtBudget]  # from the child's runs at one budget each
    extrapolated: bool  # on the mean no budget of generation 0 had the child's loss

    @property
    def depends_on_scale(self) -> bool:
        return self.p_interaction < ALARM

    @property
    def curved(self) -> bool:
        """Whether the child's curve bends otherwise than generation 0's."""
        return self.p_curvature < ALARM

    @property
    def reported(self) -> AtBudget:
        """The one figure to give, at the child's middle budget: m of all its budgets together, or
        where m depends on scale that of the middle one alone, if its interval has two ends."""
        middle = self.by_budget[len(self.by_budget) // 2]
        if self.depends_on_scale and middle.known:
            return middle
        return AtBudget(middle.budget, self.m, self.low, self.high)

    @property
    def reported_se(self) -> float:
        """Standard error of ln m as reported."""
        r = self.reported
        return math.log(r.high / r.low) / 2 / t_quantile((1 + self.level) / 2, self.dof)

    @property
    def caution(self) -> str:
        """In words what the figure leaves out, else empty."""
        said = []
        if self.depends_on_scale:
            way = "grows" if self.interaction > 0 else "shrinks"
            known = [f"{at} at {at.budget:.2g} FLOP" for at in self.by_budget if at.known]
            said.append(f"it {way} with compute: {', '.join(known) or 'how much is not known'}")
        if self.extrapolated:
            said.append(
                f"generation 0 was not run until it had the child's loss ({self.budgets[-1]:.2g} FLOP at "
                "most): beyond that the figure continues its curve, which a longer run may leave"
            )
        if self.curved:
            said.append("the two curves bend differently, which the figure does not allow for")
        return "; ".join(said)


class _Fit(msgspec.Struct, frozen=True):
    """Least squares at each theta."""

    beta: Array  # coefficients a, b, q, g and of a further term [thetas, 4 or 5]
    se: Array  # their standard errors
    dof: int  # degrees of freedom
    sd: Array  # of the residuals [thetas]

    @property
    def p_further(self) -> float:
        """Two-sided p of the further term being 0, at the first theta."""
        beta, se = float(self.beta[0, 4]), float(self.se[0, 4])
        if se == 0:
            return 0.0 if beta != 0 else 1.0
        return 2 * float(t_cdf(-abs(beta) / se, self.dof))


class _Curve(msgspec.Struct, frozen=True):
    """The runs that are used, each field [runs]."""

    log_c: Array  # ln of the budget
    loss: Array
    child: Array  # 1 for the child's, else 0

    def fit(self, theta: Array, term: Array | None = None) -> _Fit:
        """Least squares with the child's runs shifted by each theta [thetas]; term: a further
        column [runs]."""
        u = self.log_c + theta[:, None] * self.child
        u = u - u.mean(axis=1, keepdims=True)
        columns = [np.ones_like(u), -u, u * u, np.broadcast_to(-self.child, u.shape)]
        if term is not None:
            columns.append(np.broadcast_to(term, u.shape))
        design = np.stack(columns, axis=1)  # [thetas, columns, runs]
        inverse = np.linalg.inv(design @ np.swapaxes(design, 1, 2))
        beta = (inverse @ (design @ self.loss)[..., None])[..., 0]
        rest = self.loss - (beta[:, None] @ design)[:, 0]
        dof = self.loss.size - len(columns)
        var = (rest * rest).sum(axis=1) / dof
        se = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2) * var[:, None])
        return _Fit(beta, se, dof, np.sqrt(var))

    def own(self, budget: float, power: int) -> Array:
        """The term with which the child's slope (power 1) or bend (2) may be its own, and g is the
        offset at this budget."""
        return -self.child * (self.log_c - math.log(budget)) ** power


def reached(runs: Sequence[Run]) -> bool:
    """Whether generation 0 need not run longer: on the mean its largest budget gives at most the
    child's loss at its middle one, or one of the two diverged."""
    longest = max(run.budget for run in runs if not run.child)
    ours, theirs = _mean(runs, _middle(runs), True), _mean(runs, longest, False)
    return theirs <= ours or not math.isfinite(theirs)


def fit(runs: Sequence[Run], level: float = 0.95) -> Multiplier:
    """The multiplier of the child over generation 0. Raises MultiplierError for fewer than three
    budgets, fewer than two seeds of a recipe at a budget, a diverged run, or a loss that does not clearly fall
    with compute."""
    if not 0 < level < 1:
        raise MultiplierError(f"level must lie between 0 and 1, got {level}")
    ours, theirs = _check(runs, True), _check(runs, False)
    curve = _curve(runs, theirs[-len(ours) :])
    guess = float(np.log(theirs[-len(ours) :]).mean() - np.log(ours).mean())
    log_m, low, high = _solve(curve, guess, level)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise MultiplierError(
            "the loss does not clearly fall with compute where the two recipes are equal, so a gain in "
            "loss is no gain in compute; use budgets further apart or more seeds"
        )
    here = np.array([log_m])
    plain = curve.fit(here)
    slopes, bends = (curve.fit(here, curve.own(_middle(runs), power)) for power in (1, 2))
    steps = curve.fit(log_m + np.array([-STEP, STEP])).beta[:, 3]
    return Multiplier(
        m=_exp(log_m), low=_exp(low), high=_exp(high), level=level,
        slope=float(steps[0] - steps[1]) / (2 * STEP), sd=float(plain.sd[0]), dof=plain.dof,
        runs=curve.loss.size, budgets=sorted({*ours, *theirs}),
        interaction=float(slopes.beta[0, 4]), p_interaction=slopes.p_further,
        p_curvature=bends.p_further,
        by_budget=[_at(curve, budget, log_m, level) for budget in ours],
        extrapolated=not _met(runs),
    )  # fmt: skip


def _check(runs: Sequence[Run], child: bool) -> list[float]:
    """The budgets of one recipe, in order."""
    who = "the child" if child else "generation 0"
    own = [run for run in runs if run.child == child]
    for run in own:
        if not (math.isfinite(run.budget) and run.budget > 0):
            raise MultiplierError(f"a budget must be a positive number of FLOPs, got {run.budget}")
        if not math.isfinite(run.loss):
            raise MultiplierError(
                f"{who} diverged at {run.budget:.3g} FLOPs: it has no multiplier, and the run "
                "must not be left out"
            )
    budgets = sorted({run.budget for run in own})
    if len(budgets) < LEAST_BUDGETS:
        raise MultiplierError(
            f"{len(budgets)} budget(s) of {who}: a curve with an interval needs at least "
            f"{LEAST_BUDGETS}"
        )
    for budget in budgets:
        seeds = sum(run.budget == budget for run in own)
        if seeds < LEAST_SEEDS:
            raise MultiplierError(
                f"{seeds} run(s) of {who} at {budget:.3g} FLOPs; every recipe and budget needs at least "
                f"{LEAST_SEEDS}"
            )
    return budgets


def _curve(runs: Sequence[Run], budgets: Sequence[float]) -> _Curve:
    """All runs of the child, and those of generation 0 at these budgets."""
    used = [run for run in runs if run.child or run.budget in budgets]
    return _Curve(
        np.log([run.budget for run in used]),
        np.array([run.loss for run in used], dtype=np.float64),
        np.array([float(run.child) for run in used]),
    )


def _middle(runs: Sequence[Run]) -> float:
    budgets = sorted({run.budget for run in runs if run.child})
    return budgets[len(budgets) // 2]


def _mean(runs: Sequence[Run], budget: float, child: bool) -> float:
    losses = [run.loss for run in runs if run.budget == budget and run.child == child]
    return sum(losses) / len(losses)


def _met(runs: Sequence[Run]) -> bool:
    """Whether the child's loss at its middle budget lies within what generation 0 had."""
    least = min(run.budget for run in runs if not run.child)
    return reached(runs) and _mean(runs, _middle(runs), True) <= _mean(runs, least, False)


def _solve(
    curve: _Curve, guess: float, level: float, term: Array | None = None
) -> tuple[float, float, float]:
    """theta at which g is 0, and the ends of the interval around it; infinite where there are none
    within REACH of the guess."""
    t = t_quantile((1 + level) / 2, curve.loss.size - (4 if term is None else 5))

    def away(theta: Array, sides: Array) -> Array:
        """[sides, thetas]: falls through zero at the estimate (side 0), and at the lower (-1) and
        upper (1) end of the interval."""
        found = curve.fit(theta, term)
        return found.beta[:, 3] + sides[:, None] * t * found.se[:, 3]

    grid = np.linspace(guess - REACH, guess + REACH, POINTS)
    lower, middle, upper = map(_falls, away(grid, np.array([-1.0, 0, 1])))
    if not middle.size:
        return math.inf, -math.inf, math.inf
    here = middle[np.argmin(np.abs(grid[middle] - guess))]
    lower, upper = lower[lower <= here], upper[upper >= here]

    def zero(place: int, side: int) -> float:
        sides = np.array([float(side)])
        return _zero(lambda theta: away(theta, sides)[0], grid[place], grid[place + 1])

    return (
        zero(here, 0),
        zero(lower[-1], -1) if lower.size else -math.inf,
        zero(upper[0], 1) if upper.size else math.inf,
    )


def _falls(values: Array) -> npt.NDArray[np.intp]:
    """Places after which the values fall through zero."""
    return np.nonzero((values[:-1] > 0) & (values[1:] <= 0))[0]


def _zero(f: Callable[[Array], Array], low: float, high: float) -> float:
    """Where f falls through zero between low and high: between two of 33 points by a straight line."""
    grid = np.linspace(low, high, 33)
    values = f(grid)
    after = min(max(int((values > 0).sum()), 1), 32)
    above, below = values[after - 1], values[after]
    share = above / (above - below) if above > below else 0.5
    return float(grid[after - 1] + share * (grid[after] - grid[after - 1]))


def _at(curve: _Curve, budget: float, guess: float, level: float) -> AtBudget:
    """m at one of the child's budgets, where slopes may differ."""
    log_m, low, high = _solve(curve, guess, level, curve.own(budget, 1))
    return AtBudget(budget, _exp(log_m), _exp(low), _exp(high))


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))
