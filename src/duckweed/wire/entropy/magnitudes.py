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

from duckweed.wire.entropy.rans import ONE, Decoder, Encoder
from duckweed.wire.entropy.tables import count, look_up, smallest
from duckweed.wire.frame import WireError

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
LEVELS = len(GRID)
HALF_LEVEL = LEVELS // 2
_MIDDLES = (GRID[1:].astype(np.int64) + GRID[:-1]) // 2
HALF = ONE // 2
_MODELLED = 6  # bit lengths above this have raw low bits


def nearest(yes: np.ndarray | int, count: np.ndarray | int) -> np.ndarray:
    """Grid index of the rate yes / count; of one half where count is 0."""
    yes, count = np.asarray(yes, np.int64), np.asarray(count, np.int64)
    rate = (yes * ONE + count // 2) // np.maximum(count, 1)
    return np.where(count > 0, np.searchsorted(_MIDDLES, rate), HALF_LEVEL).astype(np.uint8)


def put_bits(encoder: Encoder, numbers: np.ndarray, width: int) -> None:
    """Numbers [N] of ``width`` bits each, as they are."""
    bits = np.asarray(numbers, np.int64).reshape(-1, 1) >> np.arange(width) & 1
    encoder.put(bits.astype(np.bool_).ravel(), HALF)


def take_bits(decoder: Decoder, count: int, width: int) -> np.ndarray:
    """What `put_bits` wrote, int64[count]."""
    return decoder.take(count * width, HALF).reshape(count, width) @ (1 << np.arange(width))


def put_flags(encoder: Encoder, flags: np.ndarray, context: np.ndarray) -> None:
    """Flags bool[N], each with the rate of its context, small unsigned integers [N]; rates first."""
    seen = count(context)
    yes = count(context[flags], len(seen))
    index = nearest(yes, seen)
    put_bits(encoder, index[seen > 0], 6)
    encoder.put(flags, look_up(GRID[index], context))


def take_flags(decoder: Decoder, context: np.ndarray) -> np.ndarray:
    """What `put_flags` wrote. Contexts that do not occur have no rate to read."""
    seen = count(context)
    grid = np.full(len(seen), HALF, np.uint16)
    grid[seen > 0] = GRID[take_bits(decoder, int(np.count_nonzero(seen)), 6)]
    return decoder.take(len(context), look_up(grid, context))


def put_positive(encoder: Encoder, values: np.ndarray, largest: int, context: np.ndarray) -> None:
    """Integers in 1..largest, int[N], at their entropy given a context uint8[N]."""
    length = 1
    while len(values) and largest >> length:
        longer = values >> length > 0
        put_flags(encoder, longer, context)
        _put_low_bits(encoder, values[~longer], length, context[~longer])
        values, context = values[longer], context[longer]
        length += 1
    _put_low_bits(encoder, values, length, context)


def take_positive(decoder: Decoder, largest: int, context: np.ndarray) -> np.ndarray:
    """What `put_positive` wrote, int[N]; values above ``largest`` are possible in damaged data and
    left to the caller to refuse."""
    kind = smallest(largest)
    found = []  # for each length: which values are longer, and those that are not
    length = 1
    while len(context) and largest >> length:
        longer = take_flags(decoder, context)
        found.append((longer, _take_low_bits(decoder, length, context[~longer], kind)))
        context = context[longer]
        length += 1
    out = _take_low_bits(decoder, length, context, kind)
    for longer, low in reversed(found):
        values: np.ndarray = np.empty(len(longer), kind)
        values[longer] = out
        values[~longer] = low
        out = values
    return out


def _put_low_bits(encoder: Encoder, values: np.ndarray, length: int, context: np.ndarray) -> None:
    """The bits below the leading one of values that all have ``length`` bits."""
    for bit in range(length - 2, -1, -1):
        flags = (values >> bit & 1).astype(np.bool_)
        if length > _MODELLED:
            encoder.put(flags, HALF)
        elif len(values):
            put_flags(encoder, flags, _node(values >> (bit + 1), context))


def _take_low_bits(decoder: Decoder, length: int, context: np.ndarray, kind: type) -> np.ndarray:
    values: np.ndarray = np.ones(len(context), kind)
    for _ in range(length - 1):
        if length > _MODELLED:
            flags = decoder.take(len(context), HALF)
        elif len(context):
            flags = take_flags(decoder, _node(values, context))
        else:
            break
        values = values << 1 | flags
    return values


def _node(prefix: np.ndarray, context: np.ndarray) -> np.ndarray:
    """The context of a low bit: the bits above it, and the context of the value."""
    return (context.astype(np.uint16) << np.uint16(_MODELLED - 1)) | prefix.astype(np.uint16)


def put_signed(encoder: Encoder, values: np.ndarray, bound: int) -> None:
    """Integers in -bound..bound, int[N], at their order-0 entropy."""
    zigzag = np.where(values < 0, -2 * values, 2 * values + 1)
    put_positive(encoder, zigzag, 2 * bound + 1, np.zeros(len(values), np.uint8))


def take_signed(decoder: Decoder, count: int, bound: int) -> np.ndarray:
    """What `put_signed` wrote, int64[count]."""
    coded = take_positive(decoder, 2 * bound + 1, np.zeros(count, np.uint8))
    if (coded > 2 * bound + 1).any():
        raise WireError(f"a coded integer is outside -{bound}..{bound}")
    return np.where(coded & 1, coded >> 1, -(coded >> 1)).astype(np.int64)
