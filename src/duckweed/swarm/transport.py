"""Links between machines: dial by public key, ask, be answered; over TCP or iroh, whichever serves.

Addresses are ip:port pairs, or URLs of relays (http://..., see relay.py). An endpoint listens with
iroh (QUIC over UDP) and with TLS over TCP at the same port number. Who dials tries both at once and
takes TCP if it answers in time, because it is faster on lossy links; behind NATs and through relays
iroh is what remains. Both carriers carry the same questions (framing.py).

What iroh 1.2 leaves open is closed here: its Python glue copies outgoing bytes one by one; a dead
peer shows only after 30 s, so every read has a deadline of its own and a long wait pings; a failed
handshake of a stranger must not end the accept loop; an old connection must be closed before the same
peer is dialled again.
"""

import asyncio
import contextlib
import ctypes
from typing import Any

import iroh
from iroh import (
    Connection,
    EndpointAddr,
    EndpointId,
    EndpointOptions,
    IrohError,
    RelayConfig,
    RelayMode,
    iroh_ffi,
    preset_minimal,
)

from duckweed.swarm import framing, tcp
from duckweed.swarm.framing import STALL, Handler, Link, LinkError, Service, Sizes, Watch
from duckweed.swarm.identity import Identity
from duckweed.swarm.pace import Pace

__all__ = ["Endpoint", "Handler", "Link", "LinkError", "Sizes", "Watch", "is_relay"]

ALPN = b"duckweed/1"
CARRIERS = ("tcp", "quic")
HEAD_START = 1.5  # seconds that TCP may need longer than iroh and still be taken
LOOK = 3.0  # seconds of waiting for an answer between two pings


