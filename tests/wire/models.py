"""Synthetic pseudo-gradients for the tests, the same on every machine."""

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire.codecs.sums import Sums, decode, encode

SMALL = Layout.of({"embed": (40, 24), "gain": (24,), "scalar": (), "mix": (3, 10, 24)})
MEDIUM = Layout.of({"embed": (256, 128), "up": (344, 128), "down": (128, 344), "gain": (128,)})


def draw(layout: Layout, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values with a bell-shaped distribution f32[P], and the root mean square of each tensor."""
    raw = np.random.PCG64(seed).random_raw(layout.total).view(np.uint16).reshape(-1, 4)
    x = ((raw.astype(np.int32) - 32768).sum(axis=1) / 131072).astype(np.float32)
    return x, np.array([np.sqrt(np.mean(x[part] ** 2)) for part in layout.slices()], np.float32)


def codes(layout: Layout, rate: float, seed: int = 0) -> np.ndarray:
    """Ternary codes, nonzero at the rate, int8[P]."""
    rng = np.random.default_rng(seed)
    return ((rng.random(layout.total) < rate) * rng.choice([-1, 1], layout.total)).astype(np.int8)


def entropy(values: np.ndarray, layout: Layout) -> float:
    """Bits that the values take at the order-0 entropy of each tensor."""
    bits = 0.0
    for part in layout.slices():
        count = np.unique(values[part], return_counts=True)[1]
        bits -= float((count * np.log2(count / count.sum())).sum())
    return bits


def total(
    sums: np.ndarray, squares: np.ndarray, weights: list[int], layout: Layout, levels: int
) -> Sums:
    """A sum of codes that never were: to be encoded as an update."""
    made = Sums(layout, np.ones(len(layout.names), np.float32), levels)
    made.sums, made.squares, made.weights = sums, np.asarray(squares).tolist(), weights
    return made


def encode_update(
    sums: np.ndarray, squares: np.ndarray, weights: list[int], layout: Layout, levels: int
) -> bytes:
    return encode(total(sums, squares, weights, layout, levels))


def decode_update(blob: bytes, layout: Layout, levels: int, contributors: int) -> Sums:
    return decode(blob, layout, np.ones(len(layout.names), np.float32), levels, contributors)
