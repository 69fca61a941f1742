"""The integer wire: small integers at a scale common to all peers."""

from __future__ import annotations

import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Integer
from duckweed.wire.entropy.rans import Decoder, Encoder
from duckweed.wire.entropy.signed import put_integers, take_integers
from duckweed.wire.frame import Reader, WireError, Writer

_AT_ONCE = 1 << 18  # values, so that what lies between two passes stays in the cache


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
        with np.errstate(over="ignore"):
            border = np.float32(wire.threshold) * scale
        for start in range(part.start, part.stop, _AT_ONCE):
            here = slice(start, min(start + _AT_ONCE, part.stop))
            over, under = x[here] > border, x[here] < -border
            np.subtract(over.view(np.int8), under.view(np.int8), out=codes[here])
            if wire.levels > 1:
                with np.errstate(over="ignore"):
                    level = np.rint(np.abs(x[here]) / one)
                codes[here] *= np.clip(level, 1, wire.levels).astype(np.int8)
    return codes


def values(codes: np.ndarray, step: np.ndarray, layout: Layout) -> np.ndarray:
    """What the codes stand for: ``code * step`` with one float32 multiplication each, f32[P]."""
    out = codes.astype(np.float32)
    for part, one in zip(layout.slices(), step, strict=True):
        out[part] *= one
    return out


def encode(writer: Writer, wire: Integer, codes: np.ndarray, layout: Layout) -> None:
    encoder = Encoder()
    put_integers(encoder, codes, wire.levels, layout)
    encoder.write(writer)


def decode(reader: Reader, wire: Integer, layout: Layout) -> np.ndarray:
    """The codes, int8[P]."""
    codes, _ = take_integers(Decoder(reader, layout.total), wire.levels, layout, np.int8)
    reader.end()
    return codes