def is_relay(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _write_at_once(self: Any, value: Any) -> None:
    """Append bytes to an outgoing buffer by one copy. iroh's generated code does so byte by byte in
    Python, at 7 MiB/s with a core burnt."""
    view = memoryview(value).cast("B")
    if view.nbytes:
        with self._reserve(view.nbytes):
            target = ctypes.addressof(self.rbuf.data.contents) + self.rbuf.len
            source = (
                bytes(view) if view.readonly else (ctypes.c_char * view.nbytes).from_buffer(view)
            )
            ctypes.memmove(target, source, view.nbytes)


iroh_ffi._UniffiRustBufferBuilder.write = _write_at_once  # type: ignore[method-assign]


class QuicLink(Link):
    carrier = "quic"

    def __init__(self, connection: Connection, head_limit: int, pace: Pace) -> None:
        self._connection, self._head_limit, self._pace = connection, head_limit, pace

    async def ask(
        self, head: bytes, body: bytes = b"", *, body_limit: int = 0, patience: float = STALL
    ) -> tuple[bytes, bytes]:
        asking = asyncio.ensure_future(self._ask(head, body, body_limit, patience))
        try:
            while not (await asyncio.wait({asking}, timeout=LOOK))[0]:
                if head != framing.PING:
                    await self._alive(asking)
            return asking.result()
        finally:
            asking.cancel()

    async def _alive(self, asking: asyncio.Future) -> None:
        """Whoever answers no ping for STALL seconds is gone, whatever we wait for."""
        pinging = asyncio.ensure_future(self.ping())
        await asyncio.wait({asking, pinging}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done() and pinging.exception():
            raise LinkError("the other side went away")
        pinging.cancel()

    async def _ask(
        self, head: bytes, body: bytes, body_limit: int, patience: float
    ) -> tuple[bytes, bytes]:
        try:
            stream = await asyncio.wait_for(self._connection.open_bi(), STALL)
            sending, reply = stream.send(), stream.recv()
            await framing.send(sending.write_all, head, body, self._pace)
            await sending.finish()
            answer = await framing.read_head(reply.read_exact, self._head_limit, patience)
            return answer, await framing.read_body(reply.read_exact, body_limit, self._pace)
        except TimeoutError as error:
            raise LinkError("no answer in time") from error
        except IrohError as error:
            raise LinkError(f"connection lost ({error.message()})") from error

    def datagram_bytes(self) -> tuple[int, int]:
        """Bytes of UDP payload sent and received over this connection, QUIC's own included."""
        stats = self._connection.stats()
        return stats.udp_tx_bytes, stats.udp_rx_bytes

    def direct(self) -> bool:
        """Whether packets go straight to the other side, not through a relay."""
        return any(not path.is_relay for path in self._connection.paths())

    def close(self) -> None:
        with contextlib.suppress(IrohError):
            self._connection.close(0, b"")


class Endpoint:
    """This machine's end: its key, its address, what it serves, how fast bodies may move."""

    def __init__(self, endpoint: iroh.Endpoint, identity: Identity, head_limit: int) -> None:
        self._endpoint, self._identity, self._head_limit = endpoint, identity, head_limit
        self._tasks: set[asyncio.Task] = set()
        self._relays: set[str] = set()
        self._listener: tcp.Listener | None = None
        self.pace = Pace()
        self.id = identity.id

    @classmethod
    async def bind(cls, identity: Identity, head_limit: int, address: str) -> "Endpoint":
        """Listen on address ("127.0.0.1:0": any free port). Raises LinkError if it is taken."""
        iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())  # type: ignore[arg-type]
        options = EndpointOptions(
            preset=preset_minimal(),
            bind_addr=address,
            secret_key=identity.secret,
            alpns=[ALPN],
            relay_mode=RelayMode.custom_from_urls([]),  # those of `use_relay`, nobody else's
        )
        try:
            return cls(await iroh.Endpoint.bind(options), identity, head_limit)
        except IrohError as error:
            raise LinkError(
                f"cannot listen on {address}: {error.message().splitlines()[-1].strip()}; "
                "choose another --port, or 0 for any that is free"
            ) from error

    @property
    def bound(self) -> list[str]:
        """ip:port pairs that the sockets are bound to; 0.0.0.0 stands for all interfaces."""
        return list(self._endpoint.bound_sockets())

    @property
    def addresses(self) -> list[str]:
        """ip:port pairs at which others may reach this end, and its relays."""
        return [*self._endpoint.addr().direct_addresses(), *sorted(self._relays)]

    async def use_relay(self, url: str) -> None:
        """Be reachable through a relay, too. Raises LinkError if the URL is none."""
        if url in self._relays:
            return
        try:
            await self._endpoint.insert_relay(RelayConfig(url=url))
        except IrohError as error:
            raise LinkError(f"{url} is not the URL of a relay: {error.message()}") from error
        self._relays.add(url)

    async def seen_at(self, address: str) -> None:
        """Others see this end at ip:port: offer it to those who dial, so that NATs are punched."""
        with contextlib.suppress(IrohError):
            await self._endpoint.add_external_addr(address)

    async def connect(
        self, peer: str, addresses: list[str], carriers: tuple[str, ...] = CARRIERS
    ) -> Link:
        """The first way that works, TCP preferred. Raises LinkError."""
        direct = [address for address in addresses if not is_relay(address)]
        ways: list[asyncio.Task[Link]] = []
        if "quic" in carriers:
            ways.append(asyncio.create_task(self._connect_quic(peer, addresses)))
        if "tcp" in carriers:
            ways += [asyncio.create_task(self._connect_tcp(peer, address)) for address in direct]
        try:
            chosen = await _choose(ways)
        finally:
            for way in ways:
                way.add_done_callback(lambda done: _hang_up(done, chosen))
                way.cancel()
        if chosen is None:
            raise LinkError(f"{peer[:10]} does not answer at {', '.join(addresses)}")
        return chosen

    async def _connect_tcp(self, peer: str, address: str) -> Link:
        return await tcp.connect(self._identity, peer, address, self._head_limit, self.pace)

    async def _connect_quic(self, peer: str, addresses: list[str]) -> Link:
        relays = [address for address in addresses if is_relay(address)]
        for relay in relays:
            await self.use_relay(relay)
        direct = [address for address in addresses if not is_relay(address)]
        try:
            target = EndpointAddr(
                EndpointId.from_string(peer), relays[0] if relays else None, direct
            )
            connection = await asyncio.wait_for(self._endpoint.connect(target, ALPN), STALL)
        except (IrohError, TimeoutError) as error:
            raise LinkError(f"{peer[:10]} does not answer over iroh") from error
        link = QuicLink(connection, self._head_limit, self.pace)
        self._spawn(self._learn_address(link))
        return link

    async def _learn_address(self, link: QuicLink) -> None:
        """A peer that can be reached directly says where it sees us."""
        with contextlib.suppress(LinkError, IrohError):
            if seen := (await link.ping()).seen:
                await self.seen_at(seen)

    async def serve(self, handler: Handler, sizes: Sizes, watch: Watch | None = None) -> None:
        """Answer questions until the endpoint is closed."""
        service = Service(handler, sizes, watch, self._head_limit, self.pace)
        self._listener = tcp.Listener(self._identity, service)
        with contextlib.suppress(OSError):  # the port is taken for TCP: iroh alone, then
            await self._listener.listen(next(a for a in self.bound if not a.startswith("[")))
        while (incoming := await self._endpoint.accept_next()) is not None:
            self._spawn(self._greet(incoming, service))

    async def close(self) -> None:
        if self._listener:
            self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await self._endpoint.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _greet(self, incoming: Any, service: Service) -> None:
        # A stranger's failed handshake raises here, in a task of its own, and ends nothing else.
        with contextlib.suppress(IrohError, TimeoutError):
            address = _address(await incoming.remote_addr())
            if not service.greets(address):
                await incoming.ignore()
                return
            connection = await asyncio.wait_for((await incoming.accept()).connect(), STALL)
            peer = str(connection.remote_id())
            if not service.meets(peer, address):
                connection.close(1, b"")
                return
            while True:
                stream = await connection.accept_bi()
                if service.cut_off(peer):
                    connection.close(1, b"")
                    return
                self._spawn(_reply(peer, address, stream, service))


async def _reply(peer: str, address: str, stream: Any, service: Service) -> None:
    sending = stream.send()
    try:
        read = stream.recv().read_exact
        await service.answer(peer, address, read, sending.write_all, STALL)
        await sending.finish()
    except (IrohError, TimeoutError, LinkError, ValueError, OSError) as error:
        service.fault(peer, error)
        with contextlib.suppress(IrohError):
            await sending.reset(1)


async def _choose(ways: list[asyncio.Task[Link]]) -> Link | None:
    """The first link over TCP; one over iroh if no TCP came within HEAD_START of it."""
    waiting, second = set(ways), None
    while waiting:
        done, waiting = await asyncio.wait(
            waiting,
            timeout=HEAD_START if second else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not done:
            break
        links = [way.result() for way in done if not way.exception()]
        if found := next((link for link in links if link.carrier == "tcp"), None):
            return found
        second = second or next(iter(links), None)
    return second


def _hang_up(done: asyncio.Task[Link], chosen: Link | None) -> None:
    """Close a connection that was made but is not the one taken."""
    if not done.cancelled() and not done.exception() and done.result() is not chosen:
        done.result().close()


def _address(remote: Any) -> str:
    """ip:port that a connection came from; "" where that is not known (through a relay)."""
    return remote.addr if remote.is_IP() else ""
