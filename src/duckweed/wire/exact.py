"""Arithmetic whose result does not depend on the machine: fixed order, no contraction."""

import numpy as np

_AT_ONCE = 1 << 16  # values, so that what lies between two passes stays in the cache


def squared_norm(x: np.ndarray) -> float:
    """Sum of squares of float32 values, in float64, added in halves: the order is part of the
    definition, so that every processor gets the same bits (BLAS and np.sum promise no order)."""
    x = x.reshape(-1)
    sizes = [x.size]
    while sizes[-1] > _AT_ONCE:
        sizes.append((sizes[-1] + 1) // 2)
    y, n = _folded(x, sizes, len(sizes) - 1, 0, sizes[-1]), sizes[-1]
    while n > 1:
        half = (n + 1) // 2
        y[: n - half] += y[half:n]
        n = half
    return float(y[0]) if y.size else 0.0


def _folded(x: np.ndarray, sizes: list[int], level: int, start: int, stop: int) -> np.ndarray:
    """Part start:stop of the squares of x after `level` halvings, f64: of sizes[level] values, each
    the sum of one of the first half of sizes[level - 1] and, where there is one, one of the second."""
    if level == 0:
        y = x[start:stop].astype(np.float64)
        y *= y
        return y
    y = _folded(x, sizes, level - 1, start, stop)
    half = sizes[level]
    stop = min(half + stop, sizes[level - 1])
    if stop > half + start:
        y[: stop - half - start] += _folded(x, sizes, level - 1, half + start, stop)
    return y


def weighted_median(values: list[float], weights: list[float]) -> float:
    """The value at which half of the weight is reached; where it is reached exactly between two, half
    their sum. Who has less than half of the weight cannot move it beyond what the others say."""
    left = 0.5 * sum(weights)
    ordered = sorted(zip(values, weights, strict=True))
    for place, (value, weight) in enumerate(ordered):
        left -= weight
        if left < 0 or place == len(ordered) - 1:
            return value
        if left == 0:
            return 0.5 * (value + ordered[place + 1][0])
    raise ValueError("the median of nothing")


def median(values: list[float]) -> float:
    """The middle value; of two middle ones, half their sum."""
    ordered = sorted(values)
    n = len(ordered)
    return ordered[n // 2] if n % 2 else 0.5 * (ordered[n // 2 - 1] + ordered[n // 2])
