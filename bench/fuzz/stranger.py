"""Nonsense of somebody who is not in the run: raw bytes, by the thousand."""

import asyncio
import random

import msgspec
from iroh import IrohError

from bench.fuzz.target import PATIENCE, PER_KEY, Ended, Target, sensible
from duckweed.net.identity import Identity
from duckweed.net.timeouts import within
from duckweed.net.transport import Endpoint, Link, LinkError
from duckweed.swarm.protocol import messages as m

AT_ONCE = 16


class Thrown(msgspec.Struct):
    """One piece of nonsense: raw bytes of a stream, and whether the stream is ended properly."""

    kind: str
    raw: bytes
    reset: bool = False


def framed(head: bytes, body: bytes = b"", head_size: int | None = None, size: int | None = None):
    """Head and body as they travel; the sizes announced may be others than the true ones."""
    announced = len(head) if head_size is None else head_size
    return (
        announced.to_bytes(4, "big")
        + head
        + (len(body) if size is None else size).to_bytes(8, "big")
        + body
    )


def stranger(dice: random.Random) -> Thrown:
    """One piece."""
    head = m.encode(sensible(dice))
    big = 1 << dice.randrange(21, 62)
    cut = dice.randrange(len(head))
    flipped = bytearray(head)
    flipped[dice.randrange(len(head))] ^= 1 << dice.randrange(8)
    schema = {"is": dice.choice(["join", "next", "evil", 7]), "round": dice.choice([-1, 1.5, "x"])}
    return dice.choice(
        [
            Thrown("noise", dice.randbytes(dice.randrange(400))),
            Thrown("noise, then reset", dice.randbytes(dice.randrange(40)), reset=True),
            Thrown("head too long", framed(b"", head_size=min(big, (1 << 32) - 1))),
            Thrown("head too long for a stranger", framed(bytes(5000))),
            Thrown("body too long", framed(head, size=big)),
            Thrown("body of a question without one", framed(head, bytes(1000))),
            Thrown("stream cut", framed(head)[: dice.randrange(4 + len(head) + 7)]),
            Thrown("message cut", framed(head[:cut])),
            Thrown("one bit flipped", framed(bytes(flipped))),
            Thrown("other schema", framed(msgspec.msgpack.encode(schema))),
            Thrown("deep nesting", framed(b"\x91" * 4000)),
            Thrown("other version", framed(m.encode(m.Join(dice.randrange(100, 200), "")))),
            Thrown("guessed secret", framed(m.encode(m.Join(m.PROTOCOL, str(dice.random()))))),
            Thrown("question of a stranger", framed(head)),
        ]
    )  # fmt: skip


async def throw(link: Link, thrown: Thrown) -> str:
    """How it ended: "answered", "refused", "reset" or "cut off"."""
    try:
        stream = await within(PATIENCE, link.connection.open_bi())
        if thrown.raw:
            await within(PATIENCE, stream.send().write_all(thrown.raw))
        if thrown.reset:
            await stream.send().reset(3)
            return "reset by us"
        await stream.send().finish()
        size = int.from_bytes(await within(PATIENCE, stream.recv().read_exact(4)), "big")
        answer = m.answer(await within(PATIENCE, stream.recv().read_exact(size)))
        return "refused" if isinstance(answer, m.Refused) else f"answered: {type(answer).__name__}"
    except TimeoutError:
        return "no answer"
    except IrohError as error:
        return "stream reset" if "reset" in error.message().lower() else "cut off"


async def bombard(target: Target, count: int, dice: random.Random) -> Ended:
    """Throw `count` pieces of nonsense, under a new key every PER_KEY; how each kind ended."""
    ended = Ended()
    batches = [[stranger(dice) for _ in range(PER_KEY)] for _ in range(-(-count // PER_KEY))]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one_key(batch: list[Thrown]) -> None:
        async with gate, asyncio.timeout(10 * PATIENCE):
            endpoint = await Endpoint.bind(Identity(dice.randbytes(32)), 1 << 20, target.source)
            try:
                link = await endpoint.connect(target.id, target.addresses)
                for thrown in batch:
                    how = await throw(link, thrown)
                    ended[thrown.kind, how] += 1
                link.close()
            except LinkError:
                ended["connection", "not answered"] += 1
            finally:
                await endpoint.close()

    await asyncio.gather(*(one_key(batch) for batch in batches))
    return ended
