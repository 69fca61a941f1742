"""How much a stranger may ask of a coordinator: limits for each key and each address, and a count of
all that was refused. A key that keeps sending messages that are refused is cut off for a minute."""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable

from duckweed.net.token_bucket import Bucket

KNOWN = (
    4096  # keys or addresses that are remembered; beyond, the one not seen for longest is forgotten
)
NEW = 30 / 60, 30.0  # new connections from one address: per second, and at once
ASKED = 100.0, 400.0  # questions from one key: per second, and at once
PIECES = 1000.0, 4000.0  # those for a piece of a file, of a member: beyond these they wait
NONSENSE = 1 / 2, 20.0  # refused messages of one key: beyond these its connection is closed
STRANGER_HEAD = 4096  # bytes of a head, at most, from a key that has not joined
RELAYED = "relay"  # stands for the address of every key that comes through a relay
HERE = "here"  # stands for every address of this machine


def origin(address: str) -> str:
    """What counts as one address: an IPv4 address, the /64 network of an IPv6 one, RELAYED where it
    is not known, HERE for loopback. address: ip:port, or anything else for unknown."""
    try:
        ip = ipaddress.ip_address(address.rpartition(":")[0].strip("[]").partition("%")[0])
    except ValueError:
        return RELAYED
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return HERE
    if ip.version == 6:
        return str(ipaddress.ip_network((int(ip), 64), strict=False))
    return str(ip)


class Buckets:
    """A bucket for each name, in bounded memory."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._of: OrderedDict[str, Bucket] = OrderedDict()

    def of(self, name: str) -> Bucket:
        bucket = self._of.get(name)
        if bucket is None:
            bucket = self._of[name] = Bucket(self.rate, self.burst)
            if len(self._of) > KNOWN:
                self._of.popitem(last=False)
        self._of.move_to_end(name)
        return bucket

    def take(self, name: str, count: float = 1.0) -> bool:
        return self.of(name).take(count)


class RateLimits:
    """Decides whose messages are read. knows: whether a key is that of a member."""

    def __init__(self, knows: Callable[[str], bool]) -> None:
        self.knows = knows
        self.refused: Counter[str] = Counter()
        self.by_key: Counter[str] = Counter()
        self._new = Buckets(*NEW)
        self._asked = Buckets(*ASKED)
        self._pieces = Buckets(*PIECES)
        self._nonsense = Buckets(*NONSENSE)
        self._cut: OrderedDict[str, Bucket] = OrderedDict()
        self._origins: OrderedDict[str, str] = OrderedDict()

    def greet(self, address: str) -> bool:
        """Whether a connection from this address is worth a handshake."""
        where = origin(address)
        if where in (HERE, RELAYED) or self._new.take(where):
            return True
        self.refused["connections: too many from one address"] += 1
        return False

    def met(self, key: str, address: str) -> bool:
        """Note at which address a key was seen. False: the key is cut off, so close the connection."""
        self._origins[key] = origin(address)
        self._origins.move_to_end(key)
        while len(self._origins) > KNOWN:
            self._origins.popitem(last=False)
        return not self.cut_off(key)

    def origin_of(self, key: str) -> str:
        """Where the holder of a key was last seen."""
        return self._origins.get(key, RELAYED)

    def cut_off(self, key: str) -> bool:
        """Whether messages of this key are not read at the moment."""
        bucket = self._cut.get(key)
        if bucket is None:
            return False
        if bucket.full:
            del self._cut[key]
            return False
        return True

    def asks(self, key: str) -> None:
        """Count a question from this key. Raises ValueError if there were too many."""
        if not self._asked.take(key):
            raise ValueError("too many questions")

    async def asks_for_piece(self, key: str) -> None:
        """Count a question for one piece of a file: a large file is thousands of them, so that a member waits where there
        were too many. Raises ValueError for others."""
        if self.knows(key):
            await self._pieces.of(key).spend(1)
        else:
            self.asks(key)

    def fault(self, key: str, why: str) -> bool:
        """Count a message that was refused. True: there were too many, so close the connection."""
        self.refused[why] += 1
        if len(self.by_key) < KNOWN or key in self.by_key:
            self.by_key[key] += 1
        if self._nonsense.take(key):
            return False
        self.refused["connections: cut off after too much nonsense"] += 1
        bucket = self._cut[key] = Bucket(1.0, 60.0)
        bucket.take(60.0)
        while len(self._cut) > KNOWN:
            self._cut.popitem(last=False)
        return True

    def head_limit(self, key: str, of_members: int) -> int:
        """Most bytes of a head from this key."""
        return of_members if self.knows(key) else STRANGER_HEAD
