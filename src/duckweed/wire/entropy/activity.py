"""A map of activity: how large the values of each row and column of each tensor tend to be.

Pseudo-gradients of transformers are uneven: rows of an embedding that were not in the text do not
move, some heads and channels move more than others. Each value gets a *level* on the grid of
`tables`, the sum of a base for its tensor, a class for its row and a class for its column;
a level is a log-odds, so that with flags (nonzero or not) this is the model of Rasch, whose
maximum likelihood depends on the row and column sums only. The classes are rounded as coarsely as
the information in a row allows (a step of sqrt(12 / Fisher information): minimum description
length) and sent before the values. A tensor where they do not pay gets one level.

The signs of a tensor's values have a class for each column as well (`signs`).

Only the encoder fits, in floating point; the map itself is made of integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire import threads
from duckweed.wire.entropy import small
from duckweed.wire.entropy.signs import Signs, lean
from duckweed.wire.entropy.tables import (
    HALF_LEVEL,
    MAX_CLASS,
    PER_NAT,
    classes_of,
    grid_of,
    kinds,
    step_of,
)
from duckweed.wire.frame import Reader, WireError, Writer

_AT_ONCE = 1 << 18  # values summed at a time
_CLOSE = 0.02  # nats: a fit that moves less is done


@dataclass(frozen=True)
class Plane:
    """The map of one tensor seen as a matrix R x C."""

    base: int
    row_step: int
    rows: np.ndarray  # classes, int64[R]
    column_step: int
    columns: np.ndarray  # classes, int64[C]


class Map:
    """The maps of all tensors, and the tables that the kernels look them up in."""

    def __init__(self, layout: Layout, planes: list[Plane], signs: list[Signs]) -> None:
        self.layout, self.planes, self.signs = layout, planes, signs
        shapes = [matrix(shape) for shape in layout.shapes]
        self.offsets = np.array(layout.offsets)
        self.widths = np.array([columns for _, columns in shapes], np.int64)
        ends = np.cumsum(np.array(shapes, np.int64), axis=0)
        self.row_starts, self.column_starts = np.ascontiguousarray((ends - np.array(shapes)).T)
        self.rows = np.concatenate([p.base + p.row_step * p.rows for p in planes]).astype(np.int16)
        self.columns = np.concatenate([p.column_step * p.columns for p in planes]).astype(np.int16)
        self.leans = np.array([s.step > 0 for s in signs], np.uint8)
        self.leanings = np.concatenate([s.levels for s in signs])

    def paint(self, part: slice) -> np.ndarray:
        """The level of each value of a part, 0 to 63, uint8."""
        from duckweed.wire.kernels import chunk

        contexts = np.empty(part.stop - part.start, np.uint8)
        chunk.paint(
            contexts, part.start, part.stop, self.offsets, self.widths, self.row_starts,
            self.column_starts, self.rows, self.columns,
        )  # fmt: skip
        return contexts


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as rows along its last dimension; a vector or scalar is a single row."""
    columns = shape[-1] if shape else 1
    return math.prod(shape) // columns, columns


@dataclass(frozen=True)
class Sums:
    """What a map is fitted to: sums over a tensor of C columns, of min(magnitude, cap)."""

    rows: np.ndarray  # int64[R]
    columns: np.ndarray  # int64[C]
    squares: float  # sum of squares over the tensor
    nonzero: np.ndarray  # how many of a column are not zero, int64[C]
    minus: np.ndarray  # and how many are negative, int64[C]


def measure(numbers: np.ndarray, cap: int, layout: Layout) -> Map:
    """Fit the maps to numbers [P], of whose magnitudes all above `cap` count as `cap`."""
    sums = [
        sums_of(numbers[part].reshape(matrix(shape)), cap)
        for part, shape in zip(layout.slices(), layout.shapes, strict=True)
    ]
    planes = [_fit(s.rows, s.columns, cap, s.squares) for s in sums]
    return Map(layout, planes, [lean(s.nonzero, s.minus, len(s.rows)) for s in sums])


