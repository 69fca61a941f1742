"""How fast research goes at a given level: the law of the race.

Level x is counted in doublings of software efficiency since the start; x = 0 is the leader's level
when the clock starts. The speed, in doublings a year, of an actor with effort weight w is

    v(x) = w v0 f^a(x) 2^(p B(x)),     B(x) = int_0^x a(y) (1 - 1/r(y)) dy,   r(y) = r (1 - y/N)

v0: doublings a year today; a(x): the automated share of research; f: the speed-up at full
automation of today's level; r: doublings of software per doubling of cumulative research effort;
p: parallelism (ten times the effort gives 10^p times the speed); N: doublings to the ceiling.
With a = 1 this is Davidson & Houlden, "How quick and big would a software intelligence explosion
be?" (Forethought, 2025) in continuous form. The human share 1 - a neither speeds up nor slows
down: more people and compute have offset harder ideas so far, and v0 is what that gave.
"""

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NO_CEILING = 1e12
"""Doublings that stand for "no ceiling": r falls by one part in 10^10 over 100 doublings."""

DOUBLINGS_PER_YEAR = 8.0
"""Doublings of software worth one year of today's progress (4 of software, the rest compute,
at a software share of one half: Davidson & Houlden count 8 per year of recent progress)."""


class Law(msgspec.Struct, frozen=True):
    """Parameters of the law, one value per sample (arrays of shape [S], or scalars).

    start, full: automated share at x = 0 and at x = span; span in doublings; ceiling: N.
    """

    returns: Array
    speedup: Array
    parallel: Array
    ceiling: Array
    start: Array
    full: Array
    span: Array
    today: float = DOUBLINGS_PER_YEAR / 2

    def take(self, keep: Array) -> "Law":
        """The same law for some of the samples."""
        parts: dict[str, Any] = {name: np.asarray(getattr(self, name))[keep] for name in FIELDS}
        return Law(**parts, today=self.today)


FIELDS = ("returns", "speedup", "parallel", "ceiling", "start", "full", "span")


def automation(law: Law, x: Array) -> Array:
    """a(x): none of the feedback below zero, then a ramp, then constant."""
    ramp = law.start + (law.full - law.start) * np.minimum(x / law.span, 1.0)
    return np.where(x >= 0, ramp, 0.0)


def slope(law: Law, x: Array) -> Array:
    """d ln v / dx at x: positive where progress feeds on itself faster than ideas get harder."""
    a = automation(law, x)
    rising = (x >= 0) & (x < law.span)
    jump = np.where(rising, (law.full - law.start) / law.span, 0.0) * np.log(law.speedup)
    room = np.maximum(1.0 - x / law.ceiling, 1e-6)
    return jump + math.log(2) * law.parallel * a * (1.0 - 1.0 / (law.returns * room))


def log_speed(law: Law, x: Array) -> Array:
    """ln v(x) for w = 1, from the integral in closed form (see the module's docstring).

    With m = min(x, span), g = (full-start)/span and l(x) = -ln(1 - x/N):
    int a = start m + g m^2/2 + full (x-m);
    int a/(1-y/N) = N [(start + g N) l(m) - g m] + full N (l(x) - l(m)).
    """
    x = np.maximum(x, 0.0)
    n, m = law.ceiling, np.minimum(x, law.span)
    gain = (law.full - law.start) / law.span
    lx = -np.log1p(-np.minimum(x / n, 1 - 1e-6))
    lm = np.minimum(lx, -np.log1p(-np.minimum(law.span / n, 1 - 1e-6)))
    share = law.start * m + gain * m * m / 2 + law.full * (x - m)
    harder = n * ((law.start + gain * n) * lm - gain * m) + law.full * n * (lx - lm)
    harder = np.where(n >= NO_CEILING, share, harder)  # where n^2 - n^2 would leave only noise
    feedback = law.parallel * math.log(2) * (share - harder / law.returns)
    return math.log(law.today) + (law.start + gain * m) * np.log(law.speedup) + feedback


def speed(law: Law, x: Array) -> Array:
    """v(x) in doublings a year for w = 1; below zero it is today's speed."""
    return np.where(x >= 0, np.exp(log_speed(law, x)), law.today)
