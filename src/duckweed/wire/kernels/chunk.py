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
_AT_ONCE = 4096  # values, so that what lies between two loops stays in the cache


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
    numbers, size = numbers[start : start + len(contexts)], counts.shape[1] // 64
    found, wide = np.empty(_AT_ONCE, np.uint16), np.uint16(size)
    a, b, c, d = counts[0], counts[1], counts[2], counts[3]
    for first in range(0, len(numbers), _AT_ONCE):
        some, within = numbers[first : first + _AT_ONCE], contexts[first : first + _AT_ONCE]
        if direct:
            for i in range(len(some)):
                found[i] = np.uint16(within[i]) * wide + np.uint16(abs(np.int32(some[i])))
        else:
            for i in range(len(some)):
                magnitude = abs(np.int64(some[i]))
                symbol = magnitude if magnitude < DIRECT else _length(magnitude) - _BELOW
                found[i] = np.uint16(within[i]) * wide + np.uint16(symbol)
        for group in range(len(some) // 4):
            here = found[4 * group : 4 * group + 4]
            a[np.uint64(here[0])] += 1
            b[np.uint64(here[1])] += 1
            c[np.uint64(here[2])] += 1
            d[np.uint64(here[3])] += 1
        for i in range(len(some) & ~3, len(some)):
            a[np.uint64(found[i])] += 1


@kernel
def _quads(bits, lengths, numbers, rest, low):  # type: ignore[no-untyped-def]
    """The raw bits of four values each, uint32, and how many there are, uint32."""
    for j in range(len(numbers) // 4):
        a, b, c, d = numbers[4 * j], numbers[4 * j + 1], numbers[4 * j + 2], numbers[4 * j + 3]
        at_b = low + np.uint32(a != 0)
        at_c = at_b + low + np.uint32(b != 0)
        at_d = at_c + low + np.uint32(c != 0)
        one = np.uint32(rest[4 * j]) | np.uint32(a < 0) << low
        two = np.uint32(rest[4 * j + 1]) | np.uint32(b < 0) << low
        three = np.uint32(rest[4 * j + 2]) | np.uint32(c < 0) << low
        four = np.uint32(rest[4 * j + 3]) | np.uint32(d < 0) << low
        bits[j] = one | two << at_b | three << at_c | four << at_d
        lengths[j] = at_d + low + np.uint32(d != 0)


@kernel
def _octets(bits, lengths, numbers):  # type: ignore[no-untyped-def]
    """The signs of eight values each, uint32, and how many there are, uint32."""
    for j in range(len(numbers) // 8):
        signs, count = np.uint32(0), np.uint32(0)
        for k in range(8):
            number = numbers[8 * j + k]
            signs |= np.uint32(number < 0) << count
            count += np.uint32(number != 0)
        bits[j], lengths[j] = signs, count


@kernel
def _quad_lengths(lengths, symbols, low):  # type: ignore[no-untyped-def]
    for j in range(len(symbols) // 4):
        a, b = np.uint32(symbols[4 * j] != 0), np.uint32(symbols[4 * j + 1] != 0)
        c, d = np.uint32(symbols[4 * j + 2] != 0), np.uint32(symbols[4 * j + 3] != 0)
        lengths[j] = np.uint32(4) * low + a + b + c + d


@kernel
def _octet_lengths(lengths, symbols):  # type: ignore[no-untyped-def]
    for j in range(len(symbols) // 8):
        count = np.uint32(0)
        for k in range(8):
            count += np.uint32(symbols[8 * j + k] != 0)
        lengths[j] = count


@kernel
def _from_quads(numbers, rest, bits, symbols, low):  # type: ignore[no-untyped-def]
    """The inverse of `_quads`. Above the bits of four values there may be others."""
    mask, one = np.uint32((np.uint32(1) << low) - np.uint32(1)), np.uint32(1)
    for j in range(len(symbols) // 4):
        left = bits[j]
        for k in range(4):
            symbol = np.int32(symbols[4 * j + k])
            rest[4 * j + k] = np.uint8(left & mask)
            minus = np.int32(left >> low & one)  # of a zero it says nothing, and changes nothing
            numbers[4 * j + k] = (symbol ^ -minus) + minus
            left >>= low + np.uint32(symbol != 0)


@kernel
def _from_octets(numbers, bits, symbols):  # type: ignore[no-untyped-def]
    """The inverse of `_octets`. Above the bits of eight values there may be others."""
    for j in range(len(symbols) // 8):
        left = bits[j]
        for k in range(8):
            symbol = np.int32(symbols[8 * j + k])
            minus = np.int32(left & np.uint32(1))
            numbers[8 * j + k] = (symbol ^ -minus) + minus
            left >>= np.uint32(symbol != 0)


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
    parts, lengths = np.empty(_AT_ONCE // 4, np.uint32), np.empty(_AT_ONCE // 4, np.uint32)
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
            # The bits of a few values first, many at a time: what follows one after the other is the less.
            for first in range(0, end - i, _AT_ONCE):
                some, together = here[first : first + _AT_ONCE], 4 if low else 8
                if low:
                    _quads(
                        parts,
                        lengths,
                        some,
                        rest[i + first : i + first + len(some)],
                        np.uint32(low),
                    )
                else:
                    _octets(parts, lengths, some)
                for j in range(len(some) // together):
                    held |= np.uint64(parts[j]) << bits
                    bits += np.uint64(lengths[j])
                    raw[at] = np.uint32(held & _FULL)  # no branch: it could not be foreseen
                    full = bits >> _FIFTH
                    at += full
                    held >>= full << _FIFTH
                    bits &= _BELOW_WORD
                for j in range(len(some) // together * together, len(some)):
                    if low:
                        held |= np.uint64(rest[i + first + j]) << bits
                        bits += np.uint64(low)
                    held |= np.uint64(some[j] < 0) << bits
                    bits += np.uint64(some[j] != 0)
                    if bits >= _WORD:
                        raw[at] = np.uint32(held & _FULL)
                        held >>= _WORD
                        at += _UNIT
                        bits -= _WORD
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
    offsets, leans, symbols, lean_symbols, raw, words,
):  # fmt: skip
    """The inverse of `split`: fill in the numbers of start:stop, and `rest`. raw, uint8, has at least eight bytes more
    than the values have raw bits; words: the same as uint32. Returns 0, or TOO_LARGE where a magnitude is above `largest`."""
    tensor = np.searchsorted(offsets, start, side="right") - 1
    parts, lengths = np.empty(_AT_ONCE // 4, np.uint32), np.empty(_AT_ONCE // 4, np.uint32)
    bit, leaning = np.uint64(0), np.uint64(0)
    wide, mask = np.uint64(low), np.uint64((1 << low) - 1)
    i = start
    while i < stop:
        end = min(stop, offsets[tensor + 1])
        here, out = symbols[i - start : end - start], numbers[i:end]
        if direct and not leans[tensor]:
            for first in range(0, end - i, _AT_ONCE):
                some, into = here[first : first + _AT_ONCE], out[first : first + _AT_ONCE]
                beside, together = rest[i + first : i + first + len(some)], 4 if low else 8
                if low:
                    _quad_lengths(lengths, some, np.uint32(low))
                else:
                    _octet_lengths(lengths, some)
                for j in range(len(some) // together):
                    word = bit >> _FIFTH
                    both = np.uint64(words[word]) | np.uint64(words[word + _UNIT]) << _WORD
                    parts[j] = np.uint32(both >> (bit & _BELOW_WORD))
                    bit += np.uint64(lengths[j])
                if low:
                    _from_quads(into, beside, parts, some, np.uint32(low))
                else:
                    _from_octets(into, parts, some)
                for j in range(len(some) // together * together, len(some)):
                    symbol, byte = np.int32(some[j]), bit >> _EIGHTH
                    both = np.uint64(raw[byte]) | np.uint64(raw[byte + _UNIT]) << np.uint64(8)
                    both >>= bit & _SEVEN
                    if low:
                        beside[j] = np.uint8(both & mask)
                    minus = np.int32((both >> wide) & _UNIT)
                    into[j] = (symbol ^ -minus) + minus
                    bit += wide + np.uint64(symbol != 0)
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
