"""A network inside one process, in virtual time: an event loop whose clock jumps to the next event, and
endpoints whose links have a speed and a latency."""

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any

from duckweed.net.clock import now
from duckweed.net.framing import Accept, LinkError, Pong, Service
from duckweed.net.identity import Identity
from duckweed.net.link_spec import LinkSpec
from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import STALL, within
from duckweed.net.token_bucket import Pace

HEAD_LIMIT = 1 << 20  # bytes of a head; what a member may send is checked where it is decoded


class Standstill(RuntimeError):
    """Every task of a virtual loop waits for something that will never happen."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: when nothing is left to do, its clock jumps to the next timer.

    What would run in a thread runs at once. It takes no virtual time, unless it calls `spend`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._spent = 0.0
        super().__init__(_Jumping(self._jump))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _jump(self, seconds: float | None) -> None:
        if seconds is None:
            raise Standstill("every task waits for something that will never happen")
        self._now += seconds

    def spend(self, seconds: float) -> None:
        """Let the job that runs at this moment take `seconds` of virtual time."""
        self._spent += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As asyncio's, but the work is done before this returns; its result comes when the time that
        it spent has passed."""
        self._spent = 0.0
        done: asyncio.Future[Any] = self.create_future()
        finish: Callable[[Any], None] = done.set_result
        try:
            result = func(*args)
        except Exception as error:
            finish, result = done.set_exception, error
        self.call_later(self._spent, lambda: None if done.done() else finish(result))
        return done


class _Jumping(selectors.DefaultSelector):
    """Looks for what is ready, and jumps instead of waiting."""

    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout != 0:
            self._jump(timeout)
        return ready


def spend(seconds: float) -> None:
    """Let the job that runs at this moment take `seconds` of virtual time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.spend(seconds)


class Network:
    """Endpoints that reach each other by their keys."""

    def __init__(self) -> None:
        self.serving: dict[str, Service] = {}

    def endpoint(self, identity: Identity, link: LinkSpec | None = None) -> "VirtualEndpoint":
        """A machine's end. link: how fast it sends and receives; None: at once."""
        return VirtualEndpoint(self, identity, link or LinkSpec())


class _Direction:
    """One direction of a machine's link: what is sent at the same time waits for its turn."""

    def __init__(self, rate: float, latency: float) -> None:
        self.rate, self.latency = rate, latency
        self._free = 0.0

    async def carry(self, count: int) -> None:
        """Return when `count` bytes have arrived."""
        self._free = max(now(), self._free) + 8 * count / self.rate
        await asyncio.sleep(self._free + self.latency - now())


class VirtualEndpoint:
    """One machine's end of a virtual network: a carrier as `net.transport.Endpoint` is one."""

    def __init__(self, network: Network, identity: Identity, link: LinkSpec) -> None:
        self.network, self.id, self.pace = network, identity.id, Pace()
        self.offered: list[str] = []
        self.up = _Direction(link.up, link.latency)
        self.down = _Direction(link.down, link.latency)
        self._closed = asyncio.Event()

    async def connect(self, peer: str, addresses: list[str]) -> "VirtualLink":
        """Raises LinkError."""
        service = self.network.serving.get(peer)
        if service is None or not service.meets(self.id, "127.0.0.1:1"):
            raise LinkError(f"{peer[:10]} does not answer")
        return VirtualLink(self, service)

    async def serve(self, accept: Accept, limits: RateLimits | None = None) -> None:
        """Answer questions until the endpoint is closed."""
        self.network.serving[self.id] = Service(accept, limits, HEAD_LIMIT, self.pace)
        await self._closed.wait()

    async def seen_at(self, address: str) -> bool:
        return False

    async def close(self) -> None:
        self.network.serving.pop(self.id, None)
        self._closed.set()


class VirtualLink:
    """A connection from one endpoint to a service."""

    def __init__(self, end: VirtualEndpoint, service: Service) -> None:
        self._end, self._service = end, service

    async def ask(
        self, head: bytes, body: bytes = b"", *, body_limit: int = 0, patience: float = STALL
    ) -> tuple[bytes, bytes]:
        """As `net.transport.Link.ask`. Raises LinkError."""
        service, key = self._service, self._end.id
        await self._end.up.carry(len(head) + len(body))
        try:
            accepted = service.accept(key, head)
            if len(body) > accepted.body_limit:
                raise LinkError("the body is longer than the other side allows")
            reply, data = await within(patience, accepted.answer(body))
        except TimeoutError as error:
            raise LinkError("no answer in time") from error
        except (ValueError, OSError) as error:
            service.fault(key, error)
            raise LinkError(f"connection lost ({error})") from error
        if len(data) > body_limit:
            raise LinkError(f"an answer of {len(data)} bytes; at most {body_limit} allowed")
        await self._end.down.carry(len(reply) + len(data))
        return reply, data

    async def ping(self, patience: float = STALL) -> Pong:
        return Pong("", time.time())

    def close(self) -> None:
        pass
