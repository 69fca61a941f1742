"""Compiling to machine code at the first call; later processes load it from a cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: compile for the types of the arguments; the interpreter's lock is not held while it runs.

    The cache lies beside the source, or in the user's cache folder, or in NUMBA_CACHE_DIR. Where none of
    them can be written, every process compiles for itself. Without `fastmath`: the same bits as NumPy.
    """
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache
        return njit(nogil=True, error_model="numpy")(function)
