"""What peers and nodes need of a network: an endpoint that dials and answers, links that carry questions.

Two carriers: `net.transport` (iroh and TCP, between machines) and `net.virtual` (inside one process, in
virtual time).
"""

from typing import Protocol, runtime_checkable

from duckweed.net.framing import Accept, Pong
from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import STALL
from duckweed.net.token_bucket import Pace


class Connection(Protocol):
    """What carries questions to another machine, or to the coordinator in this process."""

    async def ask(
        self, head: bytes, body: bytes = b"", *, body_limit: int = 0, patience: float = STALL
    ) -> tuple[bytes, bytes]:
        """Head and body of the answer. body_limit: most bytes of its body; patience: seconds until its
        first byte must be there. Raises LinkError."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Link(Connection, Protocol):
    """A connection to another machine."""

    async def ping(self, patience: float = STALL) -> Pong:
        """Raises LinkError."""
        ...


class Endpoint(Protocol):
    """This machine's end of all its links."""

    id: str
    """Its public key, 64 hex digits."""
    pace: Pace
    """How fast bodies may leave and arrive."""

    @property
    def offered(self) -> list[str]:
        """Addresses under which others may reach it."""
        ...

    async def connect(self, peer: str, addresses: list[str]) -> Link:
        """A link to the holder of a key. Raises LinkError."""
        ...

    async def serve(self, accept: Accept, limits: RateLimits | None = None) -> None:
        """Answer questions until the endpoint is closed."""
        ...

    async def seen_at(self, address: str) -> bool:
        """Others see this machine at ip:port. Whether that is news."""
        ...

    async def close(self) -> None: ...
