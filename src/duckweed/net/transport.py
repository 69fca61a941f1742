"""Connections between machines: dial by public key, ask, be answered.

Addresses are ip:port pairs, or URLs of relays (http://..., see relay.py). iroh (QUIC over UDP) makes
and keeps the connection, through NATs and relays if need be; questions with large bodies go over TCP
(tcp.py) where the other side can be reached so, because that is faster on links that lose packets. An
endpoint listens with both at the same port number.

What iroh 1.2 leaves open is closed here: a dead peer shows only after 30 s, so every read has a
deadline of its own and a long wait pings; a failed handshake of a stranger must not end the accept
loop; an old connection must be closed before the same peer is dialled again. What its Python code gets
wrong is mended in iroh_patches.py.
"""

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import iroh
from iroh import (
    Connection,
    EndpointAddr,
    EndpointId,
    EndpointOptions,
    IrohError,
    RelayMode,
    iroh_ffi,
    preset_minimal,
)

from duckweed.net import clock, framing, iroh_patches, tcp
from duckweed.net.framing import Accept, LinkError, Service
from duckweed.net.identity import Identity
from duckweed.net.rate_limits import RateLimits
from duckweed.net.strangers import Strangers
from duckweed.net.timeouts import (
    PING_AFTER,
    PING_ANSWER,
    PORT_CHECK,
    PORT_FREED,
    STALL,
    within,
)
from duckweed.net.token_bucket import Pace

__all__ = ["Endpoint", "Link", "LinkError", "is_loopback", "is_relay"]

log = logging.getLogger(__name__)

ALPN = b"duckweed/1"
LOOPBACK = ("127.", "[::1]", "localhost")
STRANGERS = 512  # QUIC connections of those who are not members
TRIES = 5  # ports that are tried where any will do
TCP_FROM = 64 << 10  # bytes of body from which on TCP is tried


