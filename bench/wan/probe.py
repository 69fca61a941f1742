"""A process inside a host of the laboratory: the ends of links without a run. JSON lines in and out.

    python -m bench.wan.probe hub IP:PORT          an end that can be reached, with a relay beside it
    python -m bench.wan.probe peer ID ADDRESS ...  an end that knows the hub, and does what it is told

A peer prints who and where it is; then each line of its input dials somebody and moves bytes, for
example {"id": ..., "addresses": [...], "bytes": 4000000, "over_tcp": true, "settle": 10}. {"ping": 0.5,
"times": 20} pings the hub for ever, dialling again when that fails, and prints where it was seen.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

from duckweed.net.framing import Accepted
from duckweed.net.identity import Identity
from duckweed.net.relay import Relay, port_beside
from duckweed.net.transport import Endpoint, Link, LinkError

LIMIT = 64 << 20
NOISE = os.urandom(1 << 20)


def tell(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def accept(key: str, head: bytes) -> Accepted:
    size = int(head)

    async def answer(body: bytes) -> tuple[bytes, bytes]:
        return b"here", (NOISE * (size // len(NOISE) + 1))[:size]

    return Accepted(LIMIT, answer)


async def hub(listen: str) -> None:
    relay = Relay()
    _, url = await relay.start(listen.partition(":")[0], port_beside(listen))
    endpoint = await Endpoint.bind(Identity(os.urandom(32)), 1 << 12, listen, [url])
    tell({"id": endpoint.id, "addresses": [listen, url]})
    await endpoint.serve(accept)


async def move(endpoint: Endpoint, task: dict[str, Any]) -> dict[str, Any]:
    """Dial, wait up to `settle` seconds for a direct path, then send and fetch `bytes`."""
    began = time.monotonic()
    link = await endpoint.connect(task["id"], task["addresses"], 30, task.get("over_tcp", True))
    found: dict[str, Any] = {"connected": round(time.monotonic() - began, 3)}
    while not link.direct() and time.monotonic() - began < task.get("settle", 0):
        await link.ping()
        await asyncio.sleep(0.1)
    found |= {"direct": link.direct(), "settled": round(time.monotonic() - began, 3)}
    size = task["bytes"]
    for name, body, back in (("up", bytes(size), 0), ("down", b"", size)):
        began = time.monotonic()
        await link.ask(str(back).encode(), body, body_limit=back, patience=600)
        found[name] = round(8e-6 * size / (time.monotonic() - began), 2)  # Mbit/s
    found["tcp"] = bool(link.tcp_pool and link.tcp_pool.used)
    link.close()
    return found


async def ping(endpoint: Endpoint, hub: tuple[str, list[str]], task: dict[str, Any]) -> None:
    link: Link | None = None
    for _ in range(task["times"]):
        try:
            link = link or await endpoint.connect(*hub, patience=3)
            began = time.monotonic()
            pong = await link.ping(3)
            tell({"seen": pong.seen, "seconds": round(time.monotonic() - began, 3)})
        except LinkError as error:
            tell({"lost": str(error)})
            if link:
                link.close()
            link = None
        await asyncio.sleep(task["ping"])


async def peer(hub: tuple[str, list[str]]) -> None:
    endpoint = await Endpoint.toward(Identity(os.urandom(32)), 1 << 12, hub[1])
    serving = asyncio.create_task(endpoint.serve(accept))
    link = await endpoint.connect(*hub)
    await endpoint.seen_at((await link.ping()).seen)
    tell({"id": endpoint.id, "addresses": endpoint.addresses})
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = json.loads(line)
        try:
            if "ping" in task:
                await ping(endpoint, hub, task)
            else:
                tell(await move(endpoint, task))
        except LinkError as error:
            tell({"failed": str(error)})
    serving.cancel()
    await endpoint.close()


if __name__ == "__main__":
    role, first, *rest = sys.argv[1:]
    asyncio.run(hub(first) if role == "hub" else peer((first, rest)))
