"""Paths that hold some of their tensors in common, the trunk: which, and how these are merged over all paths.

The paths of a family close their rounds together. Each adds up its own contributions. Of that sum the tensors of its
own are its update; those of the trunk it gives to the other paths, and the update of the trunk is the sum of what
all have given. All paths hold the same trunk and the same scales of it, so that this sum is exact, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from blake3 import blake3

from duckweed.ledger.entries import Closed, OfPath, Trunk
from duckweed.merge.rules import WEIGHT_LIMIT
from duckweed.run.layout import Layout
from duckweed.run.sections import Paths
from duckweed.run.spec import RunSpec, SpecError
from duckweed.wire.codec import Codec, codec_of
from duckweed.wire.frame import WireError
from duckweed.wire.total import Total

X = TypeVar("X")
TOKENS_LIMIT = 1 << 53  # of a path in a round
Read = Callable[[str], bytes]


class Part(NamedTuple):
    """Some of the tensors of a model."""

    numbers: tuple[int, ...]
    """Which, ascending."""
    layout: Layout
    """Of them alone, one after the other."""
    slices: tuple[slice, ...]
    """Where they lie in the vector of the whole."""

    def pick(self, of_tensors: Sequence[X]) -> list[X]:
        """Of something that there is for each tensor, what belongs to these."""
        return [of_tensors[number] for number in self.numbers]

    def take(self, vector: np.ndarray) -> np.ndarray:
        """Their values, out of those of the whole."""
        return np.concatenate([vector[here] for here in self.slices])

    def put(self, values: np.ndarray, vector: np.ndarray) -> None:
        """Their values, into those of the whole."""
        for here, there in zip(self.slices, self.layout.slices(), strict=True):
            vector[here] = values[there]


class Split(NamedTuple):
    """The tensors of a path."""

    own: Part
    """Those that it has alone."""
    trunk: Part
    """Those that all paths have in common."""


def split_of(spec: RunSpec, layout: Layout) -> Split | None:
    """How a path is divided; None of a run that has nothing in common with others. Raises SpecError."""
    return divided(spec.paths, layout) if spec.in_common and isinstance(spec.paths, Paths) else None


@lru_cache(maxsize=8)
def divided(paths: Paths, layout: Layout) -> Split:
    """The tensors of each path, by section [paths] of its family. Raises SpecError where all or none are in common."""
    common = [number for number, name in enumerate(layout.names) if paths.shares(name)]
    own = [number for number in range(len(layout.names)) if number not in set(common)]
    if not own:
        what = (
            "this model names its feed-forward parts in a way that is not known; name those that the paths "
            f"have in common by patterns ({layout.names[0]!r} is one of its tensors)"
            if paths.shared == "trunk"
            else "all tensors of this model fit the patterns, and the paths would have nothing of their own"
        )
        raise SpecError(f"paths.shared: {what}")
    if not common:
        raise SpecError(
            f"paths.shared: no tensor of this model fits the patterns ({layout.names[0]!r} is one); with "
            "paths.shared = 'none' the paths have nothing in common"
        )
    return Split(_part(layout, own), _part(layout, common))


def size(paths: Paths, layout: Layout) -> int:
    """Parameters that all paths hold in common. Raises SpecError."""
    return 0 if paths.apart else divided(paths, layout).trunk.layout.total


def _part(layout: Layout, numbers: list[int]) -> Part:
    slices = layout.slices()
    return Part(tuple(numbers), layout.part(numbers), tuple(slices[n] for n in numbers))


def give(
    spec: RunSpec, split: Split, total: Total | None, tokens: int
) -> tuple[OfPath, list[bytes]]:
    """What a path gives to the trunk, and the blobs of its own sum and of what it gives. total: of its contributions
    over all tensors; None: none counted."""
    if total is None:
        return OfPath(None, [], 0), []
    own, given = (codec_of(spec.wire, part.layout).update(total.part(*part[:2])) for part in split)
    return OfPath(_hash(given), list(total.weights), tokens), [own, given]


def factors(paths: Mapping[int, OfPath]) -> dict[int, int]:
    """Path -> what its weights are multiplied by, so that the weight of each path goes by its tokens: small integers,
    all 1 where all peers of all paths did equal work. Paths that gave nothing are left out."""
    worth = {path: one.tokens / sum(one.weights) for path, one in paths.items() if one.update}
    most = max(worth.values(), default=1.0)
    found = {path: max(1, round(WEIGHT_LIMIT * x / most)) for path, x in worth.items()}
    divisor = max(1, math.gcd(*found.values()))
    return {path: x // divisor for path, x in found.items()}


def weights(paths: Mapping[int, OfPath]) -> list[int]:
    """The weight of each contribution in the update of the trunk, in the order of paths and peers."""
    by = factors(paths)
    return [by[path] * weight for path in sorted(by) for weight in paths[path].weights]


def objection(closed: Closed, count: int) -> str:
    """Why the record of a round of one of `count` paths is none that a coordinator can have written; "" if it may be."""
    record = closed.trunk
    if record is msgspec.UNSET or sorted(record.paths) != list(range(count)):
        return "it does not say what each path gave to the trunk"
    for path, one in record.paths.items():
        fits = all(1 <= weight <= WEIGHT_LIMIT for weight in one.weights)
        some = one.update is not None
        if not fits or some != bool(one.weights) or some != (0 < one.tokens < TOKENS_LIMIT):
            return f"what path {path} gave to the trunk makes no sense"
    some = any(one.update for one in record.paths.values())
    if some != (record.update is not None) or bool(closed.accepted) != (closed.update is not None):
        return "it names no update, or one of nothing"
    return ""


def joined(
    spec: RunSpec, split: Split, closed: Closed, shared: Sequence[float],
    given: Mapping[int, OfPath], sizes: Sequence[Sequence[float]], read: Read,
) -> tuple[Closed, bytes | None]:  # fmt: skip
    """The record of a round of a path, with what all paths have given to the trunk, and the blob of that sum.

    closed: as the path closed by itself; shared: what contributions were encoded with, [T]; given: by path; sizes:
    announced of the tensors of the trunk, of all contributions of all paths; read: gives the bytes of what a path gave.
    Raises WireError where a sum is not what it says."""
    codec, scales = codec_of(spec.wire, split.trunk.layout), split.trunk.pick(shared)
    total, after = _sum(codec, scales, given, read), list(closed.shared)
    if total:
        found = codec.next_shared(sizes, scales)
        for number, value in zip(split.trunk.numbers, found, strict=True):
            after[number] = value
    update = codec.update(total) if total else None
    record = Trunk(_hash(update) if update else None, {path: given[path] for path in sorted(given)})
    return msgspec.structs.replace(closed, shared=after, trunk=record), update


def _sum(
    codec: Codec, scales: list[float], given: Mapping[int, OfPath], read: Read
) -> Total | None:
    """What all paths gave, added up in their order; None where none gave anything."""
    found = None
    for path, factor in sorted(factors(given).items()):
        one = given[path]
        assert one.update
        total = codec.read_update(read(one.update), np.array(scales, np.float32), len(one.weights))
        if total.weights != list(one.weights):
            raise WireError(f"what path {path} gave to the trunk is not the sum that it names")
        total.multiply(factor)
        if found is None:
            found = total
        else:
            found.join(total)
    return found


def _hash(blob: bytes) -> str:
    return blake3(blob).hexdigest()
