"""Signs: raw bits, but by column where the columns of a tensor lean to one side.

In an output head every token that was not in the text moves the same way, against the mean of the
hidden states: there almost all values of a column have one sign, which then costs far less than
a bit. Elsewhere signs are as good as random, and raw bits are free to code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duckweed.wire.entropy.tables import HALF_LEVEL, LEVELS


@dataclass(frozen=True)
class Signs:
    """How the signs of one tensor of C columns are coded."""

    step: int  # grid points from one class to the next; 0: raw
    classes: np.ndarray  # of each column, int64[C]

    @property
    def levels(self) -> np.ndarray:
        """Rate of a minus in each column as a point of the grid, uint8[C]."""
        return np.clip(HALF_LEVEL + self.step * self.classes, 0, LEVELS - 1).astype(np.uint8)


def lean(count: np.ndarray, minus: np.ndarray, rows: int) -> Signs:
    """Step and class of each column of one tensor [rows, C], of which `count` are not zero and `minus` are
    negative, int64[C]; step 0 where signs do not lean enough to pay for the classes."""
    from duckweed.wire.kernels import fit

    classes = np.empty(len(count), np.int64)
    return Signs(fit.lean(count, minus, rows, classes), classes)
