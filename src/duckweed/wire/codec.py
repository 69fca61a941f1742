"""The one way into a wire: `codec_of(spec.wire, layout)`.

A wire is one module: a section of run.toml and a codec for it. The codec turns a pseudo-gradient into
bytes and back, adds contributions up as they arrive, and owns what peers share beside the weights
(`State.shared`), such as common scales. P values in T tensors, K shared values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np

from duckweed.run.layout import Layout
from duckweed.run.registry import WIRES
from duckweed.run.sections import Wire
from duckweed.wire import threads
from duckweed.wire.exact import median, squared_norm
from duckweed.wire.feedback import carry
from duckweed.wire.frame import HEADER, Reader, WireError, Writer, fingerprint
from duckweed.wire.total import CONTRIBUTIONS, NORMS, Decoded, FloatTotal, Total

RMS_LIMIT = 1e30  # far above any RMS of a tensor, and its product with a code still a float32
_INFINITY = 0x7F800000  # float32 as bits: above it is NaN
_APART = 4.0  # beyond this factor between two middle sizes one of them is no honest one
PLUGIN = 255  # kind in the header of a blob; the fingerprint beside it tells plugins apart


class Encoded(NamedTuple):
    """A contribution as bytes."""

    blob: bytes
    sent: np.ndarray
    """The values that every receiver decodes from the blob, bit for bit, f32[P]."""


class Codec(ABC):
    """A kind of wire with its settings, for one model. A new one needs `section`, `write`, `read` and
    `max_bytes`; what follows them is for wires that are summed or share something."""

    section: ClassVar[type[Wire]]
    """The struct of its section `[wire]`."""
    header: ClassVar[int] = PLUGIN
    """Kind of its blobs, the fourth byte of their header."""
    gives: ClassVar[frozenset[str]] = frozenset({NORMS, CONTRIBUTIONS})
    """What a merge rule may need of its total, beyond the mean."""
    additive: ClassVar[bool] = False
    """Whether the coordinator sums contributions, so that peers fetch `update` and not each one."""
    divisible: ClassVar[bool] = False
    """Whether a sum can be taken apart into those of some tensors, and these joined with others (`Total.part`, `join`)."""
    refuses: ClassVar[bool] = False
    """Whether `write` itself refuses what is not finite, as it reads the values (see `refuse`)."""
    measured: ClassVar[bool] = False
    """Whether the first shared values come from a first pseudo-gradient, trained as a run is founded."""

    def __init__(self, wire: Any, layout: Layout) -> None:
        self.wire, self.layout = wire, layout

    # --- what every wire must say

    @abstractmethod
    def write(
        self, writer: Writer, x: np.ndarray, shared: np.ndarray | None
    ) -> np.ndarray | Decoded:
        """Write x, f32[P], finite. Returns what `read` gives for it, or its values, f32[P]."""

    @abstractmethod
    def read(self, reader: Reader, shared: np.ndarray | None) -> Decoded:
        """The inverse of `write`, checked. Raises WireError."""

    @abstractmethod
    def max_bytes(self) -> int:
        """The most bytes that `write` can write."""

    @classmethod
    def expected_bits(cls, wire: Any) -> float | None:
        """Bits for each parameter that a contribution with these settings is expected to have; None where
        that is not known. A run with a budget of bytes (rounds.saving) has as many rounds as that pays for."""
        return None

    # --- a contribution

    def encode(self, x: np.ndarray, shared: np.ndarray | None) -> Encoded:
        """A contribution of x, f32[P]. shared: f32[K] of the state that the round follows on.

        Raises WireError: x has another length than the layout, holds NaN or infinity, or what is
        shared does not fit.
        """
        blob, decoded = self._encode(x, shared)
        return Encoded(blob, decoded.values)

    def compress(self, x: np.ndarray, shared: np.ndarray | None) -> bytes:
        """The blob of `encode`; in x, f32[P], stays what the blob leaves out: the residual of the next round.
        Raises WireError; x is as it was then."""
        blob, decoded = self._encode(x, shared)
        decoded.leave(x)
        return blob

    def _encode(self, x: np.ndarray, shared: np.ndarray | None) -> tuple[bytes, Decoded]:
        x = np.asarray(x, np.float32)
        if x.shape != (self.layout.total,):
            raise WireError(f"values of shape {x.shape} for a layout of {self.layout.total} values")
        if not self.refuses:
            refuse(largest_bits(x), x, self.layout)
        writer = Writer(self.header, self._agreed())
        written = self.write(writer, x, shared)
        decoded = written if isinstance(written, Decoded) else Decoded(written)
        return writer.blob(), decoded

    def decode(self, blob: bytes, shared: np.ndarray | None) -> Decoded:
        """What `encode` put into a blob. Raises WireError: the blob is damaged, cut short, too long,
        or made for something else."""
        if len(blob) > self.blob_limit:
            raise WireError(f"blob of {len(blob)} bytes; at most {self.blob_limit} are possible")
        reader = Reader(blob, self.header, self._agreed())
        found = self.read(reader, shared)
        reader.end()
        return found

    @property
    def blob_limit(self) -> int:
        """The most bytes that a valid contribution can have. Refuse a longer one before reading it."""
        return HEADER + self.max_bytes()

    def norm(self, contribution: Decoded) -> float | None:
        """Norm of a contribution, to be weighed against the others'; None where it is bounded."""
        return math.sqrt(squared_norm(contribution.values))

    def _agreed(self) -> bytes:
        return fingerprint(self.layout.digest().encode(), msgspec.json.encode(self.wire))

    # --- the sum of a round

    def total(self, shared: np.ndarray | None, needs: frozenset[str] = frozenset()) -> Total:
        """An empty sum. needs: what of `gives` will be asked of it."""
        return FloatTotal(self.layout, needs)

    def update(self, total: Total) -> bytes:
        """The sum of a round as bytes, of an additive wire. Raises WireError."""
        raise NotImplementedError

    def read_update(self, blob: bytes, shared: np.ndarray | None, contributors: int) -> Total:
        """What `update` wrote, of at most that many contributors. Raises WireError."""
        raise NotImplementedError

    def update_limit(self, contributors: int, weight: int) -> int:
        """The most bytes of an update of that many contributors, each of at most that weight."""
        raise NotImplementedError

    # --- what peers share

    def first_shared(self, gradient: Callable[[], np.ndarray]) -> np.ndarray:
        """What is shared in round 0, f32[K]. gradient: trains for a first pseudo-gradient f32[P]."""
        return np.zeros(len(self.layout.names), np.float32)

    def announce(self, x: np.ndarray) -> list[float]:
        """What a peer tells beside its contribution of x, f32[P]: the RMS of each tensor, [T]."""
        return rms(x, self.layout)

    def objection(self, announced: Sequence[float]) -> str | None:
        """Why what a peer announced cannot be used; None if it can."""
        tensors = len(self.layout.names)
        if len(announced) != tensors:
            return f"announced {len(announced)} tensor sizes, the model has {tensors} tensors"
        if not all(0 <= value <= RMS_LIMIT for value in announced):
            return "announced a size that is negative, not finite or above 1e30"
        return None

    def next_shared(
        self, announced: Sequence[Sequence[float]], shared: Sequence[float]
    ) -> list[float]:
        """What is shared in the next round, [K] as float32, from what the peers that counted have
        announced and what is shared in this round: per tensor the middle value."""
        columns = zip(*announced, strict=True)
        return [
            float(np.float32(_middle(c, last))) for c, last in zip(columns, shared, strict=True)
        ]


