"""Coding of signed integers, one for every value of a model: the heart of three kinds of blob."""

from __future__ import annotations

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire.entropy.activity import Activity, measure
from duckweed.wire.entropy.activity import put as put_activity
from duckweed.wire.entropy.activity import take as take_activity
from duckweed.wire.entropy.magnitudes import (
    GRID,
    LEVELS,
    nearest,
    put_bits,
    put_positive,
    take_bits,
    take_positive,
)
from duckweed.wire.entropy.rans import Decoder, Encoder
from duckweed.wire.entropy.signs import put_signs, take_signs
from duckweed.wire.entropy.tables import count
from duckweed.wire.frame import WireError


def put_integers(encoder: Encoder, numbers: np.ndarray, largest: int, layout: Layout) -> None:
    """Signed integers of magnitude <= largest, [P]."""
    sizes = np.abs(numbers)
    cap = _cap(sizes, largest)
    put_bits(encoder, np.array([cap - 1]), 8)
    activity = measure(sizes, cap, layout)
    put_activity(encoder, activity)
    flags = numbers != 0
    encoder.put(flags, activity.paint(_zero_table(encoder, flags, activity, cap)))
    if largest > 1:
        context = activity.paint(_buckets(int(np.count_nonzero(flags))))[flags]
        put_positive(encoder, sizes[flags], largest, context)
    put_signs(encoder, numbers, flags, layout)


def take_integers(
    decoder: Decoder, largest: int, layout: Layout, dtype: type, more: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """What `put_integers` wrote, dtype[P], and ``more`` raw bits after it; ends the stream."""
    cap = int(take_bits(decoder, 1, 8)[0]) + 1
    activity = take_activity(decoder, layout)
    table = GRID if cap == 1 else GRID[take_bits(decoder, LEVELS, 6)]
    flags = decoder.take(layout.total, activity.paint(table))
    out: np.ndarray = flags.astype(dtype)
    if largest > 1:
        buckets = _buckets(int(np.count_nonzero(flags)))
        sizes = take_positive(decoder, largest, activity.paint(buckets)[flags])
        if (sizes > largest).any():
            raise WireError(f"a coded integer is above the largest possible, {largest}")
        out[flags] = sizes
    negative, bits = take_signs(decoder, flags, layout, more)
    mask = -negative.view(np.int8)  # -1 where it is negative: -x is ~x + 1
    out ^= mask
    out -= mask
    return out, bits


def _cap(sizes: np.ndarray, largest: int) -> int:
    """Where magnitudes stop to count for the map of activity: at about four times their mean."""
    if largest <= 1:
        return 1
    sample = sizes[:: max(1, len(sizes) >> 20)]
    return int(max(1, min(np.rint(4 * sample.mean()), largest, 256)))


def _zero_table(encoder: Encoder, flags: np.ndarray, activity: Activity, cap: int) -> np.ndarray:
    """Rate of nonzero values at each level: the level itself, if the map was fitted to it."""
    if cap == 1:
        return GRID
    levels = activity.paint(np.arange(LEVELS, dtype=np.uint8))
    index = nearest(count(levels[flags], LEVELS), count(levels, LEVELS))
    put_bits(encoder, index, 6)
    return GRID[index]


def _buckets(nonzero: int) -> np.ndarray:
    """Context of a magnitude by its level, uint8[64]: finer where there is more to learn from."""
    shift = 0 if nonzero >> 17 else 1 if nonzero >> 15 else 2 if nonzero >> 13 else 6
    return (np.arange(LEVELS) >> shift).astype(np.uint8)


def bits_per_value(largest: int) -> int:
    """Flags and raw bits that a value of magnitude <= largest can take at most."""
    return 2 * max(1, largest.bit_length())


def max_integer_bytes(largest: int, layout: Layout) -> int:
    """Room for the worst distribution, with a twentieth for the coder."""
    bits = layout.total * bits_per_value(largest) + 24 * len(layout.sizes)
    return int(bits * 1.05 / 8) + 512
