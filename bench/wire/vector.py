"""A made-up pseudo-gradient."""

from typing import NamedTuple

import numpy as np

from duckweed.run.layout import Layout


class Vector(NamedTuple):
    values: np.ndarray
    """f32[P]."""
    scales: np.ndarray
    """f32[T]: the root of the mean square of each tensor."""
    layout: Layout


def synthetic(millions: int, seed: int) -> Vector:
    """A transformer-like vector: bell-shaped values, log-normal activity of rows and columns."""
    layout = _layout(millions)
    x = np.random.default_rng(seed).standard_normal(layout.total, np.float32)
    shared = np.random.default_rng(0)
    for part, shape in zip(layout.slices(), layout.shapes, strict=True):
        if len(shape) == 2:
            matrix = x[part].reshape(shape)
            matrix *= np.exp(0.5 * shared.standard_normal((shape[0], 1), np.float32))
            matrix *= np.exp(0.3 * shared.standard_normal((1, shape[1]), np.float32))
    scales = [
        np.sqrt(np.vdot(x[part], x[part]) / (part.stop - part.start)) for part in layout.slices()
    ]
    return Vector(x, np.array(scales, np.float32), layout)


def _layout(millions: int) -> Layout:
    width = 1024
    rows = millions * 1_000_000 // width
    return Layout.of(
        {"embed": (rows // 4, width)}
        | {f"layer{i}": (rows // 16, width) for i in range(12)}
        | {f"norm{i}": (width,) for i in range(12)}
    )
