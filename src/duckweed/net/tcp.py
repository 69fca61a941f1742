"""Large bodies over TCP with TLS 1.3, to machines that can be reached at an address of their own.

On a link that loses packets TCP with BBR carries many times as much as iroh, which has CUBIC only
(docs/wan.md). Identity is that of iroh: the server's certificate is self-signed with its Ed25519
key, and the key, not a name or a date, is compared. The client signs the server's nonce together
with the server's key, so that no server can use the signature elsewhere. One question at a time per
connection.
"""

import asyncio
import contextlib
import datetime
import logging
import os
import socket
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from duckweed.net import framing
from duckweed.net.framing import LinkError, Service
from duckweed.net.identity import Identity, verify
from duckweed.net.rate_limits import HERE, origin
from duckweed.net.strangers import Strangers, files
from duckweed.net.timeouts import (
    STALL,
    TCP_ACCEPT,
    TCP_DIAL,
    TCP_HURRY,
    TCP_HURRY_TRIPS,
    TCP_IDLE,
    TCP_IDLE_SERVER,
    TCP_RETRY,
    TCP_UNACKNOWLEDGED,
    within,
)
from duckweed.net.token_bucket import Pace

NONCE = 32
SIGNED = b"duckweed tcp 1"
BUFFER = 1 << 20
PER_KEY, PER_ADDRESS, TOTAL = 8, 64, 4096  # connections of one key, of one address, of all
STRANGERS = 128  # connections of those who are not members; half a MiB each while TLS begins
BACKLOG = 128  # connections that wait to be accepted
log = logging.getLogger(__name__)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Unreachable(ConnectionError):
    """The peer cannot be reached over TCP; nothing was sent."""


class Dropped(ConnectionError):
    """The other side closed the connection before it had answered. A crowded listener does so with those whom
    it does not know yet."""


