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
LOW = 1 << 16
"""The smallest state."""
# All of 64 bits without a sign: numba makes floats of sums of different kinds.
_LOW, _HALF, _SLOT = np.uint64(LOW), np.uint64(0xFFFF), np.uint64(ONE - 1)
_ONE64, _WORD, _BITS = np.uint64(ONE), np.uint64(16), np.uint64(BITS)
_SHIFT, _ROOM = np.uint64(46), np.uint64(32 - BITS)
_ZERO, _UNIT, _FOUR = np.uint64(0), np.uint64(1), np.uint64(4)


@kernel
def encode(symbols, contexts, size, packed, inverse, states, words):  # type: ignore[no-untyped-def]
    """Code symbols, uint8[N], from the last to the first, the words downwards from the end of `words`, uint16 of
    N at least.

    contexts: uint8[N], which of the tables a symbol is coded with; size: symbols of a table. packed: frequency
    and start of each symbol of each table (see `pack`); inverse: ceil(2^46 / frequency). Changes the states and
    returns where the words begin.
    """
    last = np.uint64(len(states) - 1)  # their number is a power of two
    wide, at = np.uint64(size), np.uint64(len(words))
    for i in range(len(symbols) - 1, -1, -1):
        k = np.uint64(contexts[i]) * wide + np.uint64(symbols[i])
        both = packed[k]
        frequency = np.uint64(both >> _WORD)
        lane = np.uint64(i) & last
        x = np.uint64(states[lane])
        full = np.uint64(x >= frequency << _ROOM)  # no branch: it could not be foreseen
        words[at - _UNIT] = np.uint16(x & _HALF)
        at -= full
        x >>= full << _FOUR
        quotient = (x * inverse[k]) >> _SHIFT
        states[lane] = np.uint32(x + quotient * (_ONE64 - frequency) + (np.uint64(both) & _HALF))
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


def pack(frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For tables of frequencies, int64[C, S] that add up to 2^14 each: frequency and start of every symbol in
    one number, uint32[C * S], and the inverse of the frequency, uint64[C * S]."""
    starts = np.cumsum(frequencies, axis=1) - frequencies
    packed = (frequencies << 16 | starts).astype(np.uint32).ravel()
    least = np.maximum(frequencies, 1)
    inverse = (((1 << 46) + least - 1) // least).astype(np.uint64).ravel()
    return packed, inverse


def symbols_of(frequencies: np.ndarray) -> np.ndarray:
    """The symbol of every slot of every table, uint8[C, 2^14]."""
    count, size = frequencies.shape
    flat = np.repeat(np.tile(np.arange(size, dtype=np.uint8), count), frequencies.ravel())
    return flat.reshape(count, ONE)
