"""How long a merged update takes to reach all peers: from the coordinator alone, and from each other.

`python -m bench.scale.sharing` (root): hosts of the laboratory (bench/wan) with emulated links; the
coordinator has such a link too. Writes bench/results/sharing.json.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.wan.lab import Host, Lab, unavailable
from duckweed.merge.round import blob_hash
from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint
from duckweed.round.open_round import Member
from duckweed.run import folder as folders
from duckweed.swarm.blobs.peer_links import PeerLinks
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.coordinator import fetch_groups
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import Client
from duckweed.swarm.protocol.message import encode
from duckweed.swarm.protocol.server import accepting

RESULTS = Path(__file__).parents[1] / "results" / "sharing.json"
LINK = {"up": 10, "down": 50, "delay": 20}  # Mbit/s, ms one way per host: 80 ms there and back
SIZE = 4 << 20  # an update of some 16 million parameters at two bits each
PEERS = (2, 4, 8)
PORT = 7000


async def hub(address: str, count: int, size: int) -> None:
    """Gives one blob to `count` peers, once all are there, and tells what left this host."""
    with tempfile.TemporaryDirectory() as place:
        store = Store(folders.create(Path(place), "hub"))
        data = random.Random(0).randbytes(size)
        store.folder.blob(blob_hash(data)).write_bytes(data)
        members: dict[str, Member] = {}
        given, left = 0, asyncio.Event()

        async def answer(key: str, question: m.AnyQuestion, body: bytes) -> tuple[m.Answer, bytes]:
            nonlocal given
            blob = b""
            said: m.Answer = m.Ack()
            match question:
                case m.Join():
                    members[key] = Member(
                        len(members), key, here=True, addresses=question.addresses
                    )
                case m.IsMember(key=other):
                    said = m.Ack() if other in members else m.Refused("unknown")
                case m.Fetch(whole=whole):
                    while len(members) < count:
                        await asyncio.sleep(0.02)
                    if whole:
                        said, blob = store.blob(question.blob)
                    else:
                        at = fetch_groups.group(list(members.values()), members[key])
                        said = m.BlobManifest(*store.pieces_of(question.blob), at)
                case m.GetBlobPiece():
                    said, blob = store.blob_piece(question)
                case m.Leave():
                    members[key].here = False
                    if not any(x.here for x in members.values()):
                        left.set()
            given += len(blob)
            return said, blob

        endpoint = await Endpoint.bind(Identity(b"h" * 32), 1 << 20, f"{address}:{PORT}")
        serving = asyncio.create_task(endpoint.serve(accepting(m.question, lambda *_: 0, answer)))
        print("ready", flush=True)
        await left.wait()
        await asyncio.sleep(1)
        serving.cancel()
        print(given, flush=True)


async def peer(number: int, coordinator: str, whole: bool, size: int) -> None:
    """Fetches the blob and says how long it took."""
    endpoint = await Endpoint.bind(Identity(bytes([number]) * 32), 1 << 20, f"0.0.0.0:{PORT}")
    link = await endpoint.connect(Identity(b"h" * 32).id, [f"{coordinator}:{PORT}"])
    await endpoint.seen_at((await link.ping()).seen)

    hub = Client(link)
    digest = blob_hash(random.Random(0).randbytes(size))
    with tempfile.TemporaryDirectory() as place:
        near = PeerLinks(endpoint, Store(folders.create(Path(place), "peer")), hub)
        serving = asyncio.create_task(near.serve())
        await link.ask(encode(m.Join(m.PROTOCOL, "", endpoint.addresses)))  # answered without a run
        await hub.ask(m.Fetch(digest), patience=120)  # all are there from here on
        began = time.perf_counter()
        answer, blob = await hub.ask(m.Fetch(digest, whole), body_limit=size, patience=120)
        if isinstance(answer, m.BlobManifest):
            blob = await near.blob(digest, answer)
        seconds = time.perf_counter() - began
        assert blob_hash(blob) == digest
        print(json.dumps({"seconds": seconds, "given": near.given}), flush=True)
        await asyncio.sleep(8)  # others may still need it
        await hub.ask(m.Leave("done"))
        serving.cancel()


def measure(nats: Sequence[str], whole: bool, size: int = SIZE) -> dict[str, Any]:
    """All peers fetch at the same time. nats: what each is behind, see lab.Host."""
    hosts = [Host("hub", **LINK), *(Host(f"p{n}", nat=x, **LINK) for n, x in enumerate(nats))]
    count = len(nats)
    module = [sys.executable, "-m", "bench.scale.sharing"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    with Lab(hosts) as lab:
        at = lab.address("hub")
        server = lab.run("hub", [*module, "hub", at, str(count), str(size)], **pipes)
        server.stdout.readline()  # it listens
        guests = [
            lab.run(f"p{n}", [*module, "peer", str(n + 1), at, str(int(whole)), str(size)], **pipes)
            for n in range(count)
        ]  # fmt: skip
        found = [json.loads(guest.communicate(timeout=300)[0]) for guest in guests]
        given = int(server.communicate(timeout=60)[0])
    return {
        "slowest_seconds": round(max(x["seconds"] for x in found), 2),
        "given_by_coordinator": round(given / size, 2),
        "given_by_a_peer": round(max(x["given"] for x in found) / size, 2),
    }


def main() -> None:
    if reason := unavailable():
        raise SystemExit(f"skipped: {reason}")
    record: dict[str, Any] = {"link": LINK, "bytes": SIZE, "runs": []}
    for count in PEERS:
        for whole in (True, False):
            line = {"peers": count, "from": "coordinator" if whole else "each other"}
            line |= measure([""] * count, whole)
            print(json.dumps(line), flush=True)
            record["runs"].append(line)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "hub":
        asyncio.run(hub(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        asyncio.run(peer(int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1", int(sys.argv[5])))
