"""Coding of signed integers, one for every value of a model: the heart of three kinds of blob.

A map of activity gives each value a level, which is the context that its magnitude is coded in. The values are
coded in chunks of equal length that know nothing of each other, so that threads share them.
"""

from __future__ import annotations

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire import threads
from duckweed.wire.entropy import activity, stream
from duckweed.wire.entropy.activity import Map, measure
from duckweed.wire.entropy.stream import Run, Symbols, Table
from duckweed.wire.entropy.tables import (
    FLAGS,
    GRID,
    LEVELS,
    ONE,
    chained,
    frequencies,
    nearest,
    put_indices,
    take_indices,
)
from duckweed.wire.frame import Reader, WireError, Writer

CHUNK = 1 << 18
"""Values of a chunk."""
_MAX_CAP = 256
_MAX_RAW = 5 + 31 + 1  # raw bits of a value
_LEVELS = np.arange(LEVELS, dtype=np.uint8)
_NONE = np.zeros(0, np.uint8)


def put_integers(
    writer: Writer,
    numbers: np.ndarray,
    largest: int,
    layout: Layout,
    rest: np.ndarray = _NONE,
    low: int = 0,
) -> None:
    """Signed integers of magnitude <= largest, int8[P], int16[P] or int32[P], and `low` raw bits beside each, uint8[P]."""
    cap = _cap(numbers, largest)
    found = measure(numbers, cap, layout)
    writer.raw(bytes([cap - 1]))
    activity.put(writer, found)
    table = _put_table(writer, numbers, largest, cap, found) if largest > 1 else FLAGS
    coded, signs = Table(table), Table(FLAGS)
    _ = coded.rows, signs.rows  # before the threads ask for them
    runs = threads.each(
        lambda part: _write(part, numbers, found, coded, signs, rest, low),
        threads.stretches(layout.total, CHUNK),
    )
    for run in runs:
        writer.varint(run.words)
        writer.varint(run.raw)
    for run in runs:
        writer.raw(run.data)