def is_relay(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def is_loopback(address: str) -> bool:
    """Whether ip:port, or the URL of a relay, is on this machine."""
    return address.partition("//")[2].startswith(LOOPBACK) or address.startswith(LOOPBACK)


class Link:
    """A connection to one peer that questions can be asked over. Only this object refers to iroh's for longer than a
    question takes."""

    def __init__(self, connection: Connection, head_limit: int, pace: Pace) -> None:
        self._open: Connection | None = connection
        self._head_limit, self._pace = head_limit, pace
        self.tcp_pool: tcp.TcpPool | None = None  # for large bodies

    async def ask(
        self, head: bytes, body: bytes = b"", *, body_limit: int = 0, patience: float = STALL
    ) -> tuple[bytes, bytes]:
        """Head and body of the answer. patience: seconds until its first byte must be there.

        Raises LinkError.
        """
        asking = asyncio.ensure_future(self._ask(head, body, body_limit, patience))
        try:
            while not (await asyncio.wait({asking}, timeout=PING_AFTER))[0]:
                if head != framing.PING:
                    await self._alive(asking)
            return asking.result()
        finally:
            asking.cancel()

    async def ping(self, patience: float = STALL) -> framing.Pong:
        """Raises LinkError."""
        return framing.pong((await self.ask(framing.PING, patience=patience))[0])

    async def _alive(self, asking: asyncio.Future) -> None:
        """Ping the other side. Raises LinkError if it does not answer within PING_ANSWER."""
        pinging = asyncio.ensure_future(self.ping(PING_ANSWER))
        try:
            await asyncio.wait({asking, pinging}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and pinging.exception():
                raise LinkError(f"the other side answered no ping for {PING_ANSWER:.0f} s")
        finally:
            pinging.cancel()

    async def _ask(
        self, head: bytes, body: bytes, body_limit: int, patience: float
    ) -> tuple[bytes, bytes]:
        try:
            if self.tcp_pool and max(len(body), body_limit) >= TCP_FROM:
                try:
                    return await self.tcp_pool.ask(head, body, body_limit, patience)
                except (tcp.Unreachable, tcp.Dropped) as error:
                    log.debug("a large body goes over QUIC: %s", error)
            stream = await within(STALL, self.connection.open_bi())
            sending, reply = stream.send(), stream.recv()
            await framing.send(sending.write_all, head, body, self._pace)
            await sending.finish()
            answer = await framing.read_head(reply.read_exact, self._head_limit, patience)
            return answer, await framing.read_body(reply.read_exact, body_limit, self._pace)
        except TimeoutError as error:
            raise LinkError("no answer in time") from error
        except IrohError as error:
            raise LinkError(f"connection lost ({_reason(error)})") from error
        except asyncio.IncompleteReadError as error:
            raise LinkError("connection lost (in the middle of an answer)") from error
        except LinkError:
            raise
        except OSError as error:
            raise LinkError(f"connection lost ({error})") from error

    @property
    def connection(self) -> Connection:
        """iroh's. Raises LinkError once this end has closed it."""
        if self._open is None:
            raise LinkError("the connection is closed")
        return self._open

    def direct(self) -> bool:
        """Whether there is a path straight to the other side, not through a relay. Raises LinkError."""
        return any(not path.is_relay for path in self.connection.paths())

    def trip(self) -> float:
        """Seconds of a round trip on the path in use, as far as is known. Raises LinkError."""
        paths = self.connection.paths()
        return min((x.rtt_ms for x in paths if x.is_selected), default=300) / 1e3

    def close(self) -> None:
        """Needed before the same peer is dialled again: else iroh keeps to the dead path."""
        if self.tcp_pool:
            self.tcp_pool.close()
        if self._open is not None:
            with contextlib.suppress(IrohError):
                self._open.close(0, b"")
        self._open = None


class Endpoint:
    """This machine's end: its key, its address, what it serves, how fast bodies may move."""

    def __init__(
        self,
        endpoint: iroh.Endpoint,
        identity: Identity,
        head_limit: int,
        relays: Sequence[str] = (),
    ) -> None:
        self._open: iroh.Endpoint | None = endpoint
        self._identity, self._head_limit = identity, head_limit
        self._tasks: set[asyncio.Task] = set()
        self._links = weakref.WeakSet[Link]()
        self._relays, self._seen = list(relays), ""
        self._strangers = Strangers(STRANGERS)
        self._listener: tcp.Listener | None = None
        self.pace = Pace()
        self.id = identity.id

    @classmethod
    async def bind(
        cls, identity: Identity, head_limit: int, address: str, relays: Sequence[str] = ()
    ) -> "Endpoint":
        """Listen on "ip:port" (port 0: any that TCP has free, too), and at relays. Raises LinkError if that is not
        possible."""
        found = await cls._bind(identity, head_limit, address, relays)
        for _ in range(TRIES if address.endswith(":0") else 0):
            if tcp.is_free(found.ipv4):
                break
            await found.close()
            found = await cls._bind(identity, head_limit, address, relays)
        return found

    @classmethod
    async def _bind(
        cls, identity: Identity, head_limit: int, address: str, relays: Sequence[str]
    ) -> "Endpoint":
        iroh_patches.mend()
        iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())  # type: ignore[arg-type]
        try:
            options = EndpointOptions(
                preset=preset_minimal(),  # nobody's discovery, nobody's relays
                bind_addr=address,
                secret_key=identity.secret,
                alpns=[ALPN],
                relay_mode=RelayMode.custom_from_urls(list(relays)),
            )
        except IrohError as error:
            raise LinkError(f"{', '.join(relays)}: not the URL of a relay") from error
        try:
            return cls(await iroh.Endpoint.bind(options), identity, head_limit, relays)
        except IrohError as error:
            raise LinkError(
                f"cannot listen on {address}: {_reason(error)}; "
                "is the port taken? choose another with --port, or 0 for any"
            ) from error

    @classmethod
    async def toward(
        cls,
        identity: Identity,
        head_limit: int,
        addresses: Sequence[str],
        port: int = 0,
        farther: bool = False,
    ) -> "Endpoint":
        """An endpoint that can reach these addresses, through the relays among them.

        It is bound to loopback if all addresses are on this machine, unless `farther` ones will have to
        be reached too. port: preferred, if it is free or gets free soon: others know this machine by it, and an
        endpoint that was closed a moment ago may hold it a little longer. Raises LinkError.
        """
        here = "127.0.0.1" if all(map(is_loopback, addresses)) and not farther else "0.0.0.0"
        relays = [x for x in addresses if is_relay(x)]
        closes = clock.now() + PORT_FREED
        while port and clock.now() < closes:
            with contextlib.suppress(LinkError):
                return await cls.bind(identity, head_limit, f"{here}:{port}", relays)
            gc.collect()  # what refers to something of the closed endpoint in a circle
            await asyncio.sleep(PORT_CHECK)
        return await cls.bind(identity, head_limit, f"{here}:0", relays)

    @property
    def _endpoint(self) -> iroh.Endpoint:
        """iroh's. Raises LinkError once it is closed."""
        if self._open is None:
            raise LinkError("this end is closed")
        return self._open

    @property
    def bound(self) -> list[str]:
        """ip:port pairs that this end is bound to; 0.0.0.0 and [::] mean every address."""
        return list(self._endpoint.bound_sockets())

    @property
    def ipv4(self) -> str:
        """The one of them that TCP is bound to as well."""
        return next(x for x in self.bound if not x.startswith("["))

    @property
    def addresses(self) -> list[str]:
        """Where others may reach this end: ip:port pairs, then its relays. On loopback that alone."""
        if not all(map(is_loopback, (x for x in self.bound if not x.startswith("[")))):
            return [*self._endpoint.addr().direct_addresses(), *self._relays]
        return [*(x for x in self.bound if is_loopback(x)), *self._relays]

    @property
    def offered(self) -> list[str]:
        """The addresses that fit into a message: limited in number and length."""
        return [x for x in self.addresses if len(x) <= framing.ADDRESS][: framing.ADDRESSES]

    async def seen_at(self, address: str) -> bool:
        """Others see this end at ip:port: offer that address to those who dial, so that NATs are punched.
        True if that is news."""
        if not address or address == self._seen:
            return False
        with contextlib.suppress(IrohError):
            if self._seen:
                await self._endpoint.remove_external_addr(self._seen)
            await self._endpoint.add_external_addr(address)
        self._seen = address
        return True

    async def connect(
        self, peer: str, addresses: list[str], patience: float = STALL, over_tcp: bool = True
    ) -> Link:
        """Directly if that is possible, else through a relay that both ends use. over_tcp: whether large
        bodies may go over TCP. Raises LinkError."""
        direct = [x for x in addresses if not is_relay(x)]
        relay = next((x for x in addresses if x in self._relays), next(iter(self._relays), None))
        try:
            target = EndpointAddr(EndpointId.from_string(peer), relay, direct)
            connection = await within(patience, self._endpoint.connect(target, ALPN))
        except (IrohError, TimeoutError) as error:
            log.info("cannot connect to %s at %s: %s", peer[:10], addresses, _reason(error))
            raise LinkError(f"{peer[:10]} does not answer at {', '.join(addresses)}") from error
        log.debug("connected to %s at %s", peer[:10], addresses)
        link = Link(connection, self._head_limit, self.pace)
        if over_tcp:
            link.tcp_pool = tcp.TcpPool(
                self._identity, peer, direct, self._head_limit, self.pace, link.trip
            )
        self._links.add(link)
        return link

    async def serve(self, accept: Accept, limits: RateLimits | None = None) -> None:
        """Answer questions until the endpoint is closed."""
        service = Service(accept, limits, self._head_limit, self.pace)
        self._listener = tcp.Listener(self._identity, service)
        try:
            await self._listener.listen(self.ipv4)
        except OSError as error:
            log.warning("no TCP at %s (%s): large bodies come over QUIC alone", self.ipv4, error)
        endpoint = self._endpoint  # which gives None once it is closed
        while (incoming := await endpoint.accept_next()) is not None:
            self._spawn(self._greet(incoming, service))

    async def close(self) -> None:
        """Close all links, too, and give the port back: iroh keeps it as long as Python refers to anything of it."""
        endpoint, self._open = self._open, None
        if endpoint is None:
            return
        if self._listener:
            self._listener.close()
        for link in list(self._links):
            link.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:  # they hold streams and connections until they have ended
            await asyncio.wait(tasks, timeout=STALL)
        with contextlib.suppress(TimeoutError):
            await within(STALL, endpoint.close())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _greet(self, incoming: Any, service: Service) -> None:
        # A stranger's failed handshake raises here, in a task of its own, and ends nothing else.
        peer, connection, ticket, task = "a caller", None, 0, asyncio.current_task()
        assert task is not None
        try:
            address = _address(await incoming.remote_addr())
            if not service.greets(address):
                await incoming.ignore()
                return
            ticket = self._strangers.enter(address, task.cancel)
            connection = await within(STALL, (await incoming.accept()).connect())
            peer = str(connection.remote_id())
            if not service.meets(peer, address):
                log.info("%s at %s is cut off: connection refused", peer[:10], address or "a relay")
                connection.close(1, b"")
                return
            log.debug("%s connected from %s", peer[:10], address or "a relay")
            while True:
                if service.knows(peer):
                    self._strangers.leave(ticket)
                stream = await connection.accept_bi()
                if service.cut_off(peer):
                    connection.close(1, b"")
                    return
                self._spawn(_reply(peer, _seen(connection), stream, service))
        except (IrohError, TimeoutError) as error:
            log.debug("connection of %s ended: %s", peer[:10], _reason(error))
        except asyncio.CancelledError:  # others need its place, or this end is closed
            if connection is not None:
                connection.close(1, b"")
            raise
        finally:
            self._strangers.leave(ticket)


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


def _reason(error: IrohError | TimeoutError) -> str:
    """The last line of iroh's message, which is the cause."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.message().splitlines()[-1].strip()


def _seen(connection: Connection) -> str:
    """ip:port at which the other side is at this moment; "" while all goes through a relay."""
    paths = [x for x in connection.paths() if x.is_ip]
    paths.sort(key=lambda x: not x.is_selected)
    return paths[0].remote_addr if paths else ""


def _address(remote: Any) -> str:
    """ip:port that a connection came from; "" where that is not known (through a relay)."""
    return remote.addr if remote.is_IP() else ""
