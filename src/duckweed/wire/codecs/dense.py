"""The dense wire: every value, as fp32, bf16, or int8 with a scale for each block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Wire, check
from duckweed.wire import chunks, threads
from duckweed.wire.codec import Codec, finite, largest_bits, refuse
from duckweed.wire.entropy.signed import max_integer_bytes, put_integers, take_integers, typical
from duckweed.wire.frame import Reader, WireError, Writer
from duckweed.wire.total import Decoded

BLOCK = 4096
BLOCKS = 64  # for one thread at a time


class Dense(
    Wire, msgspec.Struct, frozen=True, tag_field="kind", tag="dense", forbid_unknown_fields=True
):
    """Every value is sent, rounded to ``dtype``. With int8, ``feedback = 1.0`` is sensible."""

    dtype: Literal["fp32", "bf16", "int8"] = "bf16"
    feedback: float = 0.0

    def __post_init__(self) -> None:
        check("wire", "feedback", self.feedback, 0, 1)


class Int8(Decoded):
    """A contribution of int8 codes. Its values are computed when asked for."""

    def __init__(
        self, high: np.ndarray, rest: np.ndarray, low: int, scales: np.ndarray, layout: Layout
    ) -> None:
        """The code of a value is high * 2^low + rest - 2^low / 2, int8[P] and uint8[P]; scales: of each block, f32[B]."""
        self.high, self.rest, self.low, self.scales, self.layout = high, rest, low, scales, layout
        self.mask = None

    @property
    def values(self) -> np.ndarray:
        return self.decode()[0]

    def decode(self) -> tuple[np.ndarray, int]:
        """The values, and the largest magnitude of a code."""
        from duckweed.wire.kernels import vectors

        out = np.empty(self.layout.total, np.float32)
        return out, max(self._each(vectors.from_int8, out))

    def leave(self, x: np.ndarray) -> None:
        from duckweed.wire.kernels import vectors

        self._each(vectors.leave_int8, x)

    def _each(self, kernel: Callable[..., int], x: np.ndarray) -> list[int]:
        starts = chunks.starts(self.layout, BLOCK)
        return threads.each(
            lambda part: kernel(
                x, self.high, self.rest, self.low, self.scales[part],
                starts[part.start : part.stop + 1],
            ),
            threads.stretches(len(self.scales), BLOCKS),
        )  # fmt: skip


class DenseCodec(Codec):
    section = Dense
    header = 1
    refuses = True

    @classmethod
    def expected_bits(cls, wire: Dense) -> float:
        return {"fp32": 32.0, "bf16": 16.0, "int8": 6.0}[wire.dtype]  # int8: docs/wire.md

    def write(
        self, writer: Writer, x: np.ndarray, shared: np.ndarray | None
    ) -> np.ndarray | Decoded:
        if self.wire.dtype == "int8":
            return _write_int8(writer, x, self.layout)
        refuse(largest_bits(x), x, self.layout)
        if self.wire.dtype == "fp32":
            writer.raw(np.ascontiguousarray(x, "<f4"))
            return x.astype(np.float32)
        bits = round_bf16(x)
        writer.raw(bits.astype("<u2"))
        return widen_bf16(bits)

    def read(self, reader: Reader, shared: np.ndarray | None) -> Decoded:
        if self.wire.dtype == "fp32":
            out = reader.array("<f4", self.layout.total)
        elif self.wire.dtype == "bf16":
            out = widen_bf16(reader.array("<u2", self.layout.total))
        else:
            return Decoded(_read_int8(reader, self.layout))
        if not finite(out):
            raise WireError("the blob holds values that are not finite")
        return Decoded(out)

    def max_bytes(self) -> int:
        if self.wire.dtype == "int8":
            scales = 4 * (len(chunks.starts(self.layout, BLOCK)) - 1)
            return scales + max_integer_bytes(127, self.layout)
        return self.layout.total * (4 if self.wire.dtype == "fp32" else 2)


def round_bf16(x: np.ndarray) -> np.ndarray:
    """bf16 bits of x, uint16: round to nearest, ties to even; finite stays finite."""
    from duckweed.wire.kernels import vectors

    bits = np.ascontiguousarray(x, np.float32).reshape(-1).view(np.uint32)
    out = np.empty(len(bits), np.uint16)
    threads.each(lambda part: vectors.round_bf16(out[part], bits[part]), threads.parts(len(bits)))
    return out.reshape(np.shape(x))


def widen_bf16(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bf16 bits, uint16."""
    out = bits.astype(np.uint32)
    out <<= np.uint32(16)
    return out.view(np.float32)


def _write_int8(writer: Writer, x: np.ndarray, layout: Layout) -> Int8:
    """Scales; then ``code = high * 2^low + rest - 2^low / 2``, where the high part is entropy-coded and the
    rest, which is as good as evenly spread, is raw."""
    from duckweed.wire.kernels import vectors

    x, total = np.ascontiguousarray(x, np.float32), layout.total
    starts = chunks.starts(layout, BLOCK)
    scales, codes = np.empty(len(starts) - 1, np.float32), np.empty(total, np.int8)
    most = threads.each(
        lambda part: vectors.to_int8(codes, scales[part], x, starts[part.start : part.stop + 1]),
        threads.stretches(len(scales), BLOCKS),
    )
    refuse(max(most), x, layout)
    low = int(max(0, np.floor(np.log2(typical(codes) / 3 + 0.01))))
    writer.raw(scales.astype("<f4"))
    writer.varint(low)
    high, rest = codes, np.empty(total, np.uint8)
    threads.each(lambda part: vectors.split_int8(high[part], rest[part], low), threads.parts(total))
    put_integers(writer, high, _top(low), layout, rest, low)
    return Int8(high, rest, low, scales, layout)


def _top(low: int) -> int:
    """The largest high part of a code of at most 127."""
    return (127 + ((1 << low) >> 1)) >> low


def _read_int8(reader: Reader, layout: Layout) -> np.ndarray:
    from duckweed.wire.kernels import vectors

    starts = chunks.starts(layout, BLOCK)
    scales = reader.array("<f4", len(starts) - 1)
    if not (finite(scales) and (scales >= 0).all()):
        raise WireError("a scale of the int8 blob is negative or not finite")
    low = reader.varint(5)
    high, rest = take_integers(reader, _top(low), layout, np.int8, low)
    if not low:
        rest = np.zeros(layout.total, np.uint8)
    values, most = Int8(high, rest, low, scales, layout).decode()
    if most > 127:
        raise WireError("a coded integer is above the largest possible, 127")
    if scales.max() > vectors.MOST and not finite(values):
        raise WireError("the blob holds values that are not finite")
    return values
