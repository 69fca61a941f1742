"""A run of a model's values as symbols, contexts and raw bits, and put together again.

A value's magnitude is the symbol: itself up to 63, above that its bit length, with the bits below the leading
one raw. Signs are raw bits, except in tensors whose columns lean to one sign: there they are symbols too.
Every value may have `low` more raw bits beside it (of the int8 wire). The raw bits of a value are, lowest
first: those, the bits below the leading one, the sign.

The kernels are told where the tensors lie (offsets int64[T+1], widths int64[T]: values in a row) and where the
rows and columns of each begin in the tables of a map of activity (row_starts and column_starts int64[T]).
"""

from __future__ import annotations

import numpy as np

from duckweed.wire.kernels.jit import kernel

DIRECT = 64
"""Magnitudes below this are symbols of their own."""
_BELOW = DIRECT.bit_length() - DIRECT  # a symbol above is the bit length minus this
TOO_LARGE = -1
_WORD, _FULL, _UNIT = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1)
_EIGHTH, _SEVEN = np.uint64(3), np.uint64(7)
_FIFTH, _BELOW_WORD = np.uint64(5), np.uint64(31)


def symbol_of(magnitude: int) -> int:
    """The symbol of a magnitude."""
    return magnitude if magnitude < DIRECT else magnitude.bit_length() - _BELOW


@kernel
def _length(magnitude):  # type: ignore[no-untyped-def]
    """Bits of a positive number."""
    length = 0
    while magnitude:
        magnitude >>= 1
        length += 1
    return length


@kernel
def paint(contexts, start, stop, offsets, widths, row_starts, column_starts, rows, columns):  # type: ignore[no-untyped-def]
    """The level of each value of start:stop, 0 to 63: of its row, int16, plus of its column, int16."""
    tensor = np.searchsorted(offsets, start, side="right") - 1
    i = start
    while i < stop:
        width, local = widths[tensor], i - offsets[tensor]
        row = local // width
        column = local - row * width
        end = min(stop, i + width - column)
        base = rows[row_starts[tensor] + row]
        first = column_starts[tensor] + column
        here, out = columns[first : first + end - i], contexts[i - start : end - start]
        for j in range(end - i):  # from 0: numba knows then that no index is negative
            out[j] = np.uint8(max(np.int16(0), min(np.int16(63), np.int16(base + here[j]))))
        i = end
        if i == offsets[tensor + 1]:
            tensor += 1


