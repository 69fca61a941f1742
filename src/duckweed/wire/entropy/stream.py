"""The bytes of one run of symbols and raw bits, written and read without regard to any other run.

A run is: states, words, raw bytes. Each state costs what it holds beyond its first value. The states do not
start empty: they start with the first raw bits (signs and the like, which cannot be compressed), so that a
state costs about one byte, not three. How many states there are follows from the number of values. So does the
work of decoding: a symbol takes as long whatever a blob says.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from duckweed.wire.frame import Reader, WireError

_STATES = 8  # symbols that a processor works on at a time
_LOW = 1 << 16
_PAD = 8  # bytes that may be read beyond the last raw bit


class Table:
    """Frequencies of S symbols in each of C contexts, int64[C, S] that add up to 2^14; 0 where a symbol cannot come."""

    def __init__(self, frequencies: np.ndarray) -> None:
        from duckweed.wire.kernels import rans

        self.frequencies, self.size = frequencies, frequencies.shape[1]
        self.packed = rans.pack(frequencies)

    @cached_property
    def rows(self) -> np.ndarray:
        """What the coder needs of every symbol, uint64[C * S * 4]."""
        from duckweed.wire.kernels import rans

        return rans.rows_of(self.frequencies)

    @cached_property
    def symbols(self) -> np.ndarray:
        """The symbol of each of the 2^14 slots, uint8[C, 2^14]."""
        from duckweed.wire.kernels import rans

        return rans.symbols_of(self.frequencies)


class Symbols(NamedTuple):
    """Symbols to be coded."""

    symbols: np.ndarray  # uint8[N]
    contexts: np.ndarray  # uint8[N]
    table: Table


class Run(NamedTuple):
    """What a run takes."""

    words: int
    raw: int
    """Bytes beyond those that the states hold."""
    data: bytes


def states_of(values: int) -> int:
    """How many states the run of so many values has: a power of two."""
    return 1 << max(0, min(_STATES, values >> 12).bit_length() - 1)


def write(values: int, parts: list[Symbols], raw: np.ndarray) -> Run:
    """A run of `values` values: the parts one after the other, and raw bytes, uint8."""
    from duckweed.wire.kernels import rans

    count = states_of(values)
    fill = np.zeros(2 * count, np.uint8)
    fill[: min(len(raw), 2 * count)] = raw[: 2 * count]
    states = fill.view("<u2").astype(np.uint64) + np.uint64(_LOW)
    words = np.empty(sum(len(part.symbols) for part in parts), np.uint16)
    at = len(words)
    for symbols, contexts, table in reversed(parts):
        at = rans.encode(symbols, contexts, table.size, table.rows, states, words[:at])
    left = raw[2 * count :]
    coded = words[at:].astype("<u2", copy=False)
    return Run(len(coded), len(left), b"".join([states.astype("<u4").data, coded.data, left.data]))


class Open:
    """A run that is being read: the caller supplies the contexts in the order of writing."""

    def __init__(self, values: int, words: int, raw: int, data: memoryview) -> None:
        """data: 4 bytes of each state, the words, the raw bytes. Raises WireError."""
        head = 4 * states_of(values)
        self.states = np.frombuffer(data[:head], "<u4").astype(np.uint32)
        self._words = np.zeros(words + 1, np.uint16)
        self._words[:words] = np.frombuffer(data[head : head + 2 * words], "<u2")
        self._raw = np.frombuffer(data[head + 2 * words :], np.uint8)
        self._at = 0
        if (self.states < _LOW).any():
            raise WireError("coded stream starts with an impossible state")

    def take(self, symbols: np.ndarray, contexts: np.ndarray, table: Table) -> None:
        """Fill in symbols, uint8[N]. contexts: uint8[N]. Raises WireError."""
        from duckweed.wire.kernels import rans

        if table.size == 2:
            self._at = rans.decode_flags(
                symbols, contexts, table.packed, self.states, self._words, self._at
            )
        else:
            self._at = rans.decode(
                symbols, contexts, table.size, table.packed, table.symbols, self.states, self._words,
                self._at,
            )  # fmt: skip
        if self._at >= len(self._words):
            raise WireError("coded stream cut short")

    def finish(self, bits: int) -> np.ndarray:
        """After the last symbol: the bytes of the raw bits, with a few zeros behind, so that they are whole words of 32 bits. Raises WireError: some of
        the run is left over, or does not end where it began."""
        if left := len(self._words) - 1 - self._at:
            raise WireError(f"coded stream has {left} words too many")
        if (self.states >= 2 * _LOW).any() or (self.states < _LOW).any():
            raise WireError("coded stream does not end in the state it began with: damaged")
        fill = (self.states - np.uint32(_LOW)).astype("<u2").view(np.uint8)
        pad = _PAD + -(len(fill) + len(self._raw)) % 4
        raw = np.concatenate([fill, self._raw, np.zeros(pad, np.uint8)])
        need = -(-bits // 8)
        if len(self._raw) != max(0, need - len(fill)):
            raise WireError(
                f"raw bits of {len(self._raw)} bytes, where {need - len(fill)} are needed"
            )
        if raw[need:].any() or (bits % 8 and raw[need - 1] >> (bits % 8)):
            raise WireError("padding of the raw bits is not zero: damaged")
        return raw


def read(reader: Reader, values: int, words: int, raw: int) -> Open:
    """The next run of a blob. Raises WireError."""
    return Open(values, words, raw, reader.raw(4 * states_of(values) + 2 * words + raw))
