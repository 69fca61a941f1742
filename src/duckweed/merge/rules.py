"""How decoded contributions become one pseudo-gradient. Pure functions, bit for bit the same everywhere.

With w_i the integer weight of peer i (its share of the tokens) and x_i what it sent:

    mean          g = sum w_i x_i / sum w_i
    contributors  g = sum w_i x_i / sum of the w_i that sent the coordinate (SparseLoCo, 2508.15706)
    bounded       per tensor: g = median_i |x_i| * mean / |mean|   (after the radial-directional
                  average of Decoupled DiLoCo, 2604.21428, with the median for its mean, so that
                  neither churn nor one huge contribution changes the size of the step)
"""

import math
from collections.abc import Sequence

import numpy as np

from duckweed.merge.exact import median, squared_norm
from duckweed.run.layout import Layout
from duckweed.wire.contribution import Decoded
from duckweed.wire.update import Update

WEIGHT_LIMIT = 16
FACTOR_LIMIT = 1e30


def weights_of(tokens: Sequence[int]) -> list[int]:
    """Small integer weights in proportion to tokens: 1 each when all did equal work, at most 16,
    so that a weighted sum of integer codes stays a sum of small integers."""
    most = max(tokens)
    weights = [max(1, round(WEIGHT_LIMIT * count / most)) for count in tokens]
    divisor = math.gcd(*weights)
    return [weight // divisor for weight in weights]


def pseudo_gradient(
    rule: str, layout: Layout, contributions: Sequence[Decoded], weights: Sequence[int]
) -> np.ndarray:
    """f32[P] from decoded contributions in the order of their peers (dense and sparse wires)."""
    total = np.zeros(layout.total, np.float32)
    for contribution, weight in zip(contributions, weights, strict=True):
        total += np.multiply(contribution.values, np.float32(weight))
    if rule == "contributors":
        sent = np.zeros(layout.total, np.float32)
        for contribution, weight in zip(contributions, weights, strict=True):
            assert contribution.mask is not None
            sent += np.multiply(contribution.mask, np.float32(weight), dtype=np.float32)
        np.divide(total, sent, out=total, where=sent > 0)
        return total
    total /= np.float32(sum(weights))
    if rule == "bounded":
        for part in layout.slices():
            norms = [math.sqrt(squared_norm(c.values[part])) for c in contributions]
            _resize(total[part], median(norms), math.sqrt(squared_norm(total[part])))
    return total


def pseudo_gradient_of_sums(
    rule: str, layout: Layout, update: Update, scales: np.ndarray, value: float
) -> np.ndarray:
    """f32[P] from the exact sum of integer codes; scales f32[T], value: what code 1 stands for."""
    total = update.sums.astype(np.float32)
    count = np.float32(sum(update.weights))
    for t, part in enumerate(layout.slices()):
        unit = np.float32(value) * np.float32(scales[t])
        if rule == "mean":
            total[part] *= unit / count
            continue
        sums = update.sums[part].astype(np.int64)
        size = median([math.sqrt(int(square)) for square in update.squares[:, t]])
        _resize(total[part], size * float(unit), math.sqrt(int(np.dot(sums, sums))))
    return total


def _resize(x: np.ndarray, wanted: float, length: float) -> None:
    """Scale x in place from its length to the wanted one. What all but vanished in the mean has no
    direction left: it becomes zero, where a float32 factor would overflow."""
    x *= np.float32(wanted / length) if wanted < FACTOR_LIMIT * length else np.float32(0)
