"""Chunks: runs of at most so many values, which never reach over the end of a tensor."""

from __future__ import annotations

import numpy as np

from duckweed.run.layout import Layout


def starts(layout: Layout, chunk: int) -> np.ndarray:
    """Where each of the C chunks starts, and the total at the end, int64[C+1]."""
    parts = [
        np.arange(a, b, chunk, dtype=np.int64)
        for a, b in zip(layout.offsets[:-1].tolist(), layout.offsets[1:].tolist(), strict=True)
    ]
    return np.concatenate([*parts, layout.offsets[-1:]])


def counts(places: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """How many of the sorted places [K] lie in each of the chunks or tensors, int64[C]."""
    return np.diff(np.searchsorted(places, starts))
