"""A contribution: one peer's pseudo-gradient of one round, as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Dense, Integer, Sparse, Wire
from duckweed.wire.codecs import dense, integer, sparse
from duckweed.wire.entropy import signed
from duckweed.wire.frame import HEADER, Reader, WireError, Writer, fingerprint

_KIND: dict[type, int] = {Dense: 1, Sparse: 2, Integer: 3}


class Compressed(NamedTuple):
    """The bytes, and the values f32[P] that every receiver will decode from them, bit for bit."""

    blob: bytes
    sent: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """What a blob holds: ``mask`` bool[P] (sparse: which values were sent), ``codes`` int8[P] and
    ``steps`` f32[T] (integer: what a code of 1 stands for). ``values`` is computed when asked."""

    layout: Layout
    plain: np.ndarray | None = None
    mask: np.ndarray | None = None
    codes: np.ndarray | None = None
    steps: np.ndarray | None = None

    @cached_property
    def values(self) -> np.ndarray:
        """The decoded pseudo-gradient, f32[P]."""
        if self.codes is None:
            assert self.plain is not None
            return self.plain
        assert self.steps is not None
        return integer.values(self.codes, self.steps, self.layout)


def _agreed(wire: Wire, layout: Layout) -> bytes:
    return fingerprint(layout.digest().encode(), msgspec.json.encode(wire))


def compress(wire: Wire, x: np.ndarray, layout: Layout, scales: np.ndarray | None) -> Compressed:
    """Compress x, f32[P]. ``scales`` f32[T] is needed by the integer wire only.

    Raises:
        WireError: x has another length than the layout, holds NaN or infinity, or the scales do
            not fit.
    """
    x = np.asarray(x, np.float32)
    if x.shape != (layout.total,):
        raise WireError(f"values of shape {x.shape} for a layout of {layout.total} values")
    if not np.isfinite(x).all():
        where = int(np.flatnonzero(~np.isfinite(x))[0])
        name = layout.names[int(np.searchsorted(layout.offsets, where, "right")) - 1]
        raise WireError(f"non-finite value in tensor {name!r}: the training step diverged")
    writer = Writer(_KIND[type(wire)], _agreed(wire, layout))
    if isinstance(wire, Dense):
        sent = dense.compress(wire, writer, x, layout)
    elif isinstance(wire, Sparse):
        sent = sparse.compress(wire, writer, x, layout)
    else:
        codes = integer.quantise(wire, x, layout, scales)
        integer.encode(writer, wire, codes, layout)
        sent = integer.values(codes, integer.steps(wire, scales, layout), layout)
    return Compressed(writer.blob(), sent)


def decode(wire: Wire, blob: bytes, layout: Layout, scales: np.ndarray | None) -> Decoded:
    """What `compress` put into ``blob``, checked.

    Raises:
        WireError: the blob is damaged, cut short, too long, or made for something else.
    """
    limit = max_size(wire, layout)
    if len(blob) > limit:
        raise WireError(f"blob of {len(blob)} bytes; at most {limit} are possible")
    reader = Reader(blob, _KIND[type(wire)], _agreed(wire, layout))
    if isinstance(wire, Dense):
        return Decoded(layout, plain=dense.decode(reader, wire, layout))
    if isinstance(wire, Sparse):
        plain, mask = sparse.decode(reader, wire, layout)
        return Decoded(layout, plain=plain, mask=mask)
    steps = integer.steps(wire, scales, layout)
    return Decoded(layout, codes=integer.decode(reader, wire, layout), steps=steps)


def max_size(wire: Wire, layout: Layout) -> int:
    """The most bytes that a valid blob can have. Refuse a longer one before reading it."""
    if isinstance(wire, Dense):
        return HEADER + dense.max_bytes(wire, layout)
    if isinstance(wire, Sparse):
        return HEADER + sparse.max_bytes(wire, layout)
    return HEADER + signed.max_integer_bytes(wire.levels, layout)
