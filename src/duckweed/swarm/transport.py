"""Links between machines: dial by public key, ask, be answered. iroh (QUIC) underneath.

One question is one bidirectional stream: u32 length and head, u64 length and body, each way. Sizes
are checked before anything is read. What iroh 1.2 leaves open is closed here: its Python glue copies
outgoing bytes one by one; a dead peer shows only after 30 s, so every read has a deadline of its own;
a failed handshake of a stranger must not end the accept loop; an old connection must be closed before
the same peer is dialled again.
"""

import asyncio
import contextlib
import ctypes
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

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

from duckweed.swarm.identity import Identity
from duckweed.swarm.pace import Pace

ALPN = b"duckweed/1"
STALL = 10.0  # seconds without a byte after which the other side counts as gone


class LinkError(ConnectionError):
    """The other side cannot be reached, went away, or broke the protocol."""


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

Sizes = Callable[[str, bytes], int]
"""(id of the asker, head) -> most bytes of body that may follow; raises ValueError to refuse."""

Handler = Callable[[str, bytes, bytes], Awaitable[tuple[bytes, bytes]]]
"""(id of the asker, head, body) -> head and body of the answer."""


class Watch(Protocol):
    """Who is let in: see duckweed.swarm.limits.Guard."""

    def greet(self, address: str) -> bool: ...
    def met(self, key: str, address: str) -> bool: ...
    def cut_off(self, key: str) -> bool: ...
    def fault(self, key: str, why: str) -> bool: ...
    def head_limit(self, key: str, of_members: int) -> int: ...


async def _send(stream: Any, head: bytes, body: bytes, pace: Pace) -> None:
    await stream.write_all(len(head).to_bytes(4, "big") + head + len(body).to_bytes(8, "big"))
    view = memoryview(body)
    for start in range(0, len(body), pace.piece):
        part = bytes(view[start : start + pace.piece])
        await asyncio.wait_for(stream.write_all(part), 6 * STALL)
        await pace.sent(len(part))
    await stream.finish()


async def _exactly(stream: Any, size: int, patience: float) -> bytes:
    return await asyncio.wait_for(stream.read_exact(size), patience) if size else b""


async def _head(stream: Any, limit: int, patience: float) -> bytes:
    size = int.from_bytes(await _exactly(stream, 4, patience), "big")
    if size > limit:
        raise LinkError(f"the other side announced a head of {size} bytes; at most {limit} allowed")
    return await _exactly(stream, size, STALL)


async def _body(stream: Any, limit: int, pace: Pace) -> bytes:
    size = int.from_bytes(await _exactly(stream, 8, STALL), "big")
    if size > limit:
        raise LinkError(f"the other side announced {size} bytes; at most {limit} allowed here")
    parts = []
    while size:
        parts.append(await _exactly(stream, min(pace.piece, size), STALL))
        size -= len(parts[-1])
        await pace.received(len(parts[-1]))
    return b"".join(parts)


class Link:
    """A connection to one peer that questions can be asked over."""

    def __init__(self, connection: Connection, head_limit: int, pace: Pace) -> None:
        self._connection, self._head_limit, self._pace = connection, head_limit, pace

    async def ask(
        self, head: bytes, body: bytes = b"", *, body_limit: int = 0, patience: float = STALL
    ) -> tuple[bytes, bytes]:
        """Head and body of the answer. patience: seconds until its first byte must be there.

        Raises LinkError.
        """
        try:
            stream = await asyncio.wait_for(self._connection.open_bi(), STALL)
            await _send(stream.send(), head, body, self._pace)
            reply = stream.recv()
            head = await _head(reply, self._head_limit, patience)
            return head, await _body(reply, body_limit, self._pace)
        except TimeoutError as error:
            raise LinkError("no answer in time") from error
        except IrohError as error:
            raise LinkError(f"connection lost ({error.message()})") from error

    def datagram_bytes(self) -> tuple[int, int]:
        """Bytes of UDP payload sent and received over this connection, QUIC's own included."""
        stats = self._connection.stats()
        return stats.udp_tx_bytes, stats.udp_rx_bytes

    def close(self) -> None:
        """Needed before the same peer is dialled again: else iroh keeps to the dead path."""
        with contextlib.suppress(IrohError):
            self._connection.close(0, b"")