def sums_of(numbers: np.ndarray, cap: int) -> Sums:
    """The sums of a tensor [R, C]."""
    from duckweed.wire.kernels import sums as kernels

    rows = np.empty(len(numbers), np.int64)

    def of(part: slice) -> tuple[np.ndarray, int]:
        """Of some rows: column sums, counts of nonzero and negative int32[3, C], sum of squares."""
        found = np.zeros((3, numbers.shape[1]), np.int32)
        if cap > 1:
            return found, kernels.sizes(numbers[part], cap, rows[part], *found)
        kernels.flags(numbers[part], rows[part], found[0], found[2])
        found[1] = found[0]
        return found, int(rows[part].sum())

    parts = threads.stretches(len(numbers), max(1, _AT_ONCE // numbers.shape[1]))
    found = threads.each(of, parts)
    columns, nonzero, minus = np.array([f for f, _ in found]).sum(axis=0, dtype=np.int64)
    return Sums(rows, columns, float(sum(squares for _, squares in found)), nonzero, minus)


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
    row_step, column_step = (step_of(n * fisher / dispersion) for n in reversed(shape))
    if row_step == column_step == 0:
        return flat
    a, b = _rasch(rows, columns, cap)
    no_rows, no_columns = _side(flat.rows, 0), _side(flat.columns, 0)
    middle = _median(a)
    levels = [(flat.base, no_rows, no_columns)]
    if row_step:
        of_rows = _side(classes_of(a - middle, row_step), row_step)
    if column_step:
        of_columns = _side(classes_of(b, column_step), column_step)
    if row_step and column_step:
        levels.append((grid_of(middle), of_rows, of_columns))
    if row_step:
        levels.append((grid_of(middle), of_rows, no_columns))
    if column_step:
        levels.append((flat.base, no_rows, of_columns))
    base, x, y = min(levels, key=lambda level: _cost(level, rows, columns, cap, dispersion))
    return Plane(base, x.step, x.classes, y.step, y.classes)


class _Side(NamedTuple):
    """Classes of the rows or of the columns."""

    step: int
    classes: np.ndarray
    which: np.ndarray
    """The classes that come, ascending."""
    of: np.ndarray
    """For each row or column, which of them it has."""
    sizes: np.ndarray
    """How many have each."""


def _median(a: np.ndarray) -> float:
    """What np.median gives, which takes several times as long for so few."""
    ordered, half = np.sort(a), len(a) // 2
    return float(ordered[half] if len(a) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def _side(classes: np.ndarray, step: int) -> _Side:
    return _Side(step, classes, *kinds(classes))


def _rasch(rows: np.ndarray, columns: np.ndarray, cap: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of rows, float64[R], and what columns add to them, float64[C]: Newton steps in
    turn on rows and columns, each lumped into groups of almost equal sums."""
    from duckweed.wire.kernels import fit

    total, values = rows.sum(), len(rows) * len(columns)
    rate = (total + 0.5) / (values * cap + 1)
    ya, na, of_row = _lump(rows, len(columns) * cap, rate)
    yb, nb, of_column = _lump(columns, len(rows) * cap, rate)
    a = _log_odds(ya, len(columns) * cap, rate)
    b = _log_odds(yb, len(rows) * cap, rate) - _logit(rate)
    na, nb = na.astype(np.float64), nb.astype(np.float64)
    for _ in range(6):
        step = fit.newton(a, ya, b, nb, float(cap))
        more = fit.newton(b, yb, a, na, float(cap))
        if max(step, more) < _CLOSE:
            break
    return a[of_row], b[of_column]


def _log_odds(yes: np.ndarray, trials: int, rate: float) -> np.ndarray:
    """Log-odds of yes / trials, drawn a little towards the rate of the whole."""
    return np.log((yes + rate) / (trials - yes + 1 - rate))


def _lump(sums: np.ndarray, trials: int, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean sum and size of each group, and the group of each member."""
    key = np.rint(8 * _log_odds(sums, trials, rate))
    _, group, size = kinds(key.astype(np.int64))
    return np.bincount(group, sums) / size, size, group


def _logit(rate: float) -> float:
    return float(np.log(rate / (1 - rate)))


def _cost(
    level: tuple[int, _Side, _Side],
    rows: np.ndarray,
    columns: np.ndarray,
    cap: int,
    dispersion: float,
) -> float:
    """Bits for the values under these classes, and for the classes, both at their entropy."""
    base, of_rows, of_columns = level
    na, nb = of_rows.sizes, of_columns.sizes
    a = (base - HALF_LEVEL + of_rows.step * of_rows.which) / PER_NAT
    b = of_columns.step * of_columns.which / PER_NAT
    nats = (
        cap * na @ np.logaddexp(0, a[:, None] + b) @ nb
        - a[of_rows.of] @ rows
        - b[of_columns.of] @ columns
    )
    entropy = sum(float(-(n * np.log2(n / n.sum())).sum()) for n in (na, nb))
    return float(nats) / np.log(2) / dispersion + entropy


def put(writer: Writer, found: Map) -> None:
    """The map: base and steps of each tensor, then all classes of rows, of columns and of signs."""
    heads = [
        p.base | p.row_step << 6 | p.column_step << 9 | s.step << 12
        for p, s in zip(found.planes, found.signs, strict=True)
    ]
    writer.raw(np.array(heads, "<u2"))
    none = np.zeros(0, np.int64)
    small.put(
        writer,
        [
            np.concatenate([none, *(p.rows for p in found.planes if p.row_step)]),
            np.concatenate([none, *(p.columns for p in found.planes if p.column_step)]),
            np.concatenate([none, *(s.classes for s in found.signs if s.step)]),
        ],
        MAX_CLASS,
    )


def take(reader: Reader, layout: Layout) -> Map:
    """What `put` wrote. Raises WireError."""
    heads = reader.array("<u2", len(layout.shapes)).astype(np.int64)
    if (heads >> 15).any():
        raise WireError("the head of a tensor is not one that a map has: damaged")
    bases, steps = heads & 63, np.stack([heads >> 6 & 7, heads >> 9 & 7, heads >> 12 & 7])
    shapes = np.array([matrix(shape) for shape in layout.shapes], np.int64)
    lengths = np.stack([shapes[:, 0], shapes[:, 1], shapes[:, 1]]) * (steps > 0)
    coded = small.take(reader, lengths.sum(axis=1).tolist(), MAX_CLASS)
    rows, columns, signs = (
        _parts(values, of.tolist(), of_all.tolist())
        for values, of, of_all in zip(
            coded, lengths, [shapes[:, 0], shapes[:, 1], shapes[:, 1]], strict=True
        )
    )
    of_rows, of_columns, of_signs = steps.tolist()
    planes = [
        Plane(*plane)
        for plane in zip(bases.tolist(), of_rows, rows, of_columns, columns, strict=True)
    ]
    return Map(layout, planes, [Signs(step, s) for step, s in zip(of_signs, signs, strict=True)])


def _parts(coded: np.ndarray, lengths: list[int], counts: list[int]) -> list[np.ndarray]:
    """The classes of each tensor, int64[count]; zeros where none were sent."""
    out, at = [], 0
    for length, count in zip(lengths, counts, strict=True):
        out.append(coded[at : at + length] if length else np.zeros(count, np.int64))
        at += length
    return out
