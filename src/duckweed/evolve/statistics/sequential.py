"""Is the child better than its parent? A paired test that may be looked at after every pair.

One pair is one parent run and one child run on the same fresh seed, worker and compute;
d = loss(parent) - loss(child) > 0 says that the child is better. d may be in nats, or in units of
ln compute (nats divided by the slope of the loss in ln compute): the test does not see the unit.
H0: the mean of d is at most `delta`.

The evidence is an e-process: a number E that starts at 1 and whose mean is at most 1 under H0 *at
every stopping time*, so that accepting when E >= 1/alpha is wrong with probability at most alpha
however often one looks (Ville 1939). Ours is the one-sided t-test with a half-normal prior on the
effect mean/sd and the scale-invariant prior on the sd, which is why the sd need not be known:

    x_i = d_i - delta,  c = sum x / sqrt(sum x^2),  q = spread^2 / (1 + n spread^2),  k = 1 - q c^2
    E_n = 2 (1 + n spread^2)^(-1/2) k^(-n/2) T_n(c sqrt(n q / k))

with T_n the distribution function of Student's t with n degrees of freedom. Sources: Lai 1976
(On confidence sequences), Perez-Ortiz, Lardy, de Heide & Gruenwald 2022 (E-statistics, group
invariance and anytime-valid testing): ratios of the maximal invariant's densities are test
martingales under every N(0, sd^2). For means below zero: E rises with c, and c falls when all x
are shifted down, so E is path by path below what it would have been at mean zero.

The A/A pilot's sd is deliberately *not* used in E: with 16 pairs it is uncertain by a third, and a
child may be noisier than its parent; both make a test with a plugged-in sd accept too often (see
docs/evolve.md). The pilot plans: how many pairs, and which effect can be found at all.

What is assumed: differences independent and nearly normal. Stopping early ("futile", "worse",
out of pairs) only ever loses power.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from duckweed.evolve.statistics.t_distribution import Array, t_cdf

SPREAD = 2.0
"""Prior sd of the effect mean/sd under the alternative; see docs/evolve.md."""
HOPE = 2.0
"""Futility supposes a mean this many standard errors above the one seen."""
LEAST_FOR_FUTILITY = 3

Verdict = Literal["continue", "accepted", "worse", "futile", "undecided"]
"""continue: run another pair. accepted: better. worse: shown to be worse, or diverged. futile: the
remaining pairs can hardly reach acceptance. undecided: all pairs used."""


class SequentialError(ValueError):
    """Differences or settings that the test cannot use: says which and what to do."""


class Evidence(msgspec.Struct, frozen=True):
    """The test's whole state."""

    delta: float = 0.0  # the margin of H0, in the unit of d
    spread: float = SPREAD
    pairs: int = 0  # seen so far
    total: float = 0.0  # sum of x = d - delta
    squares: float = 0.0  # sum of x^2
    first: float = 0.0  # the first x
    varies: bool = False  # some x differed from the first
    diverged: bool = False  # a run of the child ended without a finite loss

    def update(self, d: float) -> "Evidence":
        """With one more pair. d = -inf: the child diverged. Raises SequentialError for nan or
        +inf, which is the parent's failure: run that pair again."""
        if math.isnan(d) or d == math.inf:
            raise SequentialError(
                f"pair {self.pairs + 1}: difference {d}: the parent's loss is not finite; run the pair again"
            )
        if d == -math.inf:
            return msgspec.structs.replace(self, pairs=self.pairs + 1, diverged=True)
        x = d - self.delta
        return msgspec.structs.replace(
            self, pairs=self.pairs + 1, total=self.total + x, squares=self.squares + x * x,
            first=x if self.pairs == 0 else self.first,
            varies=self.varies or (self.pairs > 0 and x != self.first),
        )  # fmt: skip

    @property
    def inert(self) -> bool:
        """Two or more pairs without any difference at all: the change is not active."""
        return self.pairs > 1 and not self.varies and self.first + self.delta == 0

    @property
    def e_value(self) -> float:
        """E for "better". 0 after divergence. Capped at 1e300."""
        return self._e(1.0)

    @property
    def e_worse(self) -> float:
        """E for "worse than delta"."""
        return math.inf if self.diverged else self._e(-1.0)

    def _e(self, sign: float) -> float:
        if self.diverged:
            return 0.0
        if self.pairs > 1 and not self.varies and self.first != 0 and not self.inert:
            raise SequentialError(
                f"{self.pairs} pairs gave exactly the same difference {self.first + self.delta:g}: the "
                "seeds do not reach the runs, so nothing is known about noise"
            )
        if self.pairs == 0 or self.squares == 0:
            c = 0.0
        else:
            c = sign * self.total / math.sqrt(self.squares)
        return float(np.exp(np.minimum(log_e(self.pairs, c, self.spread), 690.0)))

    @property
    def mean(self) -> float:
        """Mean difference, in the unit of d. Biased upwards after "accepted": it decides, and is not what is reported."""
        return self.delta + self.total / self.pairs if self.pairs else math.nan

    @property
    def sd(self) -> float:
        """Sample sd of the differences; nan below two pairs."""
        if self.pairs < 2:
            return math.nan
        rest = max(self.squares - self.total**2 / self.pairs, 0.0)
        return math.sqrt(rest / (self.pairs - 1))


