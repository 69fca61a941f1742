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
from threading import Lock
from typing import NamedTuple

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire import threads
from duckweed.wire.entropy import small
from duckweed.wire.entropy.signs import Signs, lean
from duckweed.wire.entropy.tables import MAX_CLASS
from duckweed.wire.frame import Reader, WireError, Writer

_AT_ONCE = 1 << 18  # values summed at a time


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


def measure(numbers: np.ndarray, cap: int, layout: Layout) -> Map:
    """Fit the maps to numbers [P], of whose magnitudes all above `cap` count as `cap`."""
    tensors = [
        numbers[part].reshape(matrix(shape))
        for part, shape in zip(layout.slices(), layout.shapes, strict=True)
    ]
    sums = sums_of(tensors, cap)
    fits = threads.each(lambda of: _fit(of, cap), sums)
    return Map(layout, [plane for plane, _ in fits], [signs for _, signs in fits])


class Sums(NamedTuple):
    """What a map is fitted to: sums over a tensor of C columns, of min(magnitude, cap)."""

    rows: np.ndarray  # int64[R]
    columns: np.ndarray  # int64[C]
    nonzero: np.ndarray  # how many of a column are not zero, int64[C]
    minus: np.ndarray  # and how many are negative, int64[C]
    squares: float  # sum of squares over the tensor


def sums_of(tensors: list[np.ndarray], cap: int) -> list[Sums]:
    """The sums of tensors [R, C] each."""
    from duckweed.wire.kernels import sums as kernels

    rows = [np.empty(len(tensor), np.int64) for tensor in tensors]
    columns = [np.zeros((3, tensor.shape[1]), np.int64) for tensor in tensors]
    squares, adding = [0] * len(tensors), Lock()

    def of(some: threads.Within) -> None:
        """Of some rows: column sums, counts of nonzero and negative, sum of squares."""
        part, number = some
        numbers, own = tensors[number][part], rows[number][part]
        found = np.zeros((3, numbers.shape[1]), np.int32)
        if cap > 1:
            more = kernels.sizes(numbers, cap, own, *found)
        else:
            kernels.flags(numbers, own, found[0], found[2])
            found[1], more = found[0], own.sum()
        with adding:
            columns[number] += found
            squares[number] += int(more)

    parts = [
        threads.Within(part, number)
        for number, tensor in enumerate(tensors)
        for part in threads.stretches(len(tensor), max(1, _AT_ONCE // tensor.shape[1]))
    ]
    threads.each(of, parts)
    return [
        Sums(by_row, c[0], c[1], c[2], float(square))
        for by_row, c, square in zip(rows, columns, squares, strict=True)
    ]


def _fit(sums: Sums, cap: int) -> tuple[Plane, Signs]:
    from duckweed.wire.kernels import fit

    rows, columns = np.empty(len(sums.rows), np.int64), np.empty(len(sums.columns), np.int64)
    base, row_step, column_step = fit.plane(
        sums.rows, sums.columns, cap, sums.squares, rows, columns
    )
    plane = Plane(base, row_step, rows, column_step, columns)
    return plane, lean(sums.nonzero, sums.minus, len(rows))


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