def _middle(values: Sequence[float], last: float) -> float:
    """The median; but of two middle values of which one is more than four times the other, the one that is
    nearer to the last round's. Half of the peers then move it at most 2.5 times as far as the others
    would: their lies are one of the two, and what the others say is the other."""
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    if high <= _APART * low:
        return median(ordered)
    return low if last * last <= low * high else high


def finite(x: np.ndarray) -> bool:
    """Whether all of float32 values are finite."""
    return largest_bits(x) < _INFINITY


def largest_bits(x: np.ndarray) -> int:
    """The largest magnitude of float32 values, as bits."""
    from duckweed.wire.kernels import vectors

    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    most = threads.each(lambda part: vectors.largest_bits(bits[part]), threads.parts(len(bits)))
    return max(most, default=0)


def refuse(largest: int, x: np.ndarray, layout: Layout) -> None:
    """Raises WireError if the largest magnitude of x, as bits, is that of NaN or infinity."""
    if largest < _INFINITY:
        return
    where = int(np.flatnonzero(~np.isfinite(x))[0])
    name = layout.names[int(np.searchsorted(layout.offsets, where, "right")) - 1]
    raise WireError(f"non-finite value in tensor {name!r}: the training step diverged")


def entropy(shares: Sequence[float]) -> float:
    """Bits of a choice of these probabilities, to a thousandth: every machine must get the same."""
    return round(-sum(p * math.log2(p) for p in shares if p > 0), 3)


