"""Arithmetic whose result does not depend on the machine: fixed order, no contraction."""

import numpy as np


def squared_norm(x: np.ndarray) -> float:
    """Sum of squares of float32 values, in float64, added in halves: the order is part of the
    definition, so that every processor gets the same bits (BLAS and np.sum promise no order)."""
    y = x.astype(np.float64).reshape(-1)
    y *= y
    n = y.size
    while n > 1:
        half = (n + 1) // 2
        y[: n - half] += y[half:n]
        n = half
    return float(y[0]) if y.size else 0.0


def median(values: list[float]) -> float:
    """The middle value; of two middle ones, half their sum."""
    ordered = sorted(values)
    n = len(ordered)
    return ordered[n // 2] if n % 2 else 0.5 * (ordered[n // 2 - 1] + ordered[n // 2])
