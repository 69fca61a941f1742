"""The integer wire: small integers at a scale common to all peers."""

from __future__ import annotations

import numpy as np

from . import activity
from .frame import Reader, WireError, Writer
from .kinds import Integer
from .layout import Layout
from .magnitudes import put_positive, take_positive
from .rans import Decoder, Encoder


def steps(wire: Integer, scales: np.ndarray | None, layout: Layout) -> np.ndarray:
    """What a code of 1 stands for in each tensor, ``value * scale`` rounded once, f32[T]."""
    if scales is None:
        raise WireError("the integer wire needs a scale for each tensor")
    scales = np.asarray(scales, np.float32)
    if scales.shape != (len(layout.sizes),):
        raise WireError(f"scales of shape {scales.shape} for {len(layout.sizes)} tensors")
    with np.errstate(over="ignore"):
        step = np.float32(wire.value) * scales
        top = step * np.float32(wire.levels)
    if not (np.isfinite(top).all() and (scales >= 0).all()):
        raise WireError("scales must be finite, not negative, and small enough for float32 values")
    return step


def quantise(wire: Integer, x: np.ndarray, layout: Layout, scales: np.ndarray | None) -> np.ndarray:
    """The codes of x, int8[P]. A scale of 0 gives zeros. x must be finite."""
    step = steps(wire, scales, layout)
    assert scales is not None
    codes = np.zeros(layout.total, np.int8)
    for part, one, scale in zip(layout.slices(), step, np.asarray(scales, np.float32), strict=True):
        if one == 0:
            continue
        size = np.abs(x[part])
        with np.errstate(over="ignore"):
            over = size > np.float32(wire.threshold) * scale
        if wire.levels == 1:
            level = over.view(np.int8)
        else:
            with np.errstate(over="ignore"):
                np.divide(size, one, out=size)
            level = np.clip(np.rint(size, out=size), 1, wire.levels, out=size).astype(np.int8)
            level *= over
        np.negative(level, out=codes[part], where=x[part] < 0)
        np.copyto(codes[part], level, where=x[part] > 0)
    return codes


def values(codes: np.ndarray, step: np.ndarray, layout: Layout) -> np.ndarray:
    """What the codes stand for: ``code * step`` with one float32 multiplication each, f32[P]."""
    out = codes.astype(np.float32)
    for part, one in zip(layout.slices(), step, strict=True):
        out[part] *= one
    return out


def put_integers(encoder: Encoder, numbers: np.ndarray, largest: int, layout: Layout) -> None:
    """Signed integers of magnitude <= largest, [P]."""
    flags = numbers != 0
    activity.put(encoder, flags, layout)
    some = numbers[flags]
    if largest > 1:
        put_positive(encoder, np.abs(some.astype(np.int32)), largest)
    encoder.raw(some < 0)


def take_integers(decoder: Decoder, largest: int, layout: Layout, dtype: type) -> np.ndarray:
    """What `put_integers` wrote, dtype[P]; ends the stream."""
    flags = activity.take(decoder, layout)
    out: np.ndarray = flags.astype(dtype)
    count = int(np.count_nonzero(flags))
    if largest > 1:
        sizes = take_positive(decoder, count, largest)
        if (sizes > largest).any():
            raise WireError(f"a coded integer is above the largest possible, {largest}")
        out[flags] = sizes
    np.negative(out, out=out, where=_spread(decoder.finish(count), flags))
    return out


def _spread(bits: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """bits[i] at the place of the i-th set flag, bool[P]."""
    out = np.zeros(len(flags), np.bool_)
    out[flags] = bits
    return out


def encode(writer: Writer, wire: Integer, codes: np.ndarray, layout: Layout) -> None:
    encoder = Encoder()
    put_integers(encoder, codes, wire.levels, layout)
    encoder.write(writer)


def decode(reader: Reader, wire: Integer, layout: Layout) -> np.ndarray:
    """The codes, int8[P]."""
    codes = take_integers(Decoder(reader, layout.total), wire.levels, layout, np.int8)
    reader.end()
    return codes


def bits_per_value(largest: int) -> int:
    """Flags and raw bits that a value of magnitude <= largest can take at most."""
    return 2 * max(1, largest.bit_length())


def max_bytes(largest: int, layout: Layout) -> int:
    """Room for the worst distribution, with a twentieth for the coder."""
    bits = layout.total * bits_per_value(largest) + 8 * len(layout.sizes)
    return int(bits * 1.05 / 8) + 512
