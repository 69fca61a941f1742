"""Coding of small non-negative integers as flags with contexts.

A value becomes a path through a binary tree: is it 0; is it below 2, 4, 8, ... (its bit length);
then the bits below the leading one. Every node of the tree has its own probability, so that any
distribution costs its entropy; the binarisation is that of Exp-Golomb codes with modelled bins,
as in DeepCABAC (arXiv 1905.08318). All values take one node after the other together, so that
each pass is one long run of flags.

Probabilities lie on a fixed grid, 64 points a quarter of a natural logit apart: at most 0.2 % of
the entropy is lost to the rounding, and a table costs 6 bits an entry.
"""

from __future__ import annotations

import numpy as np

from .rans import ONE, Decoder, Encoder

# round(2^14 / (1 + exp((32 - k) / 4))); written out, because exp differs between machines.
# fmt: off
GRID = np.array([
    5, 7, 9, 12, 15, 19, 25, 32, 41, 52, 67, 86, 110, 141, 180, 230,
    295, 376, 480, 612, 777, 984, 1243, 1562, 1953, 2426, 2989, 3649, 4406, 5256, 6186, 7173,
    8192, 9211, 10198, 11128, 11978, 12735, 13395, 13958, 14431, 14822, 15141, 15400, 15607,
    15772, 15904, 16008, 16089, 16154, 16204, 16243, 16274, 16298, 16317, 16332, 16343, 16352,
    16359, 16365, 16369, 16372, 16375, 16377,
], np.uint16)
# fmt: on
_MIDDLES = (GRID[1:].astype(np.int64) + GRID[:-1]) // 2
HALF = ONE // 2
_MODELLED = 6  # bit lengths above this have raw low bits


def nearest(yes: np.ndarray | int, count: np.ndarray | int) -> np.ndarray:
    """Grid index of the rate yes / count; of one half where count is 0."""
    yes, count = np.asarray(yes, np.int64), np.asarray(count, np.int64)
    rate = (yes * ONE + count // 2) // np.maximum(count, 1)
    return np.where(count > 0, np.searchsorted(_MIDDLES, rate), 32).astype(np.uint8)


def put_index(encoder: Encoder, index: np.ndarray) -> None:
    """Grid indices, 6 raw flags each."""
    bits = np.asarray(index, np.uint8).reshape(-1, 1) >> np.arange(6, dtype=np.uint8) & 1
    encoder.put(bits.astype(np.bool_).ravel(), HALF)


def take_index(decoder: Decoder, count: int) -> np.ndarray:
    bits = decoder.take(6 * count, HALF).reshape(count, 6)
    return (bits << np.arange(6)).sum(axis=1).astype(np.uint8)


def _put_flags(encoder: Encoder, flags: np.ndarray) -> None:
    index = nearest(int(np.count_nonzero(flags)), len(flags))
    put_index(encoder, index)
    encoder.put(flags, int(GRID[index]))


def _take_flags(decoder: Decoder, count: int) -> np.ndarray:
    return decoder.take(count, int(GRID[take_index(decoder, 1)[0]]))


def put_positive(encoder: Encoder, values: np.ndarray, largest: int) -> None:
    """Integers in 1..largest, int[N], at their order-0 entropy."""
    length = 1
    while len(values) and largest >> length:
        longer = values >> length > 0
        _put_flags(encoder, longer)
        _put_low_bits(encoder, values[~longer], length)
        values = values[longer]
        length += 1
    _put_low_bits(encoder, values, length)


def _put_low_bits(encoder: Encoder, values: np.ndarray, length: int) -> None:
    """The bits below the leading one of values that all have ``length`` bits."""
    for bit in range(length - 2, -1, -1):
        flags = (values >> bit & 1).astype(np.bool_)
        if length > _MODELLED:
            encoder.put(flags, HALF)
            continue
        prefix = values >> (bit + 1)
        nodes = np.arange(1 << (length - 2 - bit), 1 << (length - 1 - bit))
        index = nearest(
            np.bincount(prefix[flags], minlength=nodes[-1] + 1)[nodes],
            np.bincount(prefix, minlength=nodes[-1] + 1)[nodes],
        )
        if len(values):
            put_index(encoder, index)
            encoder.put(flags, GRID[index][prefix - nodes[0]])


def take_positive(decoder: Decoder, count: int, largest: int) -> np.ndarray:
    """What `put_positive` wrote, int32[count]; values above ``largest`` are possible in damaged
    data and left to the caller to refuse."""
    out = np.empty(count, np.int32)
    where = np.arange(count)
    length = 1
    while len(where) and largest >> length:
        longer = _take_flags(decoder, len(where))
        here = where[~longer]
        out[here] = _take_low_bits(decoder, len(here), length)
        where = where[longer]
        length += 1
    out[where] = _take_low_bits(decoder, len(where), length)
    return out


def _take_low_bits(decoder: Decoder, count: int, length: int) -> np.ndarray:
    values = np.ones(count, np.int32)
    for bit in range(length - 2, -1, -1):
        if length > _MODELLED:
            flags = decoder.take(count, HALF)
        elif count:
            first = 1 << (length - 2 - bit)
            grid = GRID[take_index(decoder, first)]
            flags = decoder.take(count, grid[values - first])
        else:
            break
        values = values << 1 | flags
    return values
