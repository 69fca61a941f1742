"""Coding of signs: raw, but by column where the columns of a tensor lean to one side.

In an output head every token that was not in the text moves the same way, against the mean of the
hidden states: there almost all values of a column have one sign, which then costs far less than
a bit. Elsewhere signs are as good as random, and raw bits are free to code.
"""

from __future__ import annotations

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire.entropy.activity import (
    PER_NAT,
    classes_of,
    matrix,
    put_classes,
    step_of,
    take_classes,
)
from duckweed.wire.entropy.magnitudes import GRID, HALF_LEVEL, LEVELS, put_bits, take_bits
from duckweed.wire.entropy.rans import Decoder, Encoder


def put_signs(encoder: Encoder, numbers: np.ndarray, flags: np.ndarray, layout: Layout) -> None:
    """Signs of the nonzero (``flags``) of ``numbers`` [P]."""
    negative = (numbers < 0) & flags
    leanings = [
        _lean(negative[part].reshape(matrix(shape)), flags[part].reshape(matrix(shape)))
        for part, shape in zip(layout.slices(), layout.shapes, strict=True)
    ]
    put_bits(encoder, np.array([step for step, _ in leanings]), 3)
    put_classes(encoder, [classes for step, classes in leanings if step])
    for part, (step, classes) in zip(layout.slices(), leanings, strict=True):
        signs = negative[part][flags[part]]
        if step:
            encoder.put(signs, _chances(step, classes, flags[part]))
        else:
            encoder.raw(signs)


def take_signs(
    decoder: Decoder, flags: np.ndarray, layout: Layout, more: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the values are negative, bool[P], and ``more`` raw bits; ends the stream."""
    steps = take_bits(decoder, len(layout.shapes), 3).tolist()
    wanted = [(matrix(shape)[1], step) for shape, step in zip(layout.shapes, steps, strict=True)]
    leanings = take_classes(decoder, wanted)
    coded = []
    raw = flags.copy()
    for part, step, classes in zip(layout.slices(), steps, leanings, strict=True):
        if step:
            chances = _chances(step, classes, flags[part])
            coded.append((part, decoder.take(len(chances), chances)))
            raw[part] = False
    out = np.zeros(layout.total, np.bool_)
    count = int(np.count_nonzero(raw))
    bits = decoder.finish(count + more)
    out[raw] = bits[:count]
    for part, signs in coded:
        out[part][flags[part]] = signs
    return out, bits[count:]


def _lean(negative: np.ndarray, flags: np.ndarray) -> tuple[int, np.ndarray]:
    """Step and class of each column, int64[C], of one tensor [R, C]; step 0 where signs do not
    lean enough to pay for the classes."""
    count, minus = flags.sum(axis=0), negative.sum(axis=0)
    total = int(count.sum())
    step = step_of(total / len(count) / 4) if total and len(flags) > 1 else 0
    if step:
        classes = classes_of(np.log((minus + 0.5) / (count - minus + 0.5)), step)
        logit = classes * (step / PER_NAT)
        nats = count @ np.logaddexp(0, logit) - minus @ logit
        size = np.unique(classes, return_counts=True)[1]
        side = -(size * np.log2(size / size.sum())).sum()
        if nats / np.log(2) + side < 0.99 * total - 64:
            return step, classes
    return 0, np.zeros(len(count), np.int64)


def _chances(step: int, classes: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Probability of a minus for each nonzero value of a tensor [R * C], uint16[K]."""
    of_column = GRID[np.clip(HALF_LEVEL + step * classes, 0, LEVELS - 1)]
    return of_column[np.flatnonzero(flags) % len(classes)]