class Endpoint:
    """This machine's end: its key, its address, what it serves, how fast bodies may move."""

    def __init__(self, endpoint: iroh.Endpoint, head_limit: int) -> None:
        self._endpoint, self._head_limit = endpoint, head_limit
        self._tasks: set[asyncio.Task] = set()
        self.pace = Pace()
        self.id = str(endpoint.id())

    @classmethod
    async def bind(cls, identity: Identity, head_limit: int, address: str) -> "Endpoint":
        """Listen on address ("127.0.0.1:0": any free port). Raises LinkError if it is taken."""
        iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())  # type: ignore[arg-type]
        options = EndpointOptions(
            preset=preset_minimal(),
            bind_addr=address,
            secret_key=identity.secret,
            alpns=[ALPN],
            relay_mode=RelayMode.disabled(),
        )
        try:
            return cls(await iroh.Endpoint.bind(options), head_limit)
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
        """ip:port pairs at which others may reach this end."""
        return list(self._endpoint.addr().direct_addresses())

    async def connect(self, peer: str, addresses: list[str]) -> Link:
        """Raises LinkError."""
        target = EndpointAddr(EndpointId.from_string(peer), None, addresses)
        try:
            connection = await asyncio.wait_for(self._endpoint.connect(target, ALPN), STALL)
        except (IrohError, TimeoutError) as error:
            raise LinkError(f"{peer[:10]} does not answer at {', '.join(addresses)}") from error
        return Link(connection, self._head_limit, self.pace)

    async def serve(self, handler: Handler, sizes: Sizes, watch: Watch | None = None) -> None:
        """Answer questions until the endpoint is closed."""
        while (incoming := await self._endpoint.accept_next()) is not None:
            self._spawn(self._greet(incoming, handler, sizes, watch))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await self._endpoint.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _greet(
        self, incoming: Any, handler: Handler, sizes: Sizes, watch: Watch | None
    ) -> None:
        # A stranger's failed handshake raises here, in a task of its own, and ends nothing else.
        with contextlib.suppress(IrohError, TimeoutError):
            address = _address(await incoming.remote_addr())
            if watch and not watch.greet(address):
                await incoming.ignore()
                return
            connection = await asyncio.wait_for((await incoming.accept()).connect(), STALL)
            peer = str(connection.remote_id())
            if watch and not watch.met(peer, address):
                connection.close(1, b"")
                return
            while True:
                stream = await connection.accept_bi()
                if watch and watch.cut_off(peer):
                    connection.close(1, b"")
                    return
                self._spawn(self._reply(peer, stream, handler, sizes, watch))

    async def _reply(
        self, peer: str, stream: Any, handler: Handler, sizes: Sizes, watch: Watch | None
    ) -> None:
        limit = watch.head_limit(peer, self._head_limit) if watch else self._head_limit
        try:
            question = stream.recv()
            head = await _head(question, limit, STALL)
            body = await _body(question, sizes(peer, head), self.pace)
            await _send(stream.send(), *await handler(peer, head, body), self.pace)
        except (IrohError, TimeoutError, LinkError, ValueError, OSError) as error:
            if watch:
                watch.fault(peer, _kind(error))
            with contextlib.suppress(IrohError):
                await stream.send().reset(1)


def _address(remote: Any) -> str:
    """ip:port that a connection came from; "" where that is not known (through a relay)."""
    return remote.addr if remote.is_IP() else ""


def _kind(error: Exception) -> str:
    """What was wrong with a question, in few words: they are counted."""
    if type(error) is ValueError:
        return str(error)  # words of our own handlers
    if isinstance(error, LinkError):
        return "too long"
    if isinstance(error, ValueError):
        return "malformed"
    return "broken off" if isinstance(error, IrohError | TimeoutError) else "not answered"
