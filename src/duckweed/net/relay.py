"""A relay: two machines that cannot reach each other both dial it, and it passes on their packets.

Speaks the protocol of iroh's own relays (iroh-relay, subprotocols iroh-relay-v1 and -v2, as found in
iroh-relay/src/protos of the iroh project): a WebSocket at /relay; the relay sends 16 random bytes, the
client answers with its public key and a signature over a BLAKE3 key derived from them; from then on a
frame is a tag, a key of 32 bytes (receiver when sent, sender when delivered) and a packet. The packets
are QUIC, encrypted from end to end: a relay reads nothing and can change nothing.
"""

import asyncio
import contextlib
import http
import os
from collections.abc import Callable, Sequence
from typing import Any

from blake3 import blake3
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from duckweed.net.framing import LinkError
from duckweed.net.identity import verify
from duckweed.net.strangers import Strangers, files
from duckweed.net.timeouts import RELAY_HELLO, RELAY_PING, within
from duckweed.net.token_bucket import Bucket

CHALLENGE, AUTH, CONFIRMED, DENIED = range(4)
SEND, SEND_BATCH, RECEIVED, RECEIVED_BATCH = range(4, 8)
PING, PONG = 9, 10
CONTEXT = "iroh-relay handshake v1 challenge signature"
VERSIONS = ("iroh-relay-v2", "iroh-relay-v1")
FRAME = (1 << 16) + 64  # most bytes of a frame: a packet batch of iroh is at most 64 KiB
QUEUE = 512  # packets that wait for one client; more are dropped, as a router drops them
CLIENTS, STRANGERS = (
    4096,
    512,
)  # connections of all, of those that no packet of a member came through


def port_beside(listen: str) -> int:
    """The port of a relay beside a coordinator that listens on ip:port: the next one, or any."""
    port = int(listen.rpartition(":")[2])
    return port + 1 if port else 0


def url_for(addresses: Sequence[str], port: int) -> str:
    """Where others find a relay on the machine with these ip:port pairs: at the first of them, since
    all must use the same URL."""
    first = next((x for x in addresses if not x.startswith("[")), addresses[0])
    return f"http://{first.rpartition(':')[0]}:{port}"


def ports(addresses: Sequence[str]) -> tuple[str, int]:
    """Where a coordinator that was found at these addresses of an invitation listened (ip:port), and
    the port of the relay beside it."""
    direct = [x for x in addresses if "://" not in x]
    if not direct:
        return "0.0.0.0:0", 0
    urls = [x for x in addresses if "://" in x]
    host, _, port = direct[-1].rpartition(":")  # what was named by hand comes first
    here = url_for(direct, 0).rpartition(":")[0]
    beside = next((x.rpartition(":")[2] for x in urls if x.startswith(f"{here}:")), "")
    loopback = host.startswith("127.")
    return f"{host if loopback else '0.0.0.0'}:{port}", int(beside) if beside.isdigit() else 0


