"""Conversations put together into sequences of one length, so that little of a sequence is empty."""

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

from duckweed.learn.data.chat import FIRST, LEARNT

IDS, POSITIONS, LEARN = "ids", "positions", "learn"


class Packed:
    """The tokens of one side as rows of `length` + 1 tokens. Which conversations share a row follows from
    their lengths alone: best fit, the longest first (Johnson 1973; within 11/9 of the fewest rows)."""

    def __init__(
        self,
        tokens: NDArray[np.unsignedinteger],
        marks: NDArray[np.uint8],
        length: int,
        packing: bool = True,
    ) -> None:
        self.tokens, self.marks, self.width = tokens, marks, length + 1
        self.starts = np.flatnonzero(marks & FIRST)
        self.lengths = np.diff(self.starts, append=len(tokens))
        self.rows = (
            _best_fit(self.lengths, self.width)
            if packing
            else [[n] for n in range(len(self.starts))]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, chosen: NDArray[np.int64], end: int) -> dict[str, NDArray[np.int64]]:
        """Rows int64[b, length + 1]: `ids`, filled up with `end`; `positions`, which begin anew with each
        conversation; `learn`, 1 where the loss is taken over the token."""
        shape = len(chosen), self.width
        ids, learn = np.full(shape, end, np.int64), np.zeros(shape, np.int64)
        positions = np.zeros(shape, np.int64)
        for row, number in enumerate(chosen):
            at = 0
            for one in self.rows[number]:
                size, start = int(self.lengths[one]), int(self.starts[one])
                to = slice(at, at + size)
                ids[row, to] = self.tokens[start : start + size]
                learn[row, to] = (self.marks[start : start + size] & LEARNT) > 0
                positions[row, to] = np.arange(size)
                at += size
            positions[row, at:] = np.arange(self.width - at)  # filled up as by one more
        return {IDS: ids, POSITIONS: positions, LEARN: learn}


def _best_fit(lengths: NDArray[np.int64], width: int) -> list[list[int]]:
    """Rows of at most `width` tokens: each conversation goes where the least is left behind it."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left in a row, and which; ascending
    for one in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[one])
        place = bisect_left(rooms, (size, -1))
        if place < len(rooms):
            room, row = rooms.pop(place)
            rows[row].append(one)
        else:
            room, row = width, len(rows)
            rows.append([one])
        if room - size > 1:  # the shortest conversation has two tokens
            insort(rooms, (room - size, row))
    return rows
