"""The layout of a model: which tensors, in which order, lie in its one flat vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import blake3
import msgspec
import numpy as np


class Layout(
    msgspec.Struct, frozen=True, dict=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Names and shapes of T tensors that lie one after the other in a flat vector of P values.

    Scalars (shape ``()``) count one value. A dimension of zero is refused: such a tensor carries
    nothing and would only make chunk and row arithmetic ambiguous.

    Raises:
        ValueError: names and shapes differ in number, a name comes twice, or a dimension is not
            a positive integer.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    fixed: str = ""
    """blake3, in hex, of the persistent buffers that the model has beside the vector; left out, so that
    the digest stays, where it has none."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes):
            raise ValueError(f"layout: {len(self.names)} names but {len(self.shapes)} shapes")
        if not self.names:
            raise ValueError("layout: no tensors")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"layout: the name {twice!r} comes more than once")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if any(not isinstance(n, int) or n < 1 for n in shape):
                raise ValueError(
                    f"layout: shape {shape} of {name!r}: every dimension must be at least 1"
                )

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """The layout of tensors given as name -> shape, in the order of the mapping."""
        names = tuple(str(name) for name in shapes)
        return cls(names, tuple(tuple(int(n) for n in shape) for shape in shapes.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each tensor, [T]."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each tensor starts, and the total at the end, int64[T+1]."""
        offsets = np.zeros(len(self.sizes) + 1, np.int64)
        np.cumsum(self.sizes, out=offsets[1:])
        offsets.flags.writeable = False
        return offsets

    @property
    def total(self) -> int:
        """P, the number of values of all tensors."""
        return int(self.offsets[-1])

    def slices(self) -> list[slice]:
        """The part of the flat vector that each tensor takes, [T]."""
        ends = self.offsets.tolist()
        return [slice(a, b) for a, b in pairwise(ends)]

    def part(self, numbers: Sequence[int]) -> Layout:
        """The layout of some of the tensors alone, given by their numbers, ascending."""
        return Layout(tuple(self.names[n] for n in numbers), tuple(self.shapes[n] for n in numbers))

    def digest(self) -> str:
        """blake3, in hex, of names, shapes and `fixed` in their canonical (JSON) form."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return blake3.blake3(msgspec.json.encode(self)).hexdigest()
