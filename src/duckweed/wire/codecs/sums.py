"""The exact sum of one round's integer contributions, and its bytes: the update that peers fetch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire import threads
from duckweed.wire.entropy.signed import max_integer_bytes, put_integers, take_integers
from duckweed.wire.frame import HEADER, Reader, WireError, Writer, fingerprint
from duckweed.wire.total import Decoded, Total, stretch

MAX_WEIGHT = 1 << 12
_KIND = 4


class Sums(Total):
    """Of codes. The unit of a tensor is what a code of 1 stands for."""

    exact = True

    def __init__(self, layout: Layout, steps: np.ndarray, levels: int) -> None:
        """steps: what a code of 1 stands for in each tensor, f32[T]. levels: the largest code."""
        super().__init__(layout)
        self.steps, self.levels = steps, levels
        self.sums = np.zeros(layout.total, np.int16)
        """Sum of weight times code, int16[P], or int32[P] once int16 might not hold one."""
        self.squares: list[list[int]] = []
        """Sum of the squared codes of each contribution in each tensor, [M][T]."""

    def add(self, contribution: Decoded, weight: int) -> None:
        from duckweed.wire.kernels import vectors

        codes: np.ndarray = contribution.codes  # type: ignore[attr-defined]
        self._hold(sum(self.weights) + weight)
        parts = threads.within(self.layout.slices())
        squares = threads.each(
            lambda of: vectors.add(self.sums[of.part], codes[of.part], np.int32(weight)), parts
        )
        found = [0] * len(self.layout.sizes)
        for of, square in zip(parts, squares, strict=True):
            found[of.number] += int(square)
        self.squares.append(found)
        self.weights.append(weight)

    def multiply(self, factor: int) -> None:
        self._hold(sum(self.weights) * factor)
        for part in threads.parts(len(self.sums)):
            self.sums[part] *= self.sums.dtype.type(factor)
        self.weights = [weight * factor for weight in self.weights]

    def arrange(self, order: Sequence[int]) -> None:
        self.weights = [self.weights[place] for place in order]
        self.squares = [self.squares[place] for place in order]

    def part(self, numbers: Sequence[int], layout: Layout) -> Sums:
        slices = self.layout.slices()
        found = Sums(layout, self.steps[list(numbers)], self.levels)
        found.sums = np.concatenate([self.sums[slices[number]] for number in numbers])
        found.squares = [[row[number] for number in numbers] for row in self.squares]
        found.weights = list(self.weights)
        return found

    def join(self, other: Total) -> None:
        assert isinstance(other, Sums)
        self._hold(sum(self.weights) + sum(other.weights))
        for part in threads.parts(len(self.sums)):
            self.sums[part] += other.sums[part].astype(self.sums.dtype)
        self.weights += other.weights
        self.squares += other.squares

    def _hold(self, weights: int) -> None:
        """Have room for the sum of codes that weigh so much in all."""
        wanted = _smallest(self.levels * weights, np.int16)
        if np.dtype(wanted).itemsize > self.sums.itemsize:
            self.sums = self.sums.astype(wanted)

    def mean(self) -> np.ndarray:
        return values(self.sums, self.steps / np.float32(sum(self.weights)), self.layout)

    def norms(self) -> list[list[float]]:
        return [
            [math.sqrt(square) for square in column] for column in zip(*self.squares, strict=True)
        ]

    def at_lengths(self, lengths: Sequence[float]) -> np.ndarray:
        total = self.sums.astype(np.float32)
        for part, step, wanted in zip(self.layout.slices(), self.steps, lengths, strict=True):
            stretch(total[part], wanted * float(step), math.sqrt(_square(self.sums[part])))
        return total


def values(codes: np.ndarray, steps: np.ndarray, layout: Layout) -> np.ndarray:
    """What codes, int8[P], or sums of them stand for: ``code * step`` with one float32 multiplication each, f32[P].
    steps: of each tensor, f32[T]."""
    from duckweed.wire.kernels import vectors

    out = np.empty(layout.total, np.float32)

    def scale(of: threads.Within) -> None:
        part, tensor = of
        vectors.scale(out[part], codes[part], steps[tensor])

    threads.each(scale, threads.within(layout.slices()))
    return out


def _square(x: np.ndarray) -> int:
    """Sum of squares of integers, exactly."""
    wide = (x[here].astype(np.int64) for here in threads.parts(len(x)))
    return sum(int(np.dot(part, part)) for part in wide)


def _agreed(layout: Layout, levels: int) -> bytes:
    return fingerprint(layout.digest().encode(), levels.to_bytes(2, "little"))


def encode(total: Sums) -> bytes:
    """The sum as bytes, without loss.

    Raises:
        WireError: no contributor, a weight outside 1..4096, shapes that do not fit, or numbers
            that these weights and levels cannot give.
    """
    layout, sums, weights, levels = total.layout, total.sums, total.weights, total.levels
    squares = np.array(total.squares, np.int64)
    if not weights or not all(1 <= w <= MAX_WEIGHT for w in weights):
        raise WireError(f"an update needs contributors, each of weight 1 to {MAX_WEIGHT}")
    if sums.shape != (layout.total,) or squares.shape != (len(weights), len(layout.sizes)):
        raise WireError(f"sums {sums.shape} and squares {squares.shape} do not fit the layout")
    _check(sums, squares, weights, layout, levels)
    ranks, alphabet = _ranks(sums, levels * sum(weights))
    writer = Writer(_KIND, _agreed(layout, levels))
    writer.varint(len(weights))
    for number in [*weights, *squares.ravel().tolist(), len(alphabet)]:
        writer.varint(number)
    for step in np.diff(alphabet, prepend=0).tolist():
        writer.varint(step)
    put_integers(writer, ranks, len(alphabet), layout)
    return writer.blob()


def _ranks(sums: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """The magnitudes above 0 that come among the sums, int64[A], ascending; and each sum as its place among
    them, 1 to A, with its sign, in the smallest integers that hold it, [P]."""
    from duckweed.wire.kernels import vectors

    present = np.zeros(largest + 1, np.bool_)  # threads write the same there
    threads.each(lambda part: vectors.present(present, sums[part]), threads.parts(len(sums)))
    present[0] = False
    alphabet = np.flatnonzero(present)
    rank: np.ndarray = np.cumsum(present, dtype=_smallest(len(alphabet)))
    ranks = np.empty(len(sums), rank.dtype)
    threads.each(lambda part: vectors.rank(ranks[part], sums[part], rank), threads.parts(len(sums)))
    return ranks, alphabet


def _smallest(largest: int, least: type = np.int8) -> type:
    """The smallest signed integer that holds it, of at least some size. (The kernels are compiled for each.)"""
    kinds = [kind for kind in (np.int8, np.int16, np.int32) if np.iinfo(kind).max >= largest]
    return max(kinds[0], least, key=lambda kind: np.dtype(kind).itemsize)


def decode(blob: bytes, layout: Layout, steps: np.ndarray, levels: int, contributors: int) -> Sums:
    """What `encode` wrote, checked. contributors: at most that many.

    Raises:
        WireError: damaged, cut short, too long, or with more contributors than allowed.
    """
    from duckweed.wire.kernels import vectors

    limit = max_size(layout, levels, contributors, MAX_WEIGHT)
    if len(blob) > limit:
        raise WireError(f"update of {len(blob)} bytes; at most {limit} are possible")
    reader = Reader(blob, _KIND, _agreed(layout, levels))
    weights = reader.varints(reader.varint(contributors), MAX_WEIGHT).tolist()
    if not weights or 0 in weights:
        raise WireError("an update needs contributors, each of weight 1 or more")
    tops = np.tile([levels**2 * size for size in layout.sizes], len(weights))
    squares = reader.varints(len(tops), tops).reshape(len(weights), -1)
    top = levels * sum(weights)
    gaps = reader.varints(reader.varint(min(top, layout.total)), top)
    alphabet = np.cumsum(np.concatenate([[0], gaps]))
    if (gaps == 0).any() or alphabet[-1] > top:
        raise WireError("the table of sums is not one that these weights can give")
    ranks, _ = take_integers(reader, len(gaps), layout, _smallest(len(gaps)))
    reader.end()
    total = Sums(layout, steps, levels)
    total.sums = np.empty(layout.total, _smallest(top, np.int16))
    both = np.concatenate([-alphabet[:0:-1], alphabet]).astype(total.sums.dtype)  # of ranks -n to n
    threads.each(
        lambda part: vectors.unrank(total.sums[part], ranks[part], both, len(gaps)),
        threads.parts(layout.total),
    )
    _check(total.sums, squares, weights, layout, levels)
    total.squares, total.weights = squares.tolist(), weights
    return total


def _check(
    sums: np.ndarray, squares: np.ndarray, weights: list[int], layout: Layout, levels: int
) -> None:
    """Refuse sums and squares that no codes within ``levels`` give with these weights."""
    if max(int(sums.max()), -int(sums.min())) > levels * sum(weights):
        raise WireError(f"a sum is above {levels} levels times the weights")
    if (squares < 0).any() or (squares > levels**2 * np.asarray(layout.sizes)).any():
        raise WireError(f"a sum of squares is not possible with {levels} levels")


def max_size(layout: Layout, levels: int, contributors: int, max_weight: int) -> int:
    """The most bytes that an update of so many contributors can have."""
    top = levels * contributors * max_weight
    table = min(top, layout.total)
    squares = sum(_varint_size(levels**2 * size) for size in layout.sizes)
    head = contributors * (_varint_size(max_weight) + squares) + table * _varint_size(top)
    return HEADER + 16 + head + max_integer_bytes(table, layout)


def _varint_size(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
