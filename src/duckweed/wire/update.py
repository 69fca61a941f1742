"""An update: the exact sum of one round's integer contributions, sent down to every peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from duckweed.run.layout import Layout
from duckweed.wire.entropy.rans import Decoder, Encoder
from duckweed.wire.entropy.signed import bits_per_value, put_integers, take_integers
from duckweed.wire.entropy.tables import look_up, parts, smallest
from duckweed.wire.frame import HEADER, Reader, WireError, Writer, fingerprint

MAX_WEIGHT = 1 << 12
_KIND = 4


class Update(NamedTuple):
    """``sums`` int32[P] = sum over contributors of weight * codes; ``squares`` int64[M, T] = sum of
    the squared codes of each contributor over each tensor; ``weights`` [M]."""

    sums: np.ndarray
    squares: np.ndarray
    weights: list[int]


def _agreed(layout: Layout, levels: int) -> bytes:
    return fingerprint(layout.digest().encode(), levels.to_bytes(2, "little"))


def encode_update(
    sums: np.ndarray, squares: np.ndarray, weights: Sequence[int], layout: Layout, levels: int
) -> bytes:
    """The update as bytes, without loss.

    Raises:
        WireError: no contributor, a weight outside 1..4096, shapes that do not fit, or numbers
            that these weights and levels cannot give.
    """
    sums, squares = np.asarray(sums), np.asarray(squares)
    weights = [int(w) for w in weights]
    if not weights or not all(1 <= w <= MAX_WEIGHT for w in weights):
        raise WireError(f"an update needs contributors, each of weight 1 to {MAX_WEIGHT}")
    if sums.shape != (layout.total,) or squares.shape != (len(weights), len(layout.sizes)):
        raise WireError(f"sums {sums.shape} and squares {squares.shape} do not fit the layout")
    _check(sums, squares, weights, layout, levels)
    sizes = np.abs(sums)
    present = np.zeros(levels * sum(weights) + 1, np.bool_)
    for here in parts(len(sizes)):
        present[sizes[here]] = True
    present[0] = False
    alphabet = np.flatnonzero(present)
    rank: np.ndarray = np.cumsum(present, dtype=smallest(len(alphabet)))
    ranks = look_up(rank, sizes)
    del sizes
    np.negative(ranks, out=ranks, where=sums < 0)
    writer = Writer(_KIND, _agreed(layout, levels))
    writer.varint(len(weights))
    for number in [*weights, *squares.ravel().tolist(), len(alphabet)]:
        writer.varint(number)
    for step in np.diff(alphabet, prepend=0).tolist():
        writer.varint(step)
    encoder = Encoder()
    put_integers(encoder, ranks, len(alphabet), layout)
    encoder.write(writer)
    return writer.blob()


def decode_update(blob: bytes, layout: Layout, levels: int, max_contributors: int) -> Update:
    """What `encode_update` wrote, checked.

    Raises:
        WireError: damaged, cut short, too long, or with more contributors than allowed.
    """
    limit = max_update_size(layout, levels, max_contributors, MAX_WEIGHT)
    if len(blob) > limit:
        raise WireError(f"update of {len(blob)} bytes; at most {limit} are possible")
    reader = Reader(blob, _KIND, _agreed(layout, levels))
    count = reader.varint(max_contributors)
    weights = [reader.varint(MAX_WEIGHT) for _ in range(count)]
    if not weights or 0 in weights:
        raise WireError("an update needs contributors, each of weight 1 or more")
    tops = [levels**2 * size for size in layout.sizes]
    squares = np.array([[reader.varint(top) for top in tops] for _ in weights], np.int64)
    top = levels * sum(weights)
    gaps = [reader.varint(top) for _ in range(reader.varint(min(top, layout.total)))]
    alphabet = np.cumsum([0, *gaps])
    if 0 in gaps or alphabet[-1] > top:
        raise WireError("the table of sums is not one that these weights can give")
    ranks, _ = take_integers(Decoder(reader, layout.total), len(gaps), layout, smallest(len(gaps)))
    reader.end()
    both = np.concatenate([-alphabet[:0:-1], alphabet]).astype(np.int32)  # of ranks -n to n
    sums = np.empty(layout.total, np.int32)
    for here in parts(layout.total):
        np.take(both, ranks[here] + np.intp(len(gaps)), out=sums[here], mode="clip")
    _check(sums, squares, weights, layout, levels)
    return Update(sums, squares, weights)


def _check(
    sums: np.ndarray, squares: np.ndarray, weights: list[int], layout: Layout, levels: int
) -> None:
    """Refuse sums and squares that no codes within ``levels`` give with these weights."""
    if max(int(sums.max()), -int(sums.min())) > levels * sum(weights):
        raise WireError(f"a sum is above {levels} levels times the weights")
    if (squares < 0).any() or (squares > levels**2 * np.asarray(layout.sizes)).any():
        raise WireError(f"a sum of squares is not possible with {levels} levels")


def max_update_size(layout: Layout, levels: int, contributors: int, max_weight: int) -> int:
    """The most bytes that an update of so many contributors can have."""
    top = levels * contributors * max_weight
    table = min(top, layout.total)
    squares = sum(_varint_size(levels**2 * size) for size in layout.sizes)
    bits = layout.total * bits_per_value(table)
    head = contributors * (_varint_size(max_weight) + squares) + table * _varint_size(top)
    return HEADER + 512 + head + 4 * len(layout.sizes) + int(bits * 1.05 / 8)


def _varint_size(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
