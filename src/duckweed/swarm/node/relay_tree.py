"""From whom each peer copies the newest entries of the ledger: a few from the leader, the others from peers
that did, so that the leader's link carries a round's entries a few times and not once for each peer.

Entries are signed and chained: it does not matter who gives them.
"""

from duckweed.swarm.protocol.message import PeerAddress

FANOUT = 4  # peers that copy from one machine
WORTH = 1 << 14  # bytes from which on entries are copied from peers; below, a referral is no gain


class RelayTree:
    """The order in which peers have asked for the entries up to one end of the ledger."""

    def __init__(self) -> None:
        self._end = -1
        self._order: list[PeerAddress] = []
        self._asked: dict[str, tuple[int, PeerAddress | None]] = {}
        """Key -> its last entry when it asked, and whom it was referred to."""

    def source(self, end: int, asker: PeerAddress, number: int) -> PeerAddress | None:
        """The peer that is to give an asker the entries from `number` + 1 to `end`; None: the leader
        itself, also for one that asks again because it got nothing where it was referred to."""
        if end != self._end:
            self._end = end
            self._order.clear()
            self._asked.clear()
        if asker.key in self._asked:
            before, source = self._asked[asker.key]
        else:
            before, source = -2, self._place(asker)
        self._asked[asker.key] = number, source
        return source if number != before else None

    def _place(self, asker: PeerAddress) -> PeerAddress | None:
        place = len(self._order)
        if asker.addresses:
            self._order.append(asker)
        elif self._order:  # nobody can reach it: it only takes
            return self._order[len(self._asked) % place]
        return None if place < FANOUT else self._order[place // FANOUT - 1]
