"""A map of activity: how large the values of each row and column of each tensor tend to be.

Pseudo-gradients of transformers are uneven: rows of an embedding that were not in the text do not
move, some heads and channels move more than others. Each value gets a *level* on the grid of
`magnitudes`, the sum of a base for its tensor, a class for its row and a class for its column;
a level is a log-odds, so that with flags (nonzero or not) this is the model of Rasch, whose
maximum likelihood depends on the row and column sums only. The classes are rounded as coarsely as
the information in a row allows (a step of sqrt(12 / Fisher information): minimum description
length) and sent before the values. A tensor where they do not pay gets one level.

Only the encoder fits, in floating point; the map itself is made of integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire.entropy.magnitudes import (
    HALF_LEVEL,
    LEVELS,
    put_bits,
    put_signed,
    take_bits,
    take_signed,
)
from duckweed.wire.entropy.rans import Decoder, Encoder

PER_NAT = 4  # grid points in one natural logit
_MAX_STEP = 7
_MAX_CLASS = 63
_ROWS_AT_ONCE = 1 << 22  # values summed at a time


@dataclass(frozen=True)
class Plane:
    """The map of one tensor seen as a matrix R x C."""

    base: int
    row_step: int
    rows: np.ndarray  # classes, int64[R]
    column_step: int
    columns: np.ndarray  # classes, int64[C]


@dataclass(frozen=True)
class Activity:
    """The maps of all tensors."""

    layout: Layout
    planes: list[Plane]

    def paint(self, table: np.ndarray) -> np.ndarray:
        """``table[level]`` for every value, [P] of the type of ``table`` [64]."""
        out = np.empty(self.layout.total, table.dtype)
        for part, plane in zip(self.layout.slices(), self.planes, strict=True):
            kinds, which = np.unique(plane.rows, return_inverse=True)
            levels = plane.base + plane.row_step * kinds[:, None]
            levels = levels + plane.column_step * plane.columns
            rows = table[np.clip(levels, 0, LEVELS - 1)]
            np.take(rows, which, axis=0, out=out[part].reshape(len(which), -1), mode="clip")
        return out


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as rows along its last dimension; a vector or scalar is a single row."""
    columns = shape[-1] if shape else 1
    return math.prod(shape) // columns, columns


def measure(sizes: np.ndarray, cap: int, layout: Layout) -> Activity:
    """Fit the map to magnitudes [P], of which all above ``cap`` count as ``cap``."""
    planes = []
    for part, shape in zip(layout.slices(), layout.shapes, strict=True):
        rows, columns, spread = _sums(sizes[part].reshape(matrix(shape)), cap)
        planes.append(_fit(rows, columns, cap, spread))
    return Activity(layout, planes)