@kernel
def count(counts, contexts, numbers, start, direct):  # type: ignore[no-untyped-def]
    """Count how often each symbol comes in each context, int32[4, 64 * S]: the sum of the four is meant, so that of
    equal symbols that follow each other none waits for the one before. direct: every magnitude is a symbol of its own."""
    numbers, size = numbers[start : start + len(contexts)], np.uint64(counts.shape[1] // 64)
    a, b, c, d = counts[0], counts[1], counts[2], counts[3]
    whole = len(contexts) & ~3 if direct else 0
    for i in range(0, whole, 4):
        of, within = numbers[i : i + 4], contexts[i : i + 4]
        a[np.uint64(within[0]) * size + np.uint64(abs(np.int32(of[0])))] += 1
        b[np.uint64(within[1]) * size + np.uint64(abs(np.int32(of[1])))] += 1
        c[np.uint64(within[2]) * size + np.uint64(abs(np.int32(of[2])))] += 1
        d[np.uint64(within[3]) * size + np.uint64(abs(np.int32(of[3])))] += 1
    for i in range(whole, len(contexts)):
        magnitude = abs(np.int64(numbers[i]))
        symbol = magnitude if magnitude < DIRECT else _length(magnitude) - _BELOW
        a[np.uint64(contexts[i]) * size + np.uint64(symbol)] += 1


@kernel
def _flush(held, bits, raw, at):  # type: ignore[no-untyped-def]
    """Put out a word if there is one, without a branch, which could not be foreseen."""
    raw[at] = np.uint32(held & _FULL)
    full = bits >> _FIFTH
    return held >> (full << _FIFTH), bits & _BELOW_WORD, at + full


@kernel
def split(  # type: ignore[no-untyped-def]
    numbers, start, stop, direct, rest, low,
    offsets, widths, column_starts, leans, leanings,
    symbols, lean_symbols, lean_contexts, raw,
):  # fmt: skip
    """Fill in the symbols of start:stop, the symbols and contexts of their leaning signs, and the raw bits, uint32.

    direct: every magnitude is a symbol of its own. rest: uint8[P], the `low` further bits of each value, 5 at most.
    leans: uint8[T], whether a tensor's signs lean; leanings: uint8, the context of each column's signs.
    Returns how many bits and how many leaning signs there are.
    """
    tensor = np.searchsorted(offsets, start, side="right") - 1
    held, bits, at, leaning = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    i = start
    while i < stop:
        width, local = widths[tensor], i - offsets[tensor]
        column = local % width
        leans_here = leans[tensor] != 0
        # A tensor whose signs do not lean is taken whole, else a row of it.
        end = min(stop, i + width - column) if leans_here else min(stop, offsets[tensor + 1])
        here, out = numbers[i:end], symbols[i - start : end - start]
        if direct and not leans_here:
            for j in range(end - i):
                out[j] = np.uint8(abs(np.int32(here[j])))
            if low:
                beside, wide = rest[i:end], np.uint64(low)
                for first in range(0, end - i & ~3, 4):
                    some, below = here[first : first + 4], beside[first : first + 4]
                    for j in range(4):  # a fixed number: no loop is left
                        held |= (np.uint64(below[j]) | np.uint64(some[j] < 0) << wide) << bits
                        bits += wide + np.uint64(some[j] != 0)
                    held, bits, at = _flush(held, bits, raw, at)
                for j in range(end - i & ~3, end - i):
                    held |= (np.uint64(beside[j]) | np.uint64(here[j] < 0) << wide) << bits
                    bits += wide + np.uint64(here[j] != 0)
                held, bits, at = _flush(held, bits, raw, at)
            else:
                for first in range(0, end - i & ~31, 32):
                    for part in range(first, first + 32, 8):
                        signs, found, some = np.uint64(0), np.uint64(0), here[part : part + 8]
                        for j in range(8):  # a fixed number: no loop is left
                            signs |= np.uint64(some[j] < 0) << found
                            found += np.uint64(some[j] != 0)
                        held |= signs << bits
                        bits += found
                    held, bits, at = _flush(held, bits, raw, at)
                for j in range(end - i & ~31, end - i):
                    held |= np.uint64(here[j] < 0) << bits
                    bits += np.uint64(here[j] != 0)
                held, bits, at = _flush(held, bits, raw, at)
        else:
            for j in range(end - i):
                number = np.int64(here[j])
                magnitude = abs(number)
                if low:
                    held |= np.uint64(rest[i + j]) << bits
                    bits += np.uint64(low)
                if magnitude < DIRECT:
                    out[j] = np.uint8(magnitude)
                else:
                    if bits >= _WORD:
                        raw[at] = np.uint32(held & _FULL)
                        held >>= _WORD
                        at += _UNIT
                        bits -= _WORD
                    length = _length(magnitude)
                    out[j] = np.uint8(length - _BELOW)
                    held |= np.uint64(magnitude - (np.int64(1) << (length - 1))) << bits
                    bits += np.uint64(length - 1)
                if leans_here:
                    lean_symbols[leaning] = np.uint8(number < 0)
                    lean_contexts[leaning] = leanings[column_starts[tensor] + column + j]
                    leaning += np.uint64(number != 0)
                else:
                    held |= np.uint64(number < 0) << bits
                    bits += np.uint64(number != 0)
                if bits >= _WORD:
                    raw[at] = np.uint32(held & _FULL)
                    held >>= _WORD
                    at += _UNIT
                    bits -= _WORD
        i = end
        if i == offsets[tensor + 1]:
            tensor += 1
    raw[at] = np.uint32(held & _FULL)
    raw[at + _UNIT] = np.uint32(held >> _WORD)
    return np.intp(at) * 32 + np.intp(bits), np.intp(leaning)


@kernel
def leaning_signs(symbols, start, stop, offsets, widths, column_starts, leans, leanings, contexts):  # type: ignore[no-untyped-def]
    """Fill in the context of every leaning sign of start:stop and return how many there are."""
    tensor = np.searchsorted(offsets, start, side="right") - 1
    found = 0
    i = start
    while i < stop:
        width, local = widths[tensor], i - offsets[tensor]
        column = local % width
        end = min(stop, i + width - column)
        if leans[tensor]:
            first = column_starts[tensor] + column
            here, of = symbols[i - start : end - start], leanings[first : first + end - i]
            for j in range(end - i):
                contexts[found] = of[j]
                found += np.intp(here[j] != 0)
        i = end
        if i == offsets[tensor + 1]:
            tensor += 1
    return found


@kernel
def raw_bits(symbols, start, stop, direct, low, offsets, leans):  # type: ignore[no-untyped-def]
    """How many raw bits the values of start:stop have. direct: as in `split`."""
    tensor = np.searchsorted(offsets, start, side="right") - 1
    total = low * (stop - start)
    i = start
    while i < stop:
        end = min(stop, offsets[tensor + 1])
        here = symbols[i - start : end - start]
        nonzero = np.int32(0)
        for j in range(len(here)):
            nonzero += np.int32(here[j] != 0)
        if not leans[tensor]:
            total += nonzero
        if not direct:
            for j in range(len(here)):
                if here[j] >= DIRECT:
                    total += np.int64(here[j]) + (_BELOW - 1)
        i, tensor = end, tensor + 1
    return total


@kernel
def join(  # type: ignore[no-untyped-def]
    numbers, start, stop, direct, rest, low, largest,
    offsets, leans, symbols, lean_symbols, raw,
):  # fmt: skip
    """The inverse of `split`: fill in the numbers of start:stop, and `rest`. raw has at least eight bytes more
    than the values have raw bits. Returns 0, or TOO_LARGE where a magnitude is above `largest`."""
    tensor = np.searchsorted(offsets, start, side="right") - 1
    bit, leaning = np.uint64(0), np.uint64(0)
    wide, mask = np.uint64(low), np.uint64((1 << low) - 1)
    i = start
    while i < stop:
        end = min(stop, offsets[tensor + 1])
        here, out = symbols[i - start : end - start], numbers[i:end]
        if direct and low and not leans[tensor]:
            beside = rest[i:end]
            for j in range(end - i):
                symbol, byte = np.int32(here[j]), bit >> _EIGHTH
                both = (np.uint64(raw[byte]) | np.uint64(raw[byte + _UNIT]) << np.uint64(8)) >> (bit & _SEVEN)
                beside[j] = np.uint8(both & mask)
                minus = np.int32((both >> wide) & _UNIT)
                out[j] = (symbol ^ -minus) + minus
                bit += wide + np.uint64(symbol != 0)
        elif direct and not leans[tensor]:
            for j in range(end - i):
                symbol = np.int32(here[j])
                minus = np.int32(raw[bit >> _EIGHTH] >> np.uint8(bit & _SEVEN)) & np.int32(1)
                out[j] = (symbol ^ -minus) + minus
                bit += np.uint64(symbol != 0)
        else:
            for j in range(end - i):
                symbol = np.int64(here[j])
                if low:
                    byte = bit >> _EIGHTH
                    both = np.uint64(raw[byte]) | np.uint64(raw[byte + _UNIT]) << np.uint64(8)
                    rest[i + j] = np.uint8((both >> (bit & _SEVEN)) & mask)
                    bit += wide
                magnitude = symbol
                if symbol >= DIRECT:
                    magnitude = np.int64(1)
                    below = symbol + (_BELOW - 1)
                    for k in range(below - 1, -1, -1):
                        place = bit + np.uint64(k)
                        one = np.int64(raw[place >> _EIGHTH] >> np.uint8(place & _SEVEN)) & 1
                        magnitude = magnitude << 1 | one
                    bit += np.uint64(below)
                    if magnitude > largest:
                        return TOO_LARGE
                if leans[tensor]:
                    minus = np.int64(lean_symbols[leaning])
                    leaning += np.uint64(symbol != 0)
                else:
                    minus = np.int64(raw[bit >> _EIGHTH] >> np.uint8(bit & _SEVEN)) & 1
                    bit += np.uint64(symbol != 0)
                out[j] = (magnitude ^ -minus) + minus
        i, tensor = end, tensor + 1
    return 0