class Relay:
    """The clients that are here, and what was passed on. knows: whether a key (64 hex digits) is of
    the run; one end of every packet must be, so that strangers can reach a run and cannot use its
    relay among themselves. None: anybody. rate: bytes a second that one client may send."""

    def __init__(self, knows: Callable[[str], bool] | None = None, rate: float = 12.5e6) -> None:
        self.knows, self.rate = knows, rate
        self.packets = self.bytes = self.dropped = self.refused = 0
        self._queues: dict[bytes, asyncio.Queue[bytes | None]] = {}
        self._strangers = Strangers(min(STRANGERS, files() // 8))
        self._server: Server | None = None

    @property
    def clients(self) -> int:
        return len(self._queues)

    async def listen(self, host: str, port: int) -> int:
        """Start to serve; returns the port. Raises OSError if it is taken."""
        self._server = await serve(
            self._client, host, port,
            process_request=_no_websocket, select_subprotocol=_version,
            create_connection=self._caller,  # type: ignore[arg-type]  # it is only called
            compression=None, max_size=FRAME, max_queue=16, ping_interval=RELAY_PING, ping_timeout=RELAY_PING,
        )  # fmt: skip
        return next(iter(self._server.sockets)).getsockname()[1]

    async def start(self, host: str, port: int) -> tuple[int, str]:
        """Listen; returns the port, and the URL for this machine. host: an IPv6 address in brackets. Raises LinkError if
        the port cannot be had."""
        try:
            port = await self.listen(host.strip("[]"), port)
        except OSError as error:
            number = error.errno or 0  # negative where a name was looked for
            why = os.strerror(number).lower() if number > 0 else error
            raise LinkError(f"TCP port {port} for the relay cannot be had: {why}") from error
        everywhere = host in ("", "0.0.0.0", "[::]", "::")
        return port, f"http://{'127.0.0.1' if everywhere else host}:{port}"

    async def close(self) -> None:
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    def _caller(self, *words: Any, **more: Any) -> "_Caller":
        return _Caller(self._strangers, *words, **more)

    async def _client(self, socket: ServerConnection) -> None:
        try:
            key = await self._admit(socket)
            if key is None:
                self.refused += 1
                await socket.send(bytes([DENIED]) + b"\x06denied")
                return
            await socket.send(bytes([CONFIRMED]))
            await self._serve(socket, key)
        except (ConnectionClosed, TimeoutError):
            return

    async def _admit(self, socket: ServerConnection) -> bytes | None:
        """The key that the client has proved to hold; None if it has not, or may not come in."""
        challenge = os.urandom(16)
        await socket.send(bytes([CHALLENGE]) + challenge)
        answer = await within(RELAY_HELLO, socket.recv(decode=False))
        if len(answer) != 98 or answer[0] != AUTH or answer[33] != 64:
            return None
        key, signature = bytes(answer[1:33]), bytes(answer[34:])
        if len(self._queues) >= min(CLIENTS, files() // 4) and key not in self._queues:
            return None
        signed = blake3(challenge, derive_key_context=CONTEXT).digest()
        return key if verify(key.hex(), signed, signature) else None

    async def _serve(self, socket: ServerConnection, key: bytes) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)
        if (before := self._queues.get(key)) is not None:
            _end(before)  # the same peer again, after its network changed
        self._queues[key] = queue
        writer = asyncio.create_task(_write(socket, queue))
        pace = Bucket(self.rate, self.rate)
        try:
            async for frame in socket:
                if isinstance(socket, _Caller) and self._may(key):
                    self._strangers.leave(socket.ticket)
                if isinstance(frame, bytes) and frame:
                    self._take(frame, key, queue)
                    await pace.spend(len(frame))
        finally:
            writer.cancel()
            if self._queues.get(key) is queue:
                del self._queues[key]

    def _take(self, frame: bytes, key: bytes, own: asyncio.Queue) -> None:
        if frame[0] in (SEND, SEND_BATCH) and len(frame) > 33:
            self.packets += 1
            self.bytes += len(frame)
            target = self._queues.get(frame[1:33])
            if target is None or target.full() or not self._may(key, frame[1:33]):
                self.dropped += 1
            else:
                target.put_nowait(bytes([frame[0] + RECEIVED - SEND]) + key + frame[33:])
        elif frame[0] == PING and len(frame) <= 64 and not own.full():
            own.put_nowait(bytes([PONG]) + frame[1:])

    def _may(self, *ends: bytes) -> bool:
        return self.knows is None or any(self.knows(key.hex()) for key in ends)


class _Caller(ServerConnection):
    """A connection that is one of a stranger until its key is known to be of the run."""

    def __init__(self, strangers: Strangers, *words: Any, **more: Any) -> None:
        super().__init__(*words, **more)
        self._strangers, self.ticket = strangers, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        self.ticket = self._strangers.enter(f"{host}:{port}", transport.abort)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._strangers.leave(self.ticket)
        super().connection_lost(exc)


def _end(queue: asyncio.Queue) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(None)


async def _write(socket: ServerConnection, queue: asyncio.Queue) -> None:
    with contextlib.suppress(ConnectionClosed):
        while (frame := await queue.get()) is not None:
            await socket.send(frame)
        await socket.close()


def _no_websocket(connection: ServerConnection, request: Any) -> Any:
    path = request.path.partition("?")[0]
    if path in ("/", "/ping", "/generate_204"):
        return connection.respond(http.HTTPStatus.OK, "a duckweed relay\n")
    if path != "/relay":
        return connection.respond(http.HTTPStatus.NOT_FOUND, "nothing here\n")
    return None


def _version(_: ServerConnection, offered: Any) -> Any:
    return next((version for version in VERSIONS if version in offered), None)
