"""Connections whose other side is not known to take part in the run: few in all and few from one address,
so that they cost a bounded amount of memory and files however many are made. Old ones go first."""

from collections import Counter
from collections.abc import Callable

from duckweed.net.rate_limits import HERE, RELAYED, origin

FROM_ONE = 16  # from one address


def files() -> int:
    """How many files and sockets this process may have open."""
    try:
        import resource
    except ImportError:  # Windows: as many as its C library allows
        return 8192
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


class Strangers:
    """The connections of one listener that nobody has vouched for yet. most: of all addresses."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._drops: dict[int, tuple[str, Callable[[], object]]] = {}  # oldest first
        self._from: Counter[str] = Counter()
        self._last = 0

    def __len__(self) -> int:
        return len(self._drops)

    def enter(self, address: str, drop: Callable[[], object]) -> int:
        """Note a new connection from ip:port; returns its ticket. drop: ends it, and is called should others
        need its place. Where there are too many, the oldest one of the same address goes, or of the address
        that has most."""
        where = origin(address)
        if where not in (HERE, RELAYED) and self._from[where] >= FROM_ONE:
            self._drop_oldest(where)
        elif len(self._drops) >= self.most:
            self._drop_oldest(self._from.most_common(1)[0][0])
        self._last += 1
        self._drops[self._last] = where, drop
        self._from[where] += 1
        return self._last

    def leave(self, ticket: int) -> None:
        """The connection has ended, or its other side is known now. Called again it changes nothing."""
        if (found := self._drops.pop(ticket, None)) is not None:
            where, _ = found
            self._from[where] -= 1
            if not self._from[where]:
                del self._from[where]

    def _drop_oldest(self, where: str) -> None:
        ticket = next(ticket for ticket, (of, _) in self._drops.items() if of == where)
        _, drop = self._drops[ticket]
        self.leave(ticket)
        drop()
