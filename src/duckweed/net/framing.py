"""One question and its answer on an ordered stream of bytes, each as u32 length, head, u64 length, body.

Sizes are checked before anything is read, and every read has a deadline. The ping is answered here,
alike over every carrier: it tells whether the other side lives, at which address it sees us, and what
its clock says.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from duckweed.net.timeouts import STALL, within
from duckweed.net.token_bucket import Pace

ADDRESS, ADDRESSES = 128, 16  # characters of an address, addresses of one machine, at most
PING = b"\x00ping"  # no message begins with a zero byte

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]

Sizes = Callable[[str, bytes], int]
"""(id of the asker, head) -> most bytes of body that may follow; raises ValueError to refuse."""

Handler = Callable[[str, bytes, bytes], Awaitable[tuple[bytes, bytes]]]
"""(id of the asker, head, body) -> head and body of the answer."""


class LinkError(ConnectionError):
    """The other side cannot be reached, went away, or broke the protocol."""


class Pong(msgspec.Struct):
    """The answer to a ping."""

    seen: str
    """ip:port at which the other side sees us; "" through a relay."""
    clock: float
    """Unix time of the other side, in seconds."""


class Limiter(Protocol):
    """Decides who is listened to: see duckweed.net.rate_limits.RateLimits."""

    def greet(self, address: str) -> bool: ...
    def met(self, key: str, address: str) -> bool: ...
    def cut_off(self, key: str) -> bool: ...
    def fault(self, key: str, why: str) -> bool: ...
    def head_limit(self, key: str, of_members: int) -> int: ...


async def send(write: Write, head: bytes, body: bytes, pace: Pace) -> None:
    """Write one message, as fast as `pace` allows. Raises TimeoutError if the other side stalls."""
    lengths = len(head).to_bytes(4, "big") + head + len(body).to_bytes(8, "big")
    await within(STALL, write(lengths))
    view = memoryview(body)
    for start in range(0, len(body), pace.piece):
        part = bytes(view[start : start + pace.piece])
        await within(6 * STALL, write(part))
        await pace.sent(len(part))


async def _exactly(read: Read, size: int, patience: float) -> bytes:
    return await within(patience, read(size)) if size else b""


async def read_head(read: Read, limit: int, patience: float) -> bytes:
    """The head of a message, which must begin within `patience` seconds. Raises LinkError beyond
    `limit` bytes, TimeoutError on a stall."""
    size = int.from_bytes(await _exactly(read, 4, patience), "big")
    if size > limit:
        raise LinkError(f"the other side announced a head of {size} bytes; at most {limit} allowed")
    return await _exactly(read, size, STALL)


async def read_body(read: Read, limit: int, pace: Pace) -> bytes:
    """The body of a message. Raises LinkError beyond `limit` bytes, TimeoutError on a stall."""
    size = int.from_bytes(await _exactly(read, 8, STALL), "big")
    if size > limit:
        raise LinkError(f"the other side announced {size} bytes; at most {limit} allowed here")
    parts = []
    while size:
        parts.append(await _exactly(read, min(pace.piece, size), STALL))
        size -= len(parts[-1])
        await pace.received(len(parts[-1]))
    return b"".join(parts)


class Service:
    """What an endpoint offers to those who dial it, over whatever carrier they come."""

    def __init__(
        self, handler: Handler, sizes: Sizes, watch: Limiter | None, head_limit: int, pace: Pace
    ) -> None:
        self.handler, self.sizes, self.watch = handler, sizes, watch
        self.head_limit, self.pace = head_limit, pace

    def greets(self, address: str) -> bool:
        return self.watch is None or self.watch.greet(address)

    def meets(self, key: str, address: str) -> bool:
        return self.watch is None or self.watch.met(key, address)

    def cut_off(self, key: str) -> bool:
        return self.watch is not None and self.watch.cut_off(key)

    async def answer(self, key: str, seen: str, read: Read, write: Write, patience: float) -> None:
        """Read one question and answer it. patience: seconds until it must begin. Raises what was
        wrong with it."""
        limit = self.watch.head_limit(key, self.head_limit) if self.watch else self.head_limit
        head = await read_head(read, limit, patience)
        if head == PING:
            await read_body(read, 0, self.pace)
            reply, body = msgspec.msgpack.encode(Pong(seen, time.time())), b""
        else:
            question = await read_body(read, self.sizes(key, head), self.pace)
            reply, body = await self.handler(key, head, question)
        await send(write, reply, body, self.pace)

    def fault(self, key: str, error: Exception) -> None:
        """Count a question that was not answered."""
        if self.watch:
            self.watch.fault(key, _kind(error))


def _kind(error: Exception) -> str:
    """What was wrong with a question, in few words: they are counted."""
    if type(error) is ValueError:
        return str(error)  # words of our own handlers
    if isinstance(error, LinkError):
        return "too long"
    if isinstance(error, ValueError):
        return "malformed"
    return "not answered" if isinstance(error, OSError) else "broken off"


def pong(head: bytes) -> Pong:
    """Decode the answer to a ping. Raises LinkError if it is something else."""
    try:
        return msgspec.msgpack.decode(head, type=Pong)
    except msgspec.DecodeError as error:
        raise LinkError("the other side does not answer pings properly") from error
