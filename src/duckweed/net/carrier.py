"""What peers and nodes need of a network: an endpoint that dials and answers, links that carry questions.

Two carriers: `net.transport` (iroh and TCP, between machines) and `net.virtual` (inside one process, in
virtual time).
"""

from typing import Protocol, runtime_checkable

from duckweed.net.framing import Accept, Limiter, Pong
from duckweed.net.timeouts import STALL
from duckweed.net.token_bucket import Pace


@runtime_checkable
class Link(Protocol):
    """A connection to one other machine."""

    async def ask(
        self, head: bytes, body: bytes = b"", *, body_limit: int = 0, patience: float = STALL
    ) -> tuple[bytes, bytes]:
        """Head and body of the answer. patience: seconds until its first byte must be there. Raises
        LinkError."""
        ...

    async def ping(self, patience: float = STALL) -> Pong:
        """Raises LinkError."""
        ...

    def close(self) -> None: ...


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

    async def serve(self, accept: Accept, watch: Limiter | None = None) -> None:
        """Answer questions until the endpoint is closed."""
        ...

    async def seen_at(self, address: str) -> bool:
        """Others see this machine at ip:port. Whether that is news."""
        ...

    async def close(self) -> None: ...