def rms(x: np.ndarray, layout: Layout) -> list[float]:
    """Root mean square of each tensor of x, [T], the same bits on every machine."""
    squares = threads.each(lambda part: squared_norm(x[part]), layout.slices())
    return [math.sqrt(s / max(1, n)) for s, n in zip(squares, layout.sizes, strict=True)]


def codec_type(wire: Wire) -> type[Codec]:
    """The codec class of a section `[wire]`."""
    return WIRES.find(wire.kind)


def codec_of(wire: Wire, layout: Layout) -> Codec:
    """The codec of a section `[wire]` for a model."""
    return codec_type(wire)(wire, layout)


@cache
def warm_up(wire: Wire) -> None:
    """Code a little, so that all that a round needs of the wire's kernels is compiled when this returns: the first time
    on a machine that takes some ten seconds, later one. To be called before a process serves or trains."""
    from duckweed.wire.kernels import vectors

    one = np.float32(1)
    vectors.outer(*np.ones((5, 16), np.float32), one, one)
    layout = Layout.of({"even": (16, 16), "leaning": (4096, 16)})  # leaning in few values, too
    codec = codec_of(wire, layout)
    draw = np.random.default_rng(0)

    def gradient() -> np.ndarray:
        x = draw.standard_normal(layout.total, np.float32)
        np.abs(x, out=x, where=np.arange(layout.total) >= 256)
        return x

    shared = np.asarray(codec.first_shared(gradient), np.float32)
    encoded = [codec.compress(carry(gradient(), gradient(), 1.0), shared) for _ in range(8)]
    decoded = [codec.decode(blob, shared) for blob in encoded]
    _ = decoded[0].values
    if not codec.additive:
        return
    for weights in (
        [1],
        [1 << power for power in range(8)],
    ):  # few sums, and more than a byte holds
        total = codec.total(shared, codec.gives)
        for contribution, weight in zip(decoded, weights, strict=False):
            total.add(contribution, weight)
        codec.read_update(codec.update(total), shared, len(weights)).mean()


def register_wire(codec: type[Codec]) -> type[Codec]:
    """Make a wire known by the tag of its section, for `wire.kind` in run.toml. Usable as a decorator.

    Raises ValueError if the name is taken or the section is not one.
    """
    config = getattr(codec.section, "__struct_config__", None)
    if not issubclass(codec.section, Wire) or config is None or config.tag_field != "kind":
        raise ValueError(
            f"{codec.section.__name__}: a section is a Wire and a msgspec.Struct with frozen=True, "
            'tag_field="kind" and tag="<its name>"'
        )
    WIRES.register(config.tag, codec)
    return codec
