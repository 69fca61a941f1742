"""The sparse wire: the largest values of every chunk, as sign and one of two sizes."""

from __future__ import annotations

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Wire, check
from duckweed.wire import chunks, threads
from duckweed.wire.codec import Codec, entropy
from duckweed.wire.codecs.dense import round_bf16, widen_bf16
from duckweed.wire.entropy.signed import CHUNK, put_integers, take_integers
from duckweed.wire.frame import Reader, WireError, Writer
from duckweed.wire.total import SENDERS, Decoded

_CHUNKS = 64  # for one thread at a time


class Sparse(
    Wire, msgspec.Struct, frozen=True, tag_field="kind", tag="sparse", forbid_unknown_fields=True
):
    """The ``keep`` largest of every ``chunk`` values of a tensor, as sign and one of two sizes.

    Chunked top-k with error feedback as in SparseLoCo (arXiv 2508.15706).
    """

    chunk: int = 4096
    keep: int = 64
    feedback: float = 0.95

    def __post_init__(self) -> None:
        check("wire", "chunk", self.chunk, 2, 1 << 20)
        check("wire", "keep", self.keep, 1, self.chunk)
        check("wire", "feedback", self.feedback, 0, 1)


class SparseCodec(Codec):
    section = Sparse
    header = 2
    gives = Codec.gives | {SENDERS}

    @classmethod
    def expected_bits(cls, wire: Sparse) -> float:
        """The entropy of which values are sent, sign and size of each of them."""
        share = wire.keep / wire.chunk
        return entropy([share, 1 - share]) + 2 * share

    def write(self, writer: Writer, x: np.ndarray, shared: np.ndarray | None) -> np.ndarray:
        return write(writer, x, select(self.wire, x, self.layout), self.layout)

    def read(self, reader: Reader, shared: np.ndarray | None) -> Decoded:
        return read(reader, self.wire, self.layout)

    def max_bytes(self) -> int:
        """Room for the table, log2 C(n, k) and two bits a value, with a tenth for the coder."""
        starts = chunks.starts(self.layout, self.wire.chunk)
        lengths, counts = np.diff(starts).astype(np.float64), _counts(self.wire, starts)
        p = np.clip(counts / lengths, 1e-4, 1 - 1e-4)
        bits = (-lengths * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) + 2 * counts + 1).sum()
        coder = 48 * (1 + self.layout.total // CHUNK) + 1024
        return int(bits * 1.1 / 8) + 16 * len(self.layout.sizes) + coder


def _kept(wire: Sparse, length: int) -> int:
    """How many values of a chunk of ``length`` <= ``chunk`` are sent: in proportion, >= 1."""
    return max(1, (length * wire.keep + wire.chunk // 2) // wire.chunk)


def _counts(wire: Sparse, starts: np.ndarray) -> np.ndarray:
    """How many values of each chunk are sent, int64[C]."""
    lengths = np.diff(starts)
    kept = {int(n): _kept(wire, int(n)) for n in np.unique(lengths)}
    return np.vectorize(kept.__getitem__, otypes=[np.int64])(lengths)


def select(wire: Sparse, x: np.ndarray, layout: Layout) -> np.ndarray:
    """Which values are sent: the largest of each chunk by magnitude, of equals the first, bool[P]."""
    from duckweed.wire.kernels import kept

    starts = chunks.starts(layout, wire.chunk)
    counts, bits = _counts(wire, starts), np.ascontiguousarray(x, np.float32).view(np.uint32)
    mask = np.empty(layout.total, np.bool_)
    threads.each(
        lambda part: kept.largest(mask, bits, starts[part.start : part.stop + 1], counts[part]),
        threads.stretches(len(counts), _CHUNKS),
    )
    return mask


def write(writer: Writer, x: np.ndarray, mask: np.ndarray, layout: Layout) -> np.ndarray:
    """Writes the values of x where the mask is set; returns what a receiver reads, f32[P]."""
    from duckweed.wire.kernels import kept

    numbers = np.empty(layout.total, np.int8)

    def sizes_of(part: slice) -> tuple[float, float]:
        room = np.empty(int(np.count_nonzero(mask[part])), np.float32)
        low, high, border = kept.two_sizes(room, x[part], mask[part])
        kept.mark(numbers[part], x[part], mask[part], border)
        return low, high

    sizes = threads.each(sizes_of, layout.slices())
    table = round_bf16(np.array(sizes, np.float64).astype(np.float32))
    writer.raw(table.astype("<u2"))
    put_integers(writer, numbers, 2, layout)
    return _values(numbers, table, layout)[0]


def read(reader: Reader, wire: Sparse, layout: Layout) -> Decoded:
    """What `write` wrote, checked."""
    from duckweed.wire.kernels import kept

    count = len(layout.sizes)
    table = reader.array("<u2", 2 * count).reshape(count, 2)
    if (table > 0x7F7F).any():
        raise WireError("a magnitude of the sparse table is negative or not finite")
    numbers, _ = take_integers(reader, 2, layout, np.int8)
    starts = chunks.starts(layout, wire.chunk)
    found = np.empty(len(starts) - 1, np.int64)
    kept.counts(found, numbers, starts)
    if (found != _counts(wire, starts)).any():
        raise WireError("a chunk does not have the number of values that the recipe fixes")
    return Decoded(*_values(numbers, table, layout))


def _values(
    numbers: np.ndarray, table: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """What the numbers stand for, f32[P], and which of them were sent, bool[P]."""
    from duckweed.wire.kernels import kept

    out, mask = np.empty(layout.total, np.float32), np.empty(layout.total, np.bool_)

    def of(part: tuple[slice, np.ndarray]) -> None:
        here, (low, high) = part
        kept.values(out[here], mask[here], numbers[here], low, high)

    threads.each(of, zip(layout.slices(), widen_bf16(table), strict=True))
    return out, mask
