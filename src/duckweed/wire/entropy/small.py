"""Coding of a few small signed integers, each kind at its order-0 entropy."""

from __future__ import annotations

import numpy as np

from duckweed.wire.entropy import stream
from duckweed.wire.entropy.stream import Symbols, Table
from duckweed.wire.entropy.tables import ONE, chained, frequencies, put_indices, take_indices
from duckweed.wire.frame import Reader, WireError, Writer


def put(writer: Writer, kinds: list[np.ndarray], bound: int) -> None:
    """Integers in -bound..bound, int64[N] of each kind."""
    coded = [
        np.where(x < 0, -2 * x - 1, 2 * x).astype(np.uint8) for x in kinds
    ]  # 0, -1, 1, -2, 2, ...
    sizes = [int(x.max()) + 1 if len(x) else 0 for x in coded]
    writer.raw(bytes(sizes))
    chains = [
        chained(np.bincount(x, minlength=size)[None]) if size > 1 else np.zeros((1, 0), np.uint8)
        for x, size in zip(coded, sizes, strict=True)
    ]
    put_indices(writer, np.concatenate(chains, axis=1))
    values = sum(map(len, coded))
    if not values:
        return
    run = stream.write(
        values, [Symbols(np.concatenate(coded), _contexts(coded), _table(chains))], _NO_RAW
    )
    writer.varint(run.words)
    writer.raw(run.data)


def take(reader: Reader, lengths: list[int], bound: int) -> list[np.ndarray]:
    """What `put` wrote, of each kind int64[length]. Raises WireError."""
    sizes = list(reader.raw(len(lengths)))
    for size, length in zip(sizes, lengths, strict=True):
        if size > 2 * bound + 1 or (size == 0) != (length == 0):
            raise WireError(f"a table of {size} classes, where at most {2 * bound + 1} can be")
    ends = np.cumsum([max(0, size - 1) for size in sizes])
    chains = np.split(take_indices(reader, int(ends[-1]))[None], ends[:-1], axis=1)
    values = sum(lengths)
    if not values:
        return [np.zeros(0, np.int64) for _ in lengths]
    run = stream.read(reader, values, reader.varint(values), 0)
    symbols = np.empty(values, np.uint8)
    kinds = np.split(symbols, np.cumsum(lengths)[:-1])
    run.take(symbols, _contexts(kinds), _table(chains))
    run.finish(0)
    wide = symbols.astype(np.int64)
    numbers = np.where(wide & 1, -(wide + 1 >> 1), wide >> 1)
    return np.split(numbers, np.cumsum(lengths)[:-1])


_NO_RAW = np.zeros(0, np.uint8)


def _contexts(kinds: list[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(len(kinds), dtype=np.uint8), [len(x) for x in kinds])


def _table(chains: list[np.ndarray]) -> Table:
    size = max(2, 1 + max(chain.shape[1] for chain in chains))
    table = np.zeros((len(chains), size), np.int64)
    for row, chain in zip(table, chains, strict=True):
        row[: chain.shape[1] + 1] = frequencies(np.array([ONE]), chain)[0]
    return Table(table)
