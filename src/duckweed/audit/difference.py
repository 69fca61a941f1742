"""How far a contribution is from the one that was done again, counted in codes."""

import math

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.wire.codec import codec_of
from duckweed.wire.codecs.integer import Codes
from duckweed.wire.total import Decoded


class TensorDifference(msgspec.Struct, frozen=True):
    """Of one tensor of a contribution."""

    name: str
    codes: int
    """How many it has; where the wire has no codes, how many values."""
    differ: int
    """How many of them differ."""
    distance: float
    """|a - b| / |b| of its values, b being the one that was done again; infinite where b alone is 0."""


class Difference(msgspec.Struct, frozen=True):
    """Of a whole contribution."""

    codes: int
    """How many codes it has; where the wire has no codes, how many values."""
    differ: int
    """How many of them differ."""
    distance: float
    """|a - b| / |b| of all values, b being the one that was done again."""
    tensors: list[TensorDifference]
    """The same of each tensor, in the order of the layout, [T]."""

    @property
    def share(self) -> float:
        """Of the codes, those that differ."""
        return self.differ / self.codes


def difference(
    spec: RunSpec, layout: Layout, shared: np.ndarray, claimed: bytes, replayed: bytes
) -> Difference:
    """Compare two blobs of contributions. shared: what both were encoded with (State.shared), f32[K].
    Raises WireError if one cannot be decoded."""
    codec = codec_of(spec.wire, layout)
    a, b = codec.decode(claimed, shared), codec.decode(replayed, shared)
    unequal = _codes(a) != _codes(b)
    gap, length = _squares(a.values - b.values, layout), _squares(b.values, layout)
    tensors = [
        TensorDifference(name, size, int(np.count_nonzero(unequal[part])), _ratio(g, n))
        for name, size, part, g, n in zip(
            layout.names, layout.sizes, layout.slices(), gap, length, strict=True
        )
    ]
    differ = sum(one.differ for one in tensors)
    return Difference(layout.total, differ, _ratio(sum(gap), sum(length)), tensors)


def _codes(contribution: Decoded) -> np.ndarray:
    return contribution.codes if isinstance(contribution, Codes) else contribution.values


def _squares(values: np.ndarray, layout: Layout) -> list[float]:
    """Sum of squares of each tensor, [T]."""
    return [float(np.square(values[part], dtype=np.float64).sum()) for part in layout.slices()]


def _ratio(gap: float, length: float) -> float:
    if length == 0:
        return 0.0 if gap == 0 else math.inf
    return math.sqrt(gap / length)
