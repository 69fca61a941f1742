"""The sum of a round's contributions, added up one at a time, and what a merge rule may ask of it.

M contributions so far, P values in T tensors. A rule names what it needs beyond the mean, so that
nothing else is computed or kept; a codec says what it can give.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire.exact import squared_norm
from duckweed.wire.threads import parts

NORMS = "norms"
"""The norm of each contribution, per tensor: `Total.norms`."""
SENDERS = "senders"
"""Who sent each value, where a contribution does not send all: `FloatTotal.senders`."""
CODES = "codes"
"""The integer codes of a contribution when a round is closed: `Decoded.codes`, int8[P]."""
CONTRIBUTIONS = "contributions"
"""All contributions one by one: `FloatTotal.contributions`. They take M times the memory."""

FACTOR_LIMIT = 1e30


class Decoded:
    """A contribution that was read from a blob."""

    def __init__(self, values: np.ndarray, mask: np.ndarray | None = None) -> None:
        self._values = values
        self.mask = mask
        """Which values were sent, bool[P]; None: all."""

    @property
    def values(self) -> np.ndarray:
        """The pseudo-gradient, f32[P]."""
        return self._values

    def leave(self, x: np.ndarray) -> None:
        """Take the values away from x, f32[P], in place."""
        np.subtract(x, self.values, out=x)


class Total(ABC):
    """A weighted sum of contributions. Its unit in each tensor is the codec's choice."""

    exact: ClassVar[bool] = False
    """Whether it comes to the same in whatever order contributions are added. Then it can be multiplied and arranged."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.weights: list[int] = []
        """Weight of each contribution that was added, [M]."""

    @abstractmethod
    def add(self, contribution: Decoded, weight: int) -> None:
        """Add one contribution, of which nothing needs to be kept."""

    def multiply(self, factor: int) -> None:
        """Let all contributions so far weigh `factor` times as much, if the sum is exact."""
        raise NotImplementedError

    def arrange(self, order: Sequence[int]) -> None:
        """As if they had been added in this order, a permutation of 0..M-1, if the sum is exact."""
        raise NotImplementedError

    def part(self, numbers: Sequence[int], layout: Layout) -> Total:
        """The sum of some tensors only, if the codec is divisible. numbers: which, ascending; layout: of them alone."""
        raise NotImplementedError

    def join(self, other: Total) -> None:
        """Add another sum of the same layout and units, behind this one, if the codec is divisible."""
        raise NotImplementedError

    @abstractmethod
    def mean(self) -> np.ndarray:
        """sum w_i x_i / sum w_i, f32[P]."""

    @abstractmethod
    def norms(self) -> list[list[float]]:
        """Norm of each contribution in each tensor, [T][M], in the unit of the tensor."""

    @abstractmethod
    def at_lengths(self, lengths: Sequence[float]) -> np.ndarray:
        """The mean, with each tensor stretched to a length in the unit of the tensor, f32[P]."""


class FloatTotal(Total):
    """Of contributions that are decoded to float32 values. Additions in the order of the peers."""

    def __init__(self, layout: Layout, needs: frozenset[str] = frozenset()) -> None:
        super().__init__(layout)
        self.needs = needs
        self.sum = np.zeros(layout.total, np.float32)
        """sum w_i x_i, f32[P]."""
        self.senders = np.zeros(layout.total if SENDERS in needs else 0, np.float32)
        """Sum of the weights of those that sent the value, f32[P]; where it is needed."""
        self.contributions: list[Decoded] = []
        """All of them, in the order of their peers; where they are needed."""
        self._norms: list[list[float]] = []

    def add(self, contribution: Decoded, weight: int) -> None:
        for here in parts(self.layout.total):
            self.sum[here] += np.multiply(contribution.values[here], np.float32(weight))
        if SENDERS in self.needs:
            assert contribution.mask is not None
            for here in parts(self.layout.total):
                self.senders[here] += np.multiply(
                    contribution.mask[here], np.float32(weight), dtype=np.float32
                )
        if NORMS in self.needs:
            tensors = (contribution.values[part] for part in self.layout.slices())
            self._norms.append([math.sqrt(squared_norm(x)) for x in tensors])
        if CONTRIBUTIONS in self.needs:
            self.contributions.append(contribution)
        self.weights.append(weight)

    def mean(self) -> np.ndarray:
        return self.sum / np.float32(sum(self.weights))

    def norms(self) -> list[list[float]]:
        return [list(column) for column in zip(*self._norms, strict=True)]

    def at_lengths(self, lengths: Sequence[float]) -> np.ndarray:
        mean = self.mean()
        for part, wanted in zip(self.layout.slices(), lengths, strict=True):
            stretch(mean[part], wanted, math.sqrt(squared_norm(mean[part])))
        return mean


def stretch(x: np.ndarray, wanted: float, length: float) -> None:
    """Scale x in place from its length to the wanted one. What all but vanished in the mean has no
    direction left: it becomes zero, where a float32 factor would overflow."""
    x *= np.float32(wanted / length) if wanted < FACTOR_LIMIT * length else np.float32(0)
