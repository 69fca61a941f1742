"""Entropy coding of symbols: interleaved rANS.

Range variant of asymmetric numeral systems (Duda, arXiv 1311.2540), interleaved as by Giesen
(arXiv 1402.3392): symbol i of a run belongs to state i mod L, so that the processor works on several
symbols at a time. States are below 2^32, words have 16 bits, frequencies are in units of 2^-14.

A state x with a symbol of frequency f that begins at c becomes (x div f) * 2^14 + x mod f + c; where that
would overflow, its low word is put out first. Decoding undoes it, from the last symbol coded to the first.
The quotient is a multiplication: with m = ceil(2^46 / f), x * m div 2^46 is x div f for all x < f * 2^18, and
the product is below 2^64.
"""

from __future__ import annotations

import numpy as np

from duckweed.wire.kernels.jit import kernel

BITS = 14
ONE = 1 << BITS
_SHIFT_BITS = 46
LOW = 1 << 16
"""The smallest state."""
# All of 64 bits without a sign: numba makes floats of sums of different kinds.
_LOW, _HALF, _SLOT = np.uint64(LOW), np.uint64(0xFFFF), np.uint64(ONE - 1)
_WORD, _BITS, _SHIFT = np.uint64(16), np.uint64(BITS), np.uint64(_SHIFT_BITS)
_ZERO, _UNIT, _TWO, _THREE, _FOUR = [np.uint64(n) for n in range(5)]
_AT_ONCE = 4096


@kernel
def encode(symbols, contexts, size, rows, states, words):  # type: ignore[no-untyped-def]
    """Code symbols, uint8[N], from the last to the first, the words downwards from the end of `words`, uint16 of
    N at least.

    contexts: uint8[N], which of the tables a symbol is coded with; size: symbols of a table. rows: see `rows_of`.
    Changes the states, uint64, of which there are a power of two, and returns where the words begin.
    """
    count, last, at = len(symbols), len(states) - 1, np.uint64(len(words))
    whole = count & ~7 if last == 7 else 0
    for i in range(count - 1, whole - 1, -1):
        row = (np.uint64(contexts[i]) * np.uint64(size) + np.uint64(symbols[i])) << _TWO
        x = states[i & last]
        full = np.uint64(x >= rows[row])
        words[at - _UNIT] = np.uint16(x)
        at -= full
        x >>= full << _FOUR
        quotient = (x * rows[row + _UNIT]) >> _SHIFT
        states[i & last] = x + quotient * rows[row + _TWO] + rows[row + _THREE]
    # The same for eight states, laid out one after the other; where the rows are is found for many at a time.
    found = np.empty(_AT_ONCE, np.uint16)
    for stop in range(whole, 0, -_AT_ONCE):
        start = max(0, stop - _AT_ONCE)
        of, within, wide = symbols[start:stop], contexts[start:stop], np.uint16(size)
        for i in range(len(of)):
            found[i] = (np.uint16(within[i]) * wide + np.uint16(of[i])) << np.uint16(2)
        for group in range(len(of) // 8 - 1, -1, -1):
            here = found[8 * group : 8 * group + 8]
            for lane in range(7, -1, -1):
                row, x = np.uint64(here[lane]), states[lane]
                full = np.uint64(x >= rows[row])  # no branch: it could not be foreseen
                words[at - _UNIT] = np.uint16(x)
                at -= full
                x >>= full << _FOUR
                quotient = (x * rows[row + _UNIT]) >> _SHIFT
                states[lane] = x + quotient * rows[row + _TWO] + rows[row + _THREE]
    return np.intp(at)


@kernel
def decode(symbols, contexts, size, packed, look_up, states, words, at):  # type: ignore[no-untyped-def]
    """The inverse of `encode`: fills in symbols, reads words from `at` on, and returns where it stopped, beyond
    the end of the words where they do not suffice. look_up: uint8[tables, 2^14], the symbol of every slot. words: with one more than there are."""
    last, wide = np.uint64(len(states) - 1), np.uint64(size)
    at, end = np.uint64(at), np.uint64(len(words) - 1)
    for i in range(len(symbols)):
        lane = np.uint64(i) & last
        x = np.uint64(states[lane])
        slot, context = x & _SLOT, np.uint64(contexts[i])
        symbol = look_up[context, slot]
        both = np.uint64(packed[context * wide + np.uint64(symbol)])
        x = (both >> _WORD) * (x >> _BITS) + slot - (both & _HALF)
        empty = np.uint64(x < _LOW)
        x = (x << (empty << _FOUR)) | (np.uint64(words[min(at, end)]) & (_ZERO - empty))
        at += empty
        states[lane] = np.uint32(x)
        symbols[i] = symbol
    return np.intp(at)


@kernel
def decode_flags(symbols, contexts, packed, states, words, at):  # type: ignore[no-untyped-def]
    """`decode` where there are only the symbols 0 and 1: a comparison finds them."""
    last = np.uint64(len(states) - 1)
    at, end = np.uint64(at), np.uint64(len(words) - 1)
    for i in range(len(symbols)):
        lane = np.uint64(i) & last
        x = np.uint64(states[lane])
        slot, k = x & _SLOT, np.uint64(contexts[i]) << _UNIT
        symbol = np.uint64(slot >= np.uint64(packed[k] >> _WORD))
        both = np.uint64(packed[k + symbol])
        x = (both >> _WORD) * (x >> _BITS) + slot - (both & _HALF)
        empty = np.uint64(x < _LOW)
        x = (x << (empty << _FOUR)) | (np.uint64(words[min(at, end)]) & (_ZERO - empty))
        at += empty
        states[lane] = np.uint32(x)
        symbols[i] = np.uint8(symbol)
    return np.intp(at)


def pack(frequencies: np.ndarray) -> np.ndarray:
    """For tables of frequencies, int64[C, S] that add up to 2^14 each: frequency and start of every symbol in
    one number, uint32[C * S]."""
    return (frequencies << 16 | _starts(frequencies)).astype(np.uint32).ravel()


def rows_of(frequencies: np.ndarray) -> np.ndarray:
    """What `encode` needs of every symbol of such tables, uint64[C * S * 4]: the state from which on a word is put
    out, the inverse of the frequency f, 2^14 - f, and where the symbol begins."""
    least = np.maximum(frequencies, 1)
    inverse = ((1 << _SHIFT_BITS) + least - 1) // least
    limit = frequencies << 32 - BITS
    rows = np.stack([limit, inverse, ONE - frequencies, _starts(frequencies)], axis=2)
    return rows.astype(np.uint64).ravel()


def _starts(frequencies: np.ndarray) -> np.ndarray:
    return np.cumsum(frequencies, axis=1) - frequencies


def symbols_of(frequencies: np.ndarray) -> np.ndarray:
    """The symbol of every slot of every table, uint8[C, 2^14]."""
    count, size = frequencies.shape
    flat = np.repeat(np.tile(np.arange(size, dtype=np.uint8), count), frequencies.ravel())
    return flat.reshape(count, ONE)
