"""The dense wire: every value, as fp32, bf16, or int8 with a scale for each block."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Wire, check
from duckweed.wire import chunks
from duckweed.wire.codec import Codec
from duckweed.wire.entropy.rans import Decoder, Encoder
from duckweed.wire.entropy.signed import max_integer_bytes, put_integers, take_integers
from duckweed.wire.frame import Reader, WireError, Writer
from duckweed.wire.total import Decoded

BLOCK = 4096


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
        if not np.isfinite(out).all():
            raise WireError("the blob holds values that are not finite")
        return Decoded(out)

    def max_bytes(self) -> int:
        if self.wire.dtype == "int8":
            scales = 4 * (len(chunks.starts(self.layout, BLOCK)) - 1)
            return scales + max_integer_bytes(127, self.layout)
        return self.layout.total * (4 if self.wire.dtype == "fp32" else 2)


def round_bf16(x: np.ndarray) -> np.ndarray:
    """bf16 bits of x, uint16: round to nearest, ties to even; finite stays finite."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    top = rounded >> np.uint32(16)
    sign = top & np.uint32(0x8000)
    return (np.minimum(top & np.uint32(0x7FFF), np.uint32(0x7F7F)) | sign).astype(np.uint16)


def widen_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _write_int8(writer: Writer, x: np.ndarray, layout: Layout) -> np.ndarray:
    """Scales; then ``code = high * 2^low + rest``, where the high part is entropy-coded and the
    rest, which is as good as evenly spread, is raw."""
    starts = chunks.starts(layout, BLOCK)
    scales = np.maximum.reduceat(np.abs(x), starts[:-1]) / np.float32(127)
    scales = np.minimum(scales, np.float32(2.67e36))  # so that 127 of it stay finite
    repeated = np.repeat(scales, np.diff(starts))
    safe = np.where(repeated > 0, repeated, np.float32(1))
    with np.errstate(over="ignore"):
        codes = np.clip(np.rint(x / safe), -127, 127)
    codes = np.where(repeated > 0, codes, 0).astype(np.int16)
    low = int(
        max(0, np.floor(np.log2(np.abs(codes[:: max(1, layout.total >> 20)]).mean() / 3 + 0.01)))
    )
    half = (1 << low) >> 1
    high = (codes + half) >> low
    rest = codes + half - (high << low)
    writer.raw(scales.astype("<f4"))
    writer.varint(low)
    encoder = Encoder()
    put_integers(encoder, high.astype(np.int8), _top(low), layout)
    for bit in range(low):
        encoder.raw((rest >> bit & 1).astype(np.bool_))
    encoder.write(writer)
    return codes * repeated


def _top(low: int) -> int:
    """The largest high part of a code of at most 127."""
    return (127 + ((1 << low) >> 1)) >> low


def _read_int8(reader: Reader, layout: Layout) -> np.ndarray:
    starts = chunks.starts(layout, BLOCK)
    scales = reader.array("<f4", len(starts) - 1)
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise WireError("a scale of the int8 blob is negative or not finite")
    low = reader.varint(5)
    decoder = Decoder(reader, layout.total)
    high, bits = take_integers(decoder, _top(low), layout, np.int8, low * layout.total)
    codes = (high.astype(np.int16) << low) - ((1 << low) >> 1)
    for bit, plane in enumerate(bits.reshape(low, layout.total)):
        codes += plane.astype(np.int16) << bit
    if (np.abs(codes) > 127).any():
        raise WireError("a coded integer is above the largest possible, 127")
    with np.errstate(over="ignore"):
        return codes * np.repeat(scales, np.diff(starts))
