"""How likely each value is to be nonzero, described in few bits beside the values themselves."""

from __future__ import annotations

import numpy as np

from .layout import Layout
from .magnitudes import GRID, nearest, put_index, take_index
from .rans import Decoder, Encoder


def put(encoder: Encoder, flags: np.ndarray, layout: Layout) -> None:
    """Codes flags bool[P] and the description of their probabilities."""
    counts = np.add.reduceat(flags, layout.offsets[:-1], dtype=np.int64)
    index = nearest(counts, np.asarray(layout.sizes))
    put_index(encoder, index)
    encoder.put(flags, np.repeat(GRID[index], layout.sizes))


def take(decoder: Decoder, layout: Layout) -> np.ndarray:
    """The flags, bool[P]."""
    index = take_index(decoder, len(layout.sizes))
    return decoder.take(layout.total, np.repeat(GRID[index], layout.sizes))
