"""A flood of strangers: TCP connections to a coordinator, with nothing, a part of a greeting, or noise in them."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

from bench.fuzz.target import Target

AT_ONCE = 200  # connections that are open at the same time
HELLO = bytes.fromhex("16030102000100010001fc0303")  # the first bytes of a TLS handshake


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def flood(target: Target, count: int, dice: random.Random) -> Counter[str]:
    """Open `count` connections and leave them open for as long as the other side does, and until others
    need their place here. How they ended, and the most files that the coordinator had open."""
    host, _, port = target.addresses[0].rpartition(":")
    ended: Counter[str] = Counter()
    waiting: list[asyncio.StreamWriter] = []
    for number in range(count):
        said = dice.choice([b"", HELLO, dice.randbytes(50), HELLO + dice.randbytes(500)])
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 5)
            writer.write(said)
            waiting.append(writer)
            ended["opened"] += 1
        except (OSError, TimeoutError):
            ended["not answered"] += 1
        if len(waiting) > AT_ONCE:
            gone = waiting.pop(0)
            ended[
                "closed by the other side" if gone.transport.is_closing() else "closed by us"
            ] += 1
            gone.transport.abort()
        if number % 50 == 0:
            ended["most files open"] = max(ended["most files open"], open_files(target.pid))
            await asyncio.sleep(0)
    for writer in waiting:
        with suppress(OSError):
            writer.transport.abort()
    return ended
