"""One question and its answer on an ordered stream of bytes, each as u32 length, head, u64 length, body.

Sizes are checked before anything is read, and every read has a deadline. The ping is answered here too,
the same over every carrier: it says whether the other side is alive, at which address it sees us, and
what time it has.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import STALL, within
from duckweed.net.token_bucket import Pace

log = logging.getLogger(__name__)
ADDRESS, ADDRESSES = 128, 16  # characters of an address, addresses of one machine, at most
PING = b"\x00ping"  # no message begins with a zero byte

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]


class Accepted(NamedTuple):
    """A question whose head was read and is worth reading on."""

    body_limit: int  # most bytes of body that may follow
    answer: Callable[
        [bytes], Awaitable[tuple[bytes, bytes]]
    ]  # its body -> head and body of the answer


Accept = Callable[[str, bytes], Accepted]
"""(public key of the asker, head) -> what to do with the question; raises ValueError to refuse it."""


class LinkError(ConnectionError):
    """The other side cannot be reached, went away, or broke the protocol."""


class Pong(msgspec.Struct):
    """The answer to a ping."""

    seen: str
    """ip:port at which the other side sees us; "" through a relay."""
    clock: float
    """Unix time of the other side, in seconds."""


async def send(write: Write, head: bytes, body: bytes, pace: Pace) -> None:
    """Write one message: head, then body in pieces, no faster than `pace`. Raises TimeoutError, and what
    `write` raises."""
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
    """A head of at most `limit` bytes that begins within `patience` seconds. Raises LinkError,
    TimeoutError, and what `read` raises."""
    size = int.from_bytes(await _exactly(read, 4, patience), "big")
    if size > limit:
        raise LinkError(f"the other side announced a head of {size} bytes; at most {limit} allowed")
    return await _exactly(read, size, STALL)


async def read_body(read: Read, limit: int, pace: Pace) -> bytes:
    """A body of at most `limit` bytes, read no faster than `pace`. Raises as read_head."""
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
    """What an endpoint does for those who dial it, the same over every carrier."""

    def __init__(
        self, accept: Accept, limits: RateLimits | None, head_limit: int, pace: Pace
    ) -> None:
        self.accept, self.limits = accept, limits
        self.head_limit, self.pace = head_limit, pace

    def greets(self, address: str) -> bool:
        return self.limits is None or self.limits.greet(address)

    def meets(self, key: str, address: str) -> bool:
        return self.limits is None or self.limits.met(key, address)

    def knows(self, key: str) -> bool:
        """Whether the holder of a key takes part."""
        return self.limits is None or self.limits.knows(key)

    def cut_off(self, key: str) -> bool:
        return self.limits is not None and self.limits.cut_off(key)

    async def answer(self, key: str, seen: str, read: Read, write: Write, patience: float) -> None:
        """Read one question and answer it. patience: seconds until it must begin. Raises what was
        wrong with it."""
        limit = self.limits.head_limit(key, self.head_limit) if self.limits else self.head_limit
        head = await read_head(read, limit, patience)
        if head == PING:
            await read_body(read, 0, self.pace)
            reply, body = msgspec.msgpack.encode(Pong(seen, time.time())), b""
        else:
            accepted = self.accept(key, head)
            reply, body = await accepted.answer(
                await read_body(read, accepted.body_limit, self.pace)
            )
        await send(write, reply, body, self.pace)

    def fault(self, key: str, error: Exception) -> None:
        """Count a question that was not answered."""
        log.info("no answer to %s: %s (%s)", key[:10], _kind(error), error)
        if self.limits:
            self.limits.fault(key, _kind(error))


def _kind(error: Exception) -> str:
    """What was wrong with a question, in a few words: they are counted."""
    if type(error) is ValueError:
        return str(error)  # raised on purpose by what answers
    if isinstance(error, LinkError):
        return "too long"
    if isinstance(error, ValueError):
        return "malformed"
    return "not answered" if isinstance(error, OSError) else "broken off"


def pong(head: bytes) -> Pong:
    """Decode the answer to a ping. Raises LinkError if it is something else."""
    try:
        return msgspec.msgpack.decode(head, type=Pong)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(
            f"the answer to a ping is not one ({error}); the other side runs another version of duckweed"
        ) from error
