"""Sums over the rows and columns of a matrix of integers."""

from __future__ import annotations

import numpy as np

from duckweed.wire.kernels.jit import kernel


@kernel
def flags(numbers, rows, columns, minus):  # type: ignore[no-untyped-def]
    """Of numbers [R, C]: how many are not zero in each row, int64[R], and column, int32[C], and how many of a
    column are negative, int32[C]; the last two are added to."""
    for r in range(len(numbers)):
        row = numbers[r]
        total = np.int32(0)
        for c in range(len(row)):
            number = row[c]
            nonzero = np.int32(number != 0)
            columns[c] += nonzero
            minus[c] += np.int32(number < 0)
            total += nonzero
        rows[r] = total


@kernel
def sizes(numbers, cap, rows, columns, nonzero, minus):  # type: ignore[no-untyped-def]
    """Of numbers [R, C]: the sums of min(magnitude, cap) of each row, int64[R], and column, int32[C]; how many
    of a column are not zero and negative, int32[C]. All but rows are added to. Returns the sum of squares of min(magnitude, cap)."""
    squares = np.int64(0)
    for r in range(len(numbers)):
        row = numbers[r]
        total = np.int32(0)
        for c in range(len(row)):
            number = np.int32(row[c])
            size = min(abs(number), np.int32(cap))
            columns[c] += size
            nonzero[c] += np.int32(number != 0)
            minus[c] += np.int32(number < 0)
            total += size
            squares += np.int64(size * size)
        rows[r] = total
    return squares
