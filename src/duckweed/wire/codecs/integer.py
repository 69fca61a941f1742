"""The integer wire: small integers at a scale common to all peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.sections import Wire, check
from duckweed.wire import threads
from duckweed.wire.codec import Codec, entropy, refuse, rms
from duckweed.wire.codecs import sums
from duckweed.wire.codecs.sums import Sums
from duckweed.wire.entropy.signed import max_integer_bytes, put_integers, take_integers
from duckweed.wire.frame import Reader, WireError, Writer
from duckweed.wire.total import CODES, NORMS, Decoded, Total


class Integer(
    Wire, msgspec.Struct, frozen=True, tag_field="kind", tag="integer", forbid_unknown_fields=True
):
    """Small integers at a scale common to all peers, so that a merge is an exact sum.

    With the scale s of a tensor, a value x becomes the code 0 where ``|x| <= threshold * s``,
    else ``sign(x) * clip(round(|x| / (value * s)), 1, levels)``, which stands for
    ``code * value * s``.
    """

    threshold: float = 1.0
    value: float = 1.5
    levels: int = 1
    feedback: float = 1.0

    def __post_init__(self) -> None:
        check("wire", "threshold", self.threshold, 0, 1000)
        check("wire", "value", self.value, 1e-3, 1000)
        check("wire", "levels", self.levels, 1, 127)
        check("wire", "feedback", self.feedback, 0, 1)


class Codes(Decoded):
    """A contribution of codes. Its values are computed when asked for: a sum needs none."""

    def __init__(self, codes: np.ndarray, steps: np.ndarray, layout: Layout) -> None:
        """codes: int8[P]; steps: what a code of 1 stands for in each tensor, f32[T]."""
        self.codes, self.steps, self.layout, self.mask = codes, steps, layout, None

    @property
    def values(self) -> np.ndarray:
        return sums.values(self.codes, self.steps, self.layout)

    def leave(self, x: np.ndarray) -> None:
        from duckweed.wire.kernels import vectors

        def leave(of: threads.Within) -> None:
            part, tensor = of
            vectors.leave(x[part], self.codes[part], self.steps[tensor])

        threads.each(leave, threads.within(self.layout.slices()))


class IntegerCodec(Codec):
    """Peers share the scale of each tensor: the median of the RMS that they announced."""

    section = Integer
    header = 3
    gives = frozenset({NORMS, CODES})
    additive = True
    divisible = True
    refuses = True
    measured = True

    @classmethod
    def expected_bits(cls, wire: Integer) -> float:
        """The entropy of the codes of normally distributed values whose RMS is the common scale. Real
        ones had some 5 % less (docs/parity.md)."""
        ends = [max(wire.threshold, (n + 0.5) * wire.value) for n in range(1, wire.levels)]
        above = [math.erfc(end / math.sqrt(2)) / 2 for end in [wire.threshold, *ends, math.inf]]
        codes = [a - b for a, b in pairwise(above)]
        return entropy([1 - 2 * above[0], *codes, *codes])

    def write(self, writer: Writer, x: np.ndarray, shared: np.ndarray | None) -> Codes:
        codes = quantise(self.wire, x, self.layout, shared)
        put_integers(writer, codes, self.wire.levels, self.layout)
        return Codes(codes, steps(self.wire, shared, self.layout), self.layout)

    def read(self, reader: Reader, shared: np.ndarray | None) -> Codes:
        step = steps(self.wire, shared, self.layout)
        codes, _ = take_integers(reader, self.wire.levels, self.layout, np.int8)
        return Codes(codes, step, self.layout)

    def max_bytes(self) -> int:
        return max_integer_bytes(self.wire.levels, self.layout)

    def norm(self, contribution: Decoded) -> None:
        """Codes cannot be large."""

    def total(self, shared: np.ndarray | None, needs: frozenset[str] = frozenset()) -> Sums:
        return Sums(self.layout, steps(self.wire, shared, self.layout), self.wire.levels)

    def update(self, total: Total) -> bytes:
        assert isinstance(total, Sums)
        return sums.encode(total)

    def read_update(self, blob: bytes, shared: np.ndarray | None, contributors: int) -> Sums:
        step = steps(self.wire, shared, self.layout)
        return sums.decode(blob, self.layout, step, self.wire.levels, contributors)

    def update_limit(self, contributors: int, weight: int) -> int:
        return sums.max_size(self.layout, self.wire.levels, contributors, weight)

    def first_shared(self, gradient: Callable[[], np.ndarray]) -> np.ndarray:
        return np.array(rms(gradient(), self.layout), np.float32)


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
    """The codes of x, int8[P]. A scale of 0 gives zeros. Raises WireError: x holds NaN or infinity."""
    step = steps(wire, scales, layout)
    assert scales is not None
    from duckweed.wire.kernels import vectors

    x = np.ascontiguousarray(x, np.float32)
    codes = np.zeros(layout.total, np.int8)
    with np.errstate(over="ignore"):
        borders = np.float32(wire.threshold) * np.asarray(scales, np.float32)

    def code(of: threads.Within) -> int:
        """The largest magnitude of the part, as bits."""
        (part, tensor), border = of, borders[of.number]
        if step[tensor] == 0:
            return int(vectors.largest_bits(x[part].view(np.uint32)))
        if wire.levels == 1:
            return int(vectors.ternary(codes[part], x[part], border))
        return int(vectors.levels(codes[part], x[part], border, step[tensor], wire.levels))

    refuse(max(threads.each(code, threads.within(layout.slices()))), x, layout)
    return codes
