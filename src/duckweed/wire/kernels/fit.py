"""Fitting a map of activity: which classes there are, and a step towards the most likely ones."""

from __future__ import annotations

import math

import numpy as np

from duckweed.wire.kernels.jit import kernel


@kernel
def newton(ours, sums, theirs, sizes, cap):  # type: ignore[no-untyped-def]
    """A Newton step of log-odds `ours`, float64[A], of which each has a sum of magnitudes, float64[A]; `theirs`,
    float64[B], are those of the other side, each of as many members as `sizes` says, float64[B]. cap: the most that a value
    counts. Returns how far the one that moved most has moved."""
    odds = np.exp(-theirs)  # of a product of the two: one exponential for each, not for each pair
    most = 0.0
    for i in range(len(ours)):
        own, expected, spread = math.exp(-ours[i]), 0.0, 0.0
        for j in range(len(theirs)):
            p = 1.0 / (1.0 + own * odds[j])
            expected += sizes[j] * p
            spread += sizes[j] * p * (1.0 - p)
        step = (sums[i] - cap * expected) / (cap * spread + 0.5)
        step = max(-1.0, min(1.0, step))
        ours[i] = max(-9.0, min(9.0, ours[i] + step))
        most = max(most, abs(step))
    return most


@kernel
def kinds(x):  # type: ignore[no-untyped-def]
    """See duckweed.wire.entropy.tables.kinds."""
    low, high = x[0], x[0]
    for i in range(len(x)):
        low, high = min(low, x[i]), max(high, x[i])
    seen = np.zeros(high - low + 1, np.int64)
    for i in range(len(x)):
        seen[x[i] - low] += 1
    which, sizes = np.empty(len(seen), np.int64), np.empty(len(seen), np.int64)
    place, found = np.empty(len(seen), np.int64), 0
    for k in range(len(seen)):
        which[found], sizes[found], place[k] = low + k, seen[k], found
        found += np.intp(seen[k] > 0)
    of = np.empty(len(x), np.int64)
    for i in range(len(x)):
        of[i] = place[x[i] - low]
    return which[:found], of, sizes[:found]
