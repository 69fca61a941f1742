"""Looking up and counting small integers, a part at a time.

NumPy makes eight bytes of every index before it uses it: for all values of a model at once that is
twice the memory of the model itself, written and read again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_AT_ONCE = 1 << 18  # so that what lies between two passes stays in the cache


def parts(count: int) -> Iterator[slice]:
    """Slices that cover 0..count."""
    for start in range(0, count, _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, count))


def look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``table[index]``, [N] of the type of the table."""
    out = np.empty(len(index), table.dtype)
    for here in parts(len(index)):
        np.take(table, index[here], out=out[here], mode="clip")
    return out


def count(index: np.ndarray, at_least: int = 0) -> np.ndarray:
    """How often 0, 1, 2, ... come in ``index`` [N]: int64, as `np.bincount` gives it."""
    length = max(at_least, 1 + int(index.max()) if len(index) else 0)
    out = np.zeros(length, np.int64)
    for here in parts(len(index)):
        out += np.bincount(index[here], minlength=length)
    return out


def smallest(largest: int) -> type:
    """The smallest signed integer that holds all numbers of as many bits as ``largest``."""
    return np.int8 if largest < 128 else np.int16 if largest < 1 << 15 else np.int32