def _certificate(identity: Identity, context: ssl.SSLContext) -> None:
    """A certificate for the peer's key. Its name and dates mean nothing: nobody looks at them."""
    key = Ed25519PrivateKey.from_private_bytes(identity.secret)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "duckweed")])
    begin = datetime.datetime(2020, 1, 1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    made = made.public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(begin).not_valid_after(begin.replace(year=2120))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signed = made.sign(key, None).public_bytes(serialization.Encoding.PEM)
    # ssl reads keys from files only; this one is readable by its owner, and gone at once.
    handle, path = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(private + signed)
        context.load_cert_chain(path)
    finally:
        Path(path).unlink()


def _context(side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _tune(writer: asyncio.StreamWriter) -> None:
    """Notice a dead peer in seconds; BBR where the kernel has it. What is missing is left out."""
    here = writer.get_extra_info("socket")
    wanted = [("TCP_NODELAY", 1), ("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3),
              ("TCP_USER_TIMEOUT", int(1e3 * TCP_UNACKNOWLEDGED)), ("TCP_CONGESTION", b"bbr")]  # fmt: skip
    here.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in wanted:
        with contextlib.suppress(OSError, AttributeError):
            here.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _server_key(writer: asyncio.StreamWriter) -> str:
    """The key in the certificate whose possession the handshake has proved; "" if it is of
    another kind."""
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    try:
        key = x509.load_der_x509_certificate(found or b"").public_key()
    except ValueError:
        return ""
    return key.public_bytes_raw().hex() if isinstance(key, Ed25519PublicKey) else ""


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _peer_name(writer: asyncio.StreamWriter) -> str:
    return _name_of(writer.get_extra_info("peername") or ("", 0))


def _name_of(address: Sequence[Any]) -> str:
    """ip:port of what a socket calls an address."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def dial(identity: Identity, peer: str, address: str) -> Streams:
    """A connection on which this side has named itself. Raises OSError, LinkError, TimeoutError."""
    host, port = _parts(address)
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=BUFFER)
    try:
        if _server_key(writer) != peer:
            raise LinkError(f"somebody else answers at {address}")
        _tune(writer)
        nonce = await reader.readexactly(NONCE)
        signature = identity.sign(SIGNED + bytes.fromhex(peer) + nonce)
        await _write(writer, bytes.fromhex(identity.id) + signature)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


def is_free(address: str) -> bool:
    """Whether a listener could have ip:port."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio's servers do
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


class TcpPool:
    """TCP connections to one peer: each is opened when a question needs it, carries one question at a
    time, and is closed when it has been idle for TCP_IDLE.

    addresses: ip:port pairs of the peer. trip: gives the seconds of a round trip, as far as known.
    """

    def __init__(
        self,
        identity: Identity,
        peer: str,
        addresses: list[str],
        head_limit: int,
        pace: Pace,
        trip: Callable[[], float],
    ) -> None:
        self._identity, self._peer, self._addresses = identity, peer, addresses
        self._trip, self._dials = trip, set[asyncio.Task[Streams]]()
        self._head_limit, self._pace = head_limit, pace
        self._idle: list[tuple[Streams, asyncio.TimerHandle]] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._shut = 0.0  # monotonic time until which no connection is tried
        self.used = 0  # questions that went this way

    async def ask(
        self, head: bytes, body: bytes, body_limit: int, patience: float
    ) -> tuple[bytes, bytes]:
        """Head and body of the answer. Raises Unreachable if the peer cannot be reached over TCP and nothing
        was sent; Dropped, TimeoutError, LinkError or OSError if it broke later."""
        reader, writer = await self._connection()
        try:
            await framing.send(lambda data: _write(writer, data), head, body, self._pace)
            read = reader.readexactly
            answer = await framing.read_head(read, self._head_limit, patience)
            answered = answer, await framing.read_body(read, body_limit, self._pace)
        except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError) as error:
            self._drop(writer)
            raise Dropped(f"{error}") from error
        except BaseException:  # cancelled, too: what follows would be half an answer
            self._drop(writer)
            raise
        self.used += 1
        self._keep((reader, writer))
        return answered

    async def _connection(self) -> Streams:
        while self._idle:
            streams, timer = self._idle.pop()
            timer.cancel()
            if not streams[1].transport.is_closing() and not streams[0].at_eof():
                return streams
            self._drop(streams[1])
        if not self._addresses or time.monotonic() < self._shut:
            raise Unreachable("not reachable over TCP")
        dialling = asyncio.create_task(_first([self._dial(x) for x in self._addresses]))
        self._dials.add(dialling)
        dialling.add_done_callback(self._dials.discard)
        done, _ = await asyncio.wait({dialling}, timeout=TCP_HURRY + TCP_HURRY_TRIPS * self._trip())
        if (
            not done
        ):  # packets are lost or dropped; should it come after all, later questions use it
            dialling.add_done_callback(self._came_late)
            raise Unreachable("not reachable over TCP in time")
        if dialling.cancelled():
            raise Unreachable("closed")
        if not isinstance(error := dialling.exception(), Unreachable):
            found = dialling.result()
            self._open.add(found[1])
            return found
        self._shut = time.monotonic() + TCP_RETRY
        raise error

    def _came_late(self, dialling: asyncio.Task[Streams]) -> None:
        if dialling.cancelled():
            return
        if dialling.exception():
            self._shut = max(self._shut, time.monotonic() + TCP_RETRY)
        else:
            self._open.add(dialling.result()[1])
            self._keep(dialling.result())

    def _keep(self, streams: Streams) -> None:
        timer = asyncio.get_running_loop().call_later(TCP_IDLE, self._drop, streams[1])
        self._idle.append((streams, timer))

    async def _dial(self, address: str) -> Streams:
        return await within(TCP_DIAL, dial(self._identity, self._peer, address))

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        self._idle = [x for x in self._idle if x[0][1] is not writer]
        writer.transport.abort()

    def close(self) -> None:
        self._shut = float("inf")
        for dialling in list(self._dials):
            dialling.cancel()
        for writer in list(self._open):
            self._drop(writer)


async def _first(ways: list[Coroutine[None, None, Streams]]) -> Streams:
    """The first connection that is made; the others are given up. Raises Unreachable if none is."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        for done in asyncio.as_completed(tasks):
            with contextlib.suppress(
                OSError, TimeoutError, ValueError, LinkError, asyncio.IncompleteReadError
            ):
                return await done
    finally:
        for task in tasks:
            task.cancel()
    raise Unreachable("not reachable over TCP")


class _Reader(asyncio.StreamReader):
    """Holds little of what a stranger sends, and BUFFER of what a member does."""

    def widen(self) -> None:
        self._limit = BUFFER


class Listener:
    """Answers questions that come over TCP. At most half of the files that this process may open are
    connections, and few of these are of strangers: the other half is for blobs, ledger and logs."""

    def __init__(self, identity: Identity, service: Service) -> None:
        self._identity, self._service = identity, service
        self._here: Counter[str] = Counter()
        self._from: Counter[str] = Counter()
        self._most = min(TOTAL, files() // 2)
        self.strangers = Strangers(min(STRANGERS, files() // 8))
        self._tasks: set[asyncio.Task] = set()
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    async def listen(self, address: str) -> None:
        """Raises OSError if the address is taken."""
        self._context = _context(ssl.PROTOCOL_TLS_SERVER)
        _certificate(self._identity, self._context)
        host, port = _parts(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        self._socket.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(self._socket))

    def close(self) -> None:
        if self._accepting:
            self._accepting.cancel()
        if self._socket:
            self._socket.close()
        for task in list(self._tasks):
            task.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # no file left, or a caller who went away again
                log.info("a connection could not be accepted: %s", error)
                await asyncio.sleep(TCP_ACCEPT)
                continue
            task = asyncio.create_task(self._meet(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _meet(self, connection: socket.socket) -> None:
        task, writer, ticket = asyncio.current_task(), None, 0
        assert task is not None
        try:
            address = _name_of(connection.getpeername())
        except OSError:
            connection.close()
            return
        where = origin(address)
        self._from[where] += 1
        try:
            full = sum(self._here.values()) >= self._most  # those who are to go do not count
            if full or (where != HERE and self._from[where] > PER_ADDRESS):
                connection.close()
                return
            ticket = self.strangers.enter(address, task.cancel)
            reader, writer = await self._secured(connection)
            await self._serve(reader, writer, ticket)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            return  # a stranger, or a peer that went away: nothing else ends
        except asyncio.CancelledError:
            return
        finally:
            self.strangers.leave(ticket)
            _less(self._from, where)
            if writer:
                writer.transport.abort()
            else:
                # The event loop may not have begun with it yet: it closes what is shut, and no other
                # connection gets its number before.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    async def _secured(self, connection: socket.socket) -> tuple[_Reader, asyncio.StreamWriter]:
        """The connection after the TLS handshake, which has STALL seconds. Raises OSError."""
        loop = asyncio.get_running_loop()
        reader = _Reader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=STALL
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _serve(self, reader: _Reader, writer: asyncio.StreamWriter, ticket: int) -> None:
        seen = _peer_name(writer)
        _tune(writer)
        nonce = os.urandom(NONCE)
        await _write(writer, nonce)
        named = await within(STALL, reader.readexactly(32 + 64))
        key, signature = named[:32].hex(), named[32:]
        if not verify(key, SIGNED + bytes.fromhex(self._identity.id) + nonce, signature):
            return
        if self._here[key] >= PER_KEY or not self._service.meets(key, seen):
            return
        self._here[key] += 1
        try:
            await self._questions(key, seen, reader, writer, ticket)
        finally:
            _less(self._here, key)

    async def _questions(
        self, key: str, seen: str, reader: _Reader, writer: asyncio.StreamWriter, ticket: int
    ) -> None:
        while True:
            known = self._service.knows(key)
            if known:
                self.strangers.leave(ticket)
                reader.widen()
            first = await within(TCP_IDLE_SERVER if known else STALL, reader.readexactly(1))
            if self._service.cut_off(key):
                return
            buffered = bytearray(first)

            async def read(size: int, buffered: bytearray = buffered) -> bytes:
                had = bytes(buffered[:size])
                del buffered[:size]
                return had + await reader.readexactly(size - len(had)) if size > len(had) else had

            try:
                await self._service.answer(
                    key, seen, read, lambda data: _write(writer, data), STALL
                )
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                self._service.fault(key, error)
                return