def decision(evidence: Evidence, alpha: float, most: int) -> Verdict:
    """What to do after the pairs so far. alpha: level of this test (`spending` gives it); most:
    number of pairs that the budget allows. Ask after every pair: accepted is accepted."""
    _check(alpha, most)
    if evidence.diverged:
        return "worse"
    if evidence.e_value >= 1 / alpha:
        return "accepted"
    # a level of 0.05 on this side: it wastes a good proposal at most that often, and no false one
    if evidence.e_worse >= 20:
        return "worse"
    if evidence.pairs >= most:
        return "undecided"
    hopeless = futile(
        evidence.pairs, np.array([evidence.total]), np.array([evidence.squares]), alpha, most,
        evidence.spread,
    )  # fmt: skip
    return "futile" if hopeless[0] or evidence.inert else "continue"


def interval(evidence: Evidence, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of d that holds at every stopping time at once (a confidence sequence):
    all deltas that neither side of the test rejects at (1 - level)/2."""
    n = evidence.pairs
    if n < 2:
        return -math.inf, math.inf
    c = critical(n, (1 - level) / 2, evidence.spread)
    if not c < math.sqrt(n):
        return -math.inf, math.inf
    v = evidence.sd**2 * (n - 1) / n
    half = c * math.sqrt(v / (n - c * c))
    return evidence.mean - half, evidence.mean + half


class Pilot(msgspec.Struct, frozen=True):
    """The parent against itself."""

    pairs: int
    sd: float  # of a paired difference, in the unit of d
    mean: float  # of the differences; must be near 0
    t: float  # Student's t of the mean


def pilot(differences: Sequence[float]) -> Pilot:
    """The noise from A/A differences d = loss(seed) - loss(other seed); at least 4 pairs, all
    finite. Raises SequentialError."""
    d = np.asarray(differences, dtype=np.float64)
    if d.size < 4:
        raise SequentialError(f"a pilot needs at least 4 pairs to know the noise, got {d.size}")
    if not np.isfinite(d).all():
        raise SequentialError("the parent's own runs diverge: no pilot; choose a calmer parent")
    # the true mean is 0: parent and parent are the same recipe
    square = float((d**2).mean())
    if square == 0:
        raise SequentialError(
            "parent and parent give the same loss: the seeds do not reach the runs"
        )
    t = float(d.mean() / (d.std(ddof=1) / math.sqrt(d.size))) if d.std() > 0 else math.inf
    return Pilot(int(d.size), math.sqrt(square), float(d.mean()), t)


def power(
    effect: float, sd: float, alpha: float, most: int, spread: float = SPREAD, paths: int = 4000
) -> float:
    """Probability that `decision` accepts a child of mean difference `effect` (same unit as sd,
    beyond delta) within `most` pairs, futility included. By simulation with a fixed seed."""
    _check(alpha, most)
    if not sd > 0:
        raise SequentialError(f"the sd of the differences must be positive, got {sd}")
    noise = np.random.default_rng(0).standard_normal((paths, most))
    return float(run(noise + effect / sd, alpha, most, spread).accepted.mean())


def smallest_effect(
    sd: float, alpha: float, most: int, chance: float = 0.8, spread: float = SPREAD
) -> float:
    """The mean difference (unit of sd) that is accepted with probability `chance` within `most`
    pairs; inf where even an enormous effect could not be (too few pairs for alpha)."""
    _check(alpha, most)
    low, high = 0.0, 64.0
    if power(high, 1.0, alpha, most, spread, 200) < chance:
        return math.inf
    while high - low > 0.005 * high:
        middle = (low + high) / 2
        enough = power(middle, 1.0, alpha, most, spread) >= chance
        low, high = (low, middle) if enough else (middle, high)
    return high * sd


class Runs(msgspec.Struct, frozen=True):
    """Many tests at once, each field [S]."""

    accepted: npt.NDArray[np.bool_]
    worse: npt.NDArray[np.bool_]
    pairs: npt.NDArray[np.int64]  # used
    mean: Array  # of d when the test stopped


def run(x: Array, alpha: float | Array, most: int, spread: float = SPREAD) -> Runs:
    """`decision` after every pair for many streams. x [S, most]: d - delta; alpha: one or [S]."""
    count = x.shape[0]
    level = np.broadcast_to(np.asarray(alpha, dtype=np.float64), (count,))
    accepted, worse = np.zeros(count, bool), np.zeros(count, bool)
    used, mean = np.zeros(count, np.int64), np.zeros(count)
    live = np.arange(count)
    total, squares = np.zeros(count), np.zeros(count)
    for n in range(1, most + 1):
        total, squares = total + x[live, n - 1], squares + x[live, n - 1] ** 2
        c = total / np.sqrt(np.maximum(squares, 1e-300))
        good = log_e(n, c, spread) >= -np.log(level[live])
        bad = ~good & (log_e(n, -c, spread) >= math.log(20))
        stop = good | bad | (n == most)
        if n < most:
            stop |= futile(n, total, squares, level[live], most, spread)
        accepted[live[good]], worse[live[bad]] = True, True
        used[live[stop]], mean[live[stop]] = n, total[stop] / n
        live, total, squares = live[~stop], total[~stop], squares[~stop]
        if not live.size:
            break
    return Runs(accepted, worse, used, mean)


def log_e(n: int, c: npt.ArrayLike, spread: float = SPREAD) -> Array:
    """ln E after n pairs for c = sum x / sqrt(sum x^2), any shape, |c| <= sqrt(n)."""
    c = np.asarray(c, dtype=np.float64)
    if n == 0:
        return np.zeros_like(c)
    q = spread**2 / (1 + n * spread**2)
    k = 1 - q * np.minimum(c * c, n)
    tail = t_cdf(c * np.sqrt(n * q / k), n)
    return (
        math.log(2) - 0.5 * math.log1p(n * spread**2) - 0.5 * n * np.log(k)
        + np.log(np.maximum(tail, 1e-300))
    )  # fmt: skip


@lru_cache(4096)
def critical(n: int, alpha: float, spread: float = SPREAD) -> float:
    """The c from which n pairs accept at alpha; sqrt(n) or more means never with n pairs."""
    low, high = 0.0, math.sqrt(n)
    if float(log_e(n, high, spread)) < -math.log(alpha):
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        enough = float(log_e(n, middle, spread)) >= -math.log(alpha)
        low, high = (low, middle) if enough else (middle, high)
    return high


def futile(
    n: int, total: Array, squares: Array, alpha: float | Array, most: int, spread: float = SPREAD
) -> npt.NDArray[np.bool_]:
    """Where acceptance at the last pair would need more than the remaining pairs having a mean
    HOPE standard errors above the one seen, with the sd seen."""
    if n < LEAST_FOR_FUTILITY:
        return np.zeros(total.shape, bool)
    mean = total / n
    var = np.maximum(squares - n * mean**2, 0) / (n - 1)
    hoped = mean + HOPE * np.sqrt(var / n)
    last = (n * mean + (most - n) * hoped) / most
    scale = np.sqrt(var + last**2)
    c = math.sqrt(most) * last / np.maximum(scale, 1e-300)
    return log_e(most, c, spread) < -np.log(np.asarray(alpha, dtype=np.float64))


def _check(alpha: float, most: int) -> None:
    if not 0 < alpha < 1:
        raise SequentialError(f"alpha must lie between 0 and 1, got {alpha}")
    if most < 1:
        raise SequentialError(f"a test needs at least one pair, got {most}")
