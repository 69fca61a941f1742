"""Who agrees with whom: the inner products of a round's contributions of integer codes, exactly.

M contributions, T tensors. Of a model with many values a sample is enough: it is drawn from the hashes
of what was handed in, so that nobody knows it before the last contribution is in, and anybody can draw
it again. The inner product of two contributions of codes -1, 0, 1 over n sampled values is then off by
at most about the square root of n (one standard deviation), relative to n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from blake3 import blake3

from duckweed.run.layout import Layout

SAMPLE = 1 << 20
"""At most this many values of a model."""
ROOM = 1 << 28
"""At most this many values of all contributions together, a byte each."""
_AT_ONCE = (1 << 24) // 127**2
"""Products of so many codes, of at most 127, add up to less than 2^24: float32 holds every such integer,
so that the sum is exact in whatever order it is formed."""


class Gram:
    """Takes the codes of a round's contributions one at a time, and keeps of each the sample alone."""

    def __init__(self, layout: Layout, blobs: Sequence[str]) -> None:
        """blobs: hash of each contribution of the round, in any order."""
        most = max(1, min(SAMPLE, ROOM // max(1, len(blobs))))
        self.sample = sample(layout, "".join(sorted(blobs)).encode(), most)
        self._chosen = np.concatenate(self.sample)
        self.rows: list[np.ndarray] = []

    @property
    def sizes(self) -> list[int]:
        """How many values of each tensor are looked at, [T]."""
        return [len(chosen) for chosen in self.sample]

    def add(self, codes: np.ndarray) -> None:
        """Note a contribution, int8[P]."""
        self.rows.append(codes[self._chosen])

    def tables(self) -> Iterator[np.ndarray]:
        """Per tensor the inner product of each two contributions over the sample, int64[M, M]."""
        start = 0
        for chosen in self.sample:
            yield products([row[start : start + len(chosen)] for row in self.rows])
            start += len(chosen)


def products(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Inner product of each two rows of codes, int64[M, M], exact."""
    total = np.zeros((len(rows), len(rows)), np.int64)
    for start in range(0, len(rows[0]) if rows else 0, _AT_ONCE):
        part = np.stack([row[start : start + _AT_ONCE] for row in rows]).astype(np.float32)
        total += (part @ part.T).astype(np.int64)
    return total


def sample(layout: Layout, seed: bytes, most: int) -> list[np.ndarray]:
    """Which values of each tensor are looked at, ascending, int64[T][...]: all of the small tensors, of
    the others equally many, `most` in all (but one of each tensor). Each is drawn from its own stretch
    of the tensor, so that no part of a tensor is passed over."""
    limit = _limit(layout.sizes, most)
    found = []
    for number, (start, size) in enumerate(zip(layout.offsets, layout.sizes, strict=False)):
        count = min(size, limit)
        if count == size:
            found.append(np.arange(start, start + size, dtype=np.int64))
            continue
        edges = np.arange(count + 1, dtype=np.int64) * size // count
        stream = blake3(seed + number.to_bytes(4, "little")).digest(length=4 * count)
        draw = np.frombuffer(stream, "<u4").astype(np.int64)
        found.append(start + edges[:-1] + draw % np.diff(edges))
    return found


def _limit(sizes: Sequence[int], most: int) -> int:
    """The largest number that each tensor may have of the sample, so that it has at most `most` in all."""
    left, ordered = most, sorted(sizes)
    for number, size in enumerate(ordered):
        share = left // (len(ordered) - number)
        if size > share:
            return max(1, share)
        left -= size
    return ordered[-1]