def _sums(sizes: np.ndarray, cap: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Row sums, column sums, and the sum of squares, of min(size, cap)."""
    at_once = max(1, _ROWS_AT_ONCE // sizes.shape[1])
    rows = np.empty(len(sizes), np.int64)
    columns = np.zeros(sizes.shape[1], np.int64)
    squares = 0.0
    for start in range(0, len(sizes), at_once):
        block = sizes[start : start + at_once]
        block = np.minimum(block, cap).astype(np.int32) if cap > 1 else block != 0
        squares += float((block**2).sum()) if cap > 1 else 0
        rows[start : start + at_once] = block.sum(axis=1)
        columns += block.sum(axis=0)
    return rows, columns, squares if cap > 1 else float(rows.sum())


def _fit(rows: np.ndarray, columns: np.ndarray, cap: int, squares: float) -> Plane:
    shape = len(rows), len(columns)
    values, total = shape[0] * shape[1], int(rows.sum())
    trials = values * cap
    rate = min(max(total / trials, 0.5 / trials), 1 - 0.5 / trials)
    none = [np.zeros(n, np.int64) for n in shape]
    flat = Plane(grid_of(_logit(rate)), 0, none[0], 0, none[1])
    if min(shape) == 1 or not 0 < total < trials:
        return flat
    fisher = cap * rate * (1 - rate)  # of one value, if it were binomial; it may spread more
    dispersion = max(1.0, (squares / values - (total / values) ** 2) / fisher)
    a, b = _rasch(rows, columns, cap)
    row_step, column_step = (step_of(n * fisher / dispersion) for n in reversed(shape))
    planes = [flat]
    for use_rows, use_columns in ((True, True), (True, False), (False, True)):
        if row_step >= use_rows and column_step >= use_columns:
            middle = float(np.median(a)) if use_rows else _logit(rate)
            planes.append(
                Plane(
                    grid_of(middle),
                    row_step * use_rows,
                    classes_of(a - middle, row_step) if use_rows else none[0],
                    column_step * use_columns,
                    classes_of(b, column_step) if use_columns else none[1],
                )
            )
    return min(planes, key=lambda plane: _cost(plane, rows, columns, cap, dispersion))


def _rasch(rows: np.ndarray, columns: np.ndarray, cap: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of rows, float64[R], and what columns add to them, float64[C]: Newton steps in
    turn on rows and columns, each lumped into groups of almost equal sums."""
    total, values = rows.sum(), len(rows) * len(columns)
    rate = (total + 0.5) / (values * cap + 1)
    ya, na, of_row = _lump(rows, len(columns) * cap, rate)
    yb, nb, of_column = _lump(columns, len(rows) * cap, rate)
    a = _log_odds(ya, len(columns) * cap, rate)
    b = _log_odds(yb, len(rows) * cap, rate) - _logit(rate)
    for _ in range(6):
        p = 1 / (1 + np.exp(-(a[:, None] + b)))
        a += np.clip((ya - cap * p @ nb) / (cap * (p * (1 - p)) @ nb + 0.5), -1, 1)
        p = 1 / (1 + np.exp(-(a[:, None] + b)))
        b += np.clip((yb - cap * na @ p) / (cap * na @ (p * (1 - p)) + 0.5), -1, 1)
        a, b = np.clip(a, -9, 9), np.clip(b, -9, 9)
    return a[of_row], b[of_column]


def _log_odds(yes: np.ndarray, trials: int, rate: float) -> np.ndarray:
    """Log-odds of yes / trials, drawn a little towards the rate of the whole."""
    return np.log((yes + rate) / (trials - yes + 1 - rate))


def _lump(sums: np.ndarray, trials: int, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean sum and size of each group, and the group of each member."""
    key = np.rint(16 * _log_odds(sums, trials, rate))
    _, group, size = np.unique(key, return_inverse=True, return_counts=True)
    return np.bincount(group, sums) / size, size, group


def _logit(rate: float) -> float:
    return float(np.log(rate / (1 - rate)))


def grid_of(logit: float) -> int:
    return int(np.clip(np.rint(logit * PER_NAT), -HALF_LEVEL, HALF_LEVEL - 1)) + HALF_LEVEL


def step_of(fisher: float) -> int:
    """Grid points from one class to the next; 0 where a class says too little to be sent."""
    step = PER_NAT * np.sqrt(12 / fisher)
    return 0 if step > 2 * _MAX_STEP else int(np.clip(np.rint(step), 1, _MAX_STEP))


def classes_of(logits: np.ndarray, step: int) -> np.ndarray:
    classes = np.rint(logits * (PER_NAT / step)).astype(np.int64)
    return np.clip(classes, -_MAX_CLASS, _MAX_CLASS)


def _cost(
    plane: Plane, rows: np.ndarray, columns: np.ndarray, cap: int, dispersion: float
) -> float:
    """Bits for the values under the plane, and for its classes, both at their entropy."""
    kinds_a, of_a, na = np.unique(plane.rows, return_inverse=True, return_counts=True)
    kinds_b, of_b, nb = np.unique(plane.columns, return_inverse=True, return_counts=True)
    a = (plane.base - HALF_LEVEL + plane.row_step * kinds_a) / PER_NAT
    b = plane.column_step * kinds_b / PER_NAT
    nats = cap * na @ np.logaddexp(0, a[:, None] + b) @ nb - a[of_a] @ rows - b[of_b] @ columns
    entropy = sum(float(-(n * np.log2(n / n.sum())).sum()) for n in (na, nb))
    return float(nats) / np.log(2) / dispersion + entropy


def put(encoder: Encoder, activity: Activity) -> None:
    """The map: base and steps of each tensor, then all classes of rows, then of columns."""
    heads = [p.base | p.row_step << 6 | p.column_step << 9 for p in activity.planes]
    put_bits(encoder, np.array(heads), 12)
    put_classes(encoder, [p.rows for p in activity.planes if p.row_step])
    put_classes(encoder, [p.columns for p in activity.planes if p.column_step])


def take(decoder: Decoder, layout: Layout) -> Activity:
    """What `put` wrote."""
    packed = take_bits(decoder, len(layout.shapes), 12).tolist()
    heads = [(head & 63, head >> 6 & 7, head >> 9) for head in packed]
    shapes = [matrix(shape) for shape in layout.shapes]
    steps = [head[1:] for head in heads]
    rows = take_classes(
        decoder, [(r, step) for (r, _), (step, _) in zip(shapes, steps, strict=True)]
    )
    columns = take_classes(
        decoder, [(c, step) for (_, c), (_, step) in zip(shapes, steps, strict=True)]
    )
    return Activity(
        layout,
        [
            Plane(base, row_step, a, column_step, b)
            for (base, row_step, column_step), a, b in zip(heads, rows, columns, strict=True)
        ],
    )


def put_classes(encoder: Encoder, classes: list[np.ndarray]) -> None:
    put_signed(encoder, np.concatenate([np.zeros(0, np.int64), *classes]), _MAX_CLASS)


def take_classes(decoder: Decoder, wanted: list[tuple[int, int]]) -> list[np.ndarray]:
    """For each (count, step): classes int64[count] if there is a step, else zeros."""
    coded = take_signed(decoder, sum(n for n, step in wanted if step), _MAX_CLASS)
    ends = np.cumsum([n if step else 0 for n, step in wanted])
    return [
        coded[end - n : end] if step else np.zeros(n, np.int64)
        for (n, step), end in zip(wanted, ends.tolist(), strict=True)
    ]
