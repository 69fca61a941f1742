"""Who works on what, and when a round closes: pure bookkeeping, no clock and no network of its own."""

from collections import deque
from collections.abc import Iterable

import msgspec

from duckweed.merge.exact import median
from duckweed.merge.round import Announcement
from duckweed.swarm import messages as m

SPREAD = 6.0  # median absolute deviations beyond the median that a peer may take


class Blocks:
    """Blocks of training data, handed out in order. A block whose work did not count comes back and
    is handed out first, so that no text is skipped when a peer dies."""

    def __init__(self) -> None:
        self._next = 0
        self._returned: deque[int] = deque()

    def take(self) -> int:
        if self._returned:
            return self._returned.popleft()
        self._next += 1
        return self._next - 1

    def settle(self, assigned: dict[int, int], accepted: Iterable[int]) -> None:
        """assigned: peer -> block in a closed round; accepted: the peers whose work counted."""
        counted = set(accepted)
        self._returned.extend(sorted(b for peer, b in assigned.items() if peer not in counted))

    def replay(self, assigned: dict[int, int], accepted: Iterable[int]) -> None:
        """Take up a round of the past, as the ledger tells it."""
        for block in assigned.values():
            if block in self._returned:
                self._returned.remove(block)
        self._next = max([self._next, *(block + 1 for block in assigned.values())])
        self.settle(assigned, accepted)


def deadline(durations: list[float], patience: float) -> float | None:
    """Seconds after its opening at which a round closes without its stragglers: median + 6 MAD of
    what peers have needed, and `patience` on top. None while nothing is known."""
    if not durations:
        return None
    middle = median(durations)
    return middle + SPREAD * median([abs(d - middle) for d in durations]) + patience


class Member(msgspec.Struct):
    """A peer as the coordinator sees it."""

    index: int
    key: str
    heard: float = 0.0
    here: bool = False
    doing: str = "starting"
    step: int = 0
    loss: float = 0.0


class OpenRound(msgspec.Struct):
    """The round that is being worked on. assigned: peer -> block, in the order of shares."""

    number: int
    opened: float
    assigned: dict[int, int] = {}
    handed: dict[int, tuple[Announcement, bytes]] = {}
    seconds: dict[int, float] = {}
    timings: dict[int, m.Timings] = {}
    nats: dict[int, tuple[float, int]] = {}
    refused: set[int] = set()

    def wants(self, peer: int, question: m.Next) -> bool:
        """Whether the peer should train: also again, where a restart lost what it handed in."""
        if question.round != self.number:
            return False
        return not question.contributed or peer not in self.handed.keys() | self.refused
