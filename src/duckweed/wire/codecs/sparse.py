"""The sparse wire: the largest values of every chunk, as sign and one of two sizes."""

from __future__ import annotations

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Wire, check
from duckweed.wire import chunks
from duckweed.wire.codec import Codec, entropy
from duckweed.wire.codecs.dense import round_bf16, widen_bf16
from duckweed.wire.entropy.activity import measure
from duckweed.wire.entropy.activity import put as put_activity
from duckweed.wire.entropy.activity import take as take_activity
from duckweed.wire.entropy.magnitudes import GRID, put_flags, take_flags
from duckweed.wire.entropy.rans import Decoder, Encoder
from duckweed.wire.entropy.signs import put_signs, take_signs
from duckweed.wire.frame import Reader, WireError, Writer
from duckweed.wire.total import SENDERS, Decoded

STEPS = 8 << 10  # of the entropy coder: where so few values are sent, lanes are dear


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
        return int(bits * 1.1 / 8) + 16 * len(self.layout.sizes) + 64


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
    mask = np.empty(layout.total, np.bool_)
    for part in layout.slices():
        whole = (part.stop - part.start) // wire.chunk * wire.chunk
        middle = part.start + whole
        for start in range(part.start, middle, 256 * wire.chunk):
            here = slice(start, min(start + 256 * wire.chunk, middle))
            chunk = np.abs(x[here]).reshape(-1, wire.chunk)
            mask[here] = _largest(chunk, wire.keep).ravel()
        if middle < part.stop:
            tail = np.abs(x[middle : part.stop])[None]
            mask[middle : part.stop] = _largest(tail, _kept(wire, tail.shape[1]))[0]
    return mask


def _largest(sizes: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` largest of each row, of equals the first, bool of the same shape."""
    border = np.partition(sizes, -count, axis=1)[:, -count, None]
    mask = sizes >= border
    many = np.flatnonzero(mask.sum(axis=1) > count)
    equal = sizes[many] == border[many]
    spare = count - (sizes[many] > border[many]).sum(axis=1, keepdims=True)
    mask[many] &= ~(equal & (np.cumsum(equal, axis=1) > spare))
    return mask


def _split(sizes: np.ndarray, tensor: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two magnitudes for each tensor with the least squared error (Lloyd): which values are
    large, bool[K], and the table, f32[T, 2] representable in 16 bits."""
    total = np.bincount(tensor, minlength=count)
    mean = np.bincount(tensor, sizes, minlength=count) / np.maximum(total, 1)
    border = 1.3 * mean
    for _ in range(8):
        large = sizes > border[tensor]
        n1 = np.bincount(tensor[large], minlength=count)
        s1 = np.bincount(tensor[large], sizes[large], minlength=count)
        high = np.where(n1 > 0, s1 / np.maximum(n1, 1), mean)
        low = np.where(total > n1, (mean * total - s1) / np.maximum(total - n1, 1), mean)
        border = (high + low) / 2
    return sizes > border[tensor], round_bf16(np.stack([low, high], axis=1).astype(np.float32))


def write(writer: Writer, x: np.ndarray, mask: np.ndarray, layout: Layout) -> np.ndarray:
    """Writes the values of x where the mask is set; returns what a receiver reads, f32[P]."""
    places = np.flatnonzero(mask)
    kept = x[places]
    tensor = _tensor_of(places, layout)
    large, table = _split(np.abs(kept), tensor, len(layout.sizes))
    encoder = Encoder(STEPS)
    activity = measure(mask, 1, layout)
    put_activity(encoder, activity)
    encoder.put(mask, activity.paint(GRID))
    put_flags(encoder, large, tensor)
    put_signs(encoder, x, mask, layout)
    writer.raw(table.astype("<u2"))
    encoder.write(writer)
    return _values(layout.total, places, table[tensor, large.astype(np.int8)], kept < 0)


def read(reader: Reader, wire: Sparse, layout: Layout) -> Decoded:
    """What `write` wrote, checked."""
    count = len(layout.sizes)
    table = reader.array("<u2", 2 * count).reshape(count, 2)
    if (table > 0x7F7F).any():
        raise WireError("a magnitude of the sparse table is negative or not finite")
    decoder = Decoder(reader, layout.total, STEPS)
    mask = decoder.take(layout.total, take_activity(decoder, layout).paint(GRID))
    places = np.flatnonzero(mask)
    starts = chunks.starts(layout, wire.chunk)
    if (chunks.counts(places, starts) != _counts(wire, starts)).any():
        raise WireError("a chunk does not have the number of values that the recipe fixes")
    tensor = _tensor_of(places, layout)
    large = take_flags(decoder, tensor)
    negative = take_signs(decoder, mask, layout)[0][places]
    values = _values(layout.total, places, table[tensor, large.astype(np.int8)], negative)
    return Decoded(values, mask)


def _tensor_of(places: np.ndarray, layout: Layout) -> np.ndarray:
    """The tensor that each place lies in, int64[K]."""
    return np.repeat(np.arange(len(layout.sizes)), chunks.counts(places, layout.offsets))


def _values(total: int, places: np.ndarray, sizes: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Sizes (bf16 bits) with their signs at their places, zeros elsewhere, f32[total]."""
    signed = widen_bf16(sizes)
    np.negative(signed, out=signed, where=negative)
    out = np.zeros(total, np.float32)
    out[places] = signed
    return out
