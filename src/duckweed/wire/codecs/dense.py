"""The dense wire: every value, as fp32, bf16, or int8 with a scale for each block."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Wire, check
from duckweed.wire import chunks, threads
from duckweed.wire.codec import Codec, finite
from duckweed.wire.entropy.signed import max_integer_bytes, put_integers, take_integers
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


class DenseCodec(Codec):
    section = Dense
    header = 1

    @classmethod
    def expected_bits(cls, wire: Dense) -> float:
        return {"fp32": 32.0, "bf16": 16.0, "int8": 6.0}[wire.dtype]  # int8: docs/wire.md

    def write(self, writer: Writer, x: np.ndarray, shared: np.ndarray | None) -> np.ndarray:
        if self.wire.dtype == "fp32":
            writer.raw(np.ascontiguousarray(x, "<f4"))
            return x.astype(np.float32)
        if self.wire.dtype == "bf16":
            bits = round_bf16(x)
            writer.raw(bits.astype("<u2"))
            return widen_bf16(bits)
        return _write_int8(writer, x, self.layout)

    def read(self, reader: Reader, shared: np.ndarray | None) -> Decoded:
        if self.wire.dtype == "fp32":
            out = reader.array("<f4", self.layout.total)
        elif self.wire.dtype == "bf16":
            out = widen_bf16(reader.array("<u2", self.layout.total))
        else:
            out = _read_int8(reader, self.layout)
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


def _write_int8(writer: Writer, x: np.ndarray, layout: Layout) -> np.ndarray:
    """Scales; then ``code = high * 2^low + rest``, where the high part is entropy-coded and the
    rest, which is as good as evenly spread, is raw."""
    from duckweed.wire.kernels import vectors

    x, total = np.ascontiguousarray(x, np.float32), layout.total
    starts = chunks.starts(layout, BLOCK)
    scales, sent = np.empty(len(starts) - 1, np.float32), np.empty(total, np.float32)
    codes = np.empty(total, np.int8)
    threads.each(
        lambda part: vectors.to_int8(
            codes, sent, scales[part], x, starts[part.start : part.stop + 1]
        ),
        threads.stretches(len(scales), BLOCKS),
    )
    typical = np.abs(codes[:: max(1, total >> 20)]).mean()
    low = int(max(0, np.floor(np.log2(typical / 3 + 0.01))))
    writer.raw(scales.astype("<f4"))
    writer.varint(low)
    high, rest = np.empty(total, np.int8), np.empty(total, np.uint8)
    threads.each(
        lambda part: vectors.split_int8(codes[part], high[part], rest[part], low),
        threads.parts(total),
    )
    put_integers(writer, high, _top(low), layout, rest, low)
    return sent


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
    out = np.empty(layout.total, np.float32)
    most = threads.each(
        lambda part: vectors.from_int8(
            out, high, rest, low, scales[part], starts[part.start : part.stop + 1]
        ),
        threads.stretches(len(scales), BLOCKS),
    )
    if max(most) > 127:
        raise WireError("a coded integer is above the largest possible, 127")
    return out
