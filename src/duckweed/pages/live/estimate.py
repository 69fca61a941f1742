"""When a run will be done, as far as its last rounds can tell."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from duckweed.evolve.statistics.t_distribution import t_quantile

RECENT = 40  # rounds that are looked at: older ones had other peers
FEWEST = 3  # rounds without which nothing is said
LEVEL = 0.9  # of the interval


class Estimate(NamedTuple):
    """Seconds that are left."""

    middle: float
    low: float
    high: float


def time_left(seconds: Sequence[float], left: int) -> Estimate | None:
    """How long `left` more rounds take, with a `LEVEL` interval; None while too few have closed.

    seconds: of the closed rounds in order. The rounds to come are taken to be draws like the last
    `RECENT`: a prediction interval for the sum of n normal draws after k, m n +- t s sqrt(n + n^2 / k)
    (Hahn & Meeker, Statistical Intervals, 1991, section 4.8), never below the fastest rounds seen.
    That peers will come or go is not in it.
    """
    known = [x for x in seconds[-RECENT:] if math.isfinite(x) and x >= 0]
    k = len(known)
    if k < FEWEST or left <= 0:
        return Estimate(0.0, 0.0, 0.0) if left <= 0 else None
    mean = sum(known) / k
    spread = math.sqrt(sum((x - mean) ** 2 for x in known) / (k - 1))
    reach = t_quantile(0.5 + LEVEL / 2, k - 1) * spread * math.sqrt(left + left * left / k)
    middle = mean * left
    return Estimate(middle, max(min(known) * left, middle - reach), middle + reach)