def take_integers(
    reader: Reader, largest: int, layout: Layout, dtype: type, low: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """What `put_integers` wrote: numbers, dtype[P], and the raw bits beside each, uint8[P] (of none if low is
    0). dtype: int8, int16 or int32. Raises WireError."""
    cap = reader.raw(1)[0] + 1
    if cap > max(1, largest):
        raise WireError(f"magnitudes that count up to {cap}, where at most {largest} are possible")
    found = activity.take(reader, layout)
    coded = Table(_take_table(reader, largest, cap) if largest > 1 else FLAGS)
    signs = Table(FLAGS)
    if coded.size > 2:
        _ = coded.symbols  # before the threads ask for it
    parts = threads.stretches(layout.total, CHUNK)
    most = np.tile([2 * CHUNK, CHUNK * _MAX_RAW // 8 + 1], len(parts))
    sizes = reader.varints(2 * len(parts), most).reshape(-1, 2).tolist()
    runs = [
        stream.read(reader, part.stop - part.start, words, raw)
        for part, (words, raw) in zip(parts, sizes, strict=True)
    ]
    numbers: np.ndarray = np.empty(layout.total, dtype)
    rest = np.empty(layout.total if low else 0, np.uint8)
    threads.each(
        lambda both: _read(*both, numbers, found, coded, signs, rest, low, largest),
        zip(parts, runs, strict=True),
    )
    return numbers, rest


def _write(
    part: slice, numbers: np.ndarray, found: Map, table: Table, signs: Table, rest: np.ndarray, low: int
) -> Run:  # fmt: skip
    from duckweed.wire.kernels import chunk

    count = part.stop - part.start
    symbols, lean, contexts = np.empty((3, count), np.uint8)
    direct = table.size <= chunk.DIRECT
    a_value = low + 1 if direct else low + 1 + max(0, table.size - chunk.DIRECT + 6)
    raw = np.empty(count * a_value // 32 + 3, np.uint32)
    bits, leaning = chunk.split(
        numbers, part.start, part.stop, direct, rest, low, found.offsets, found.widths,
        found.column_starts, found.leans, found.leanings, symbols, lean, contexts, raw,
    )  # fmt: skip
    parts = [
        Symbols(symbols, found.paint(part), table),
        Symbols(lean[:leaning], contexts[:leaning], signs),
    ]
    data = raw[: -(-bits // 32)].astype("<u4", copy=False).view(np.uint8)
    return stream.write(count, parts, data[: -(-bits // 8)])


def _read(
    part: slice, run: stream.Open, numbers: np.ndarray, found: Map, table: Table, signs: Table,
    rest: np.ndarray, low: int, largest: int,
) -> None:  # fmt: skip
    from duckweed.wire.kernels import chunk

    count = part.stop - part.start
    symbols = np.empty(count, np.uint8)
    run.take(symbols, found.paint(part), table)
    lean = contexts = _NONE
    if found.leans.any():
        contexts = np.empty(count + 1, np.uint8)
        leaning = chunk.leaning_signs(
            symbols, part.start, part.stop, found.offsets, found.widths, found.column_starts,
            found.leans, found.leanings, contexts,
        )  # fmt: skip
        lean = np.empty(leaning + 1, np.uint8)
        run.take(lean[:leaning], contexts[:leaning], signs)
    direct = table.size <= chunk.DIRECT
    bits = chunk.raw_bits(symbols, part.start, part.stop, direct, low, found.offsets, found.leans)
    raw = run.finish(bits)
    failed = chunk.join(
        numbers, part.start, part.stop, direct, rest, low, largest, found.offsets, found.leans,
        symbols, lean, raw, raw.view("<u4").astype(np.uint32, copy=False),
    )  # fmt: skip
    if failed:
        raise WireError(f"a coded integer is above the largest possible, {largest}")


def _cap(numbers: np.ndarray, largest: int) -> int:
    """Where magnitudes stop to count for the map of activity: at about four times their mean."""
    if largest <= 1:
        return 1
    return int(max(1, min(np.rint(4 * typical(numbers)), largest, _MAX_CAP)))


def typical(numbers: np.ndarray) -> float:
    """The mean magnitude of about a million of the integers."""
    from duckweed.wire.kernels import vectors

    apart = max(1, len(numbers) >> 20)
    return int(vectors.magnitudes(numbers, apart)) / -(-len(numbers) // apart)


def _put_table(
    writer: Writer, numbers: np.ndarray, largest: int, cap: int, found: Map
) -> np.ndarray:
    """Count what comes at each level, and write the tables. Returns their frequencies int64[64, S]."""
    from duckweed.wire.kernels import chunk

    def counts_of(part: slice) -> np.ndarray:
        size, direct = chunk.symbol_of(largest) + 1, largest < chunk.DIRECT
        counts = np.zeros((4, LEVELS * size), np.int32)
        chunk.count(counts, found.paint(part), numbers, part.start, direct)
        return counts.sum(axis=0, dtype=np.int64).reshape(LEVELS, size)

    counts = sum(threads.each(counts_of, threads.stretches(len(numbers), CHUNK)))
    assert isinstance(counts, np.ndarray)
    size = max(2, 1 + int(np.flatnonzero(counts.any(axis=0)).max()))
    counts = counts[:, :size]
    used = np.asarray(counts.any(axis=1))
    shift = _shift(int(counts[:, 1:].sum()))
    writer.raw(bytes([size, shift]))
    writer.raw(np.packbits(used, bitorder="little"))
    zero = _LEVELS
    if cap > 1:
        zero = nearest(counts[:, 1:].sum(axis=1), counts.sum(axis=1))
        put_indices(writer, zero[used])
    buckets = np.add.reduceat(counts[:, 1:], np.arange(0, LEVELS, 1 << shift), axis=0)
    chain = chained(buckets)
    put_indices(writer, chain[_of_buckets(used, shift)].ravel())
    return _join_table(zero, chain, shift)


def _take_table(reader: Reader, largest: int, cap: int) -> np.ndarray:
    """What `_put_table` wrote, int64[64, S]. Raises WireError."""
    from duckweed.wire.kernels import chunk

    size, shift = reader.raw(2)
    if not 2 <= size <= chunk.symbol_of(largest) + 1 or shift > 6:
        raise WireError(f"a table of {size} symbols, where numbers up to {largest} are coded")
    mask = np.frombuffer(reader.raw(LEVELS // 8), np.uint8)
    used = np.unpackbits(mask, bitorder="little").astype(np.bool_)
    zero = _LEVELS.copy()
    if cap > 1:
        zero[used] = take_indices(reader, int(used.sum()))
    buckets = _of_buckets(used, shift)
    chain = np.full((len(buckets), size - 2), LEVELS // 2, np.uint8)
    count = int(buckets.sum())
    chain[buckets] = take_indices(reader, count * (size - 2)).reshape(count, size - 2)
    return _join_table(zero, chain, shift)


def _join_table(zero: np.ndarray, chain: np.ndarray, shift: int) -> np.ndarray:
    """Frequencies from the rate of nonzero values at each level, and those of magnitudes in each bucket."""
    nonzero = np.maximum(GRID[zero], chain.shape[1] + 1)
    rest = frequencies(nonzero, chain[_LEVELS >> shift])
    return np.concatenate([(ONE - nonzero)[:, None], rest], axis=1)


def _of_buckets(used: np.ndarray, shift: int) -> np.ndarray:
    """Which buckets have a level that comes, bool."""
    return np.logical_or.reduceat(used, np.arange(0, LEVELS, 1 << shift))


def _shift(nonzero: int) -> int:
    """Levels share a table of magnitudes, 2^shift of them: the finer the more there is to learn from."""
    return 0 if nonzero >> 17 else 1 if nonzero >> 15 else 2 if nonzero >> 13 else 6


def bits_per_value(largest: int) -> int:
    """Bits that a value of magnitude <= largest can take at most, beside the tables."""
    return 2 * max(1, largest.bit_length())


def max_integer_bytes(largest: int, layout: Layout) -> int:
    """Room for the worst distribution, with a twentieth for the coder."""
    bits = layout.total * bits_per_value(largest) + 32 * len(layout.sizes)
    tables = 48 * min(largest + 1, 90)
    return int(bits * 1.05 / 8) + tables + 48 * (1 + layout.total // CHUNK) + 512
