"""One step of fitting a map of activity."""

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
