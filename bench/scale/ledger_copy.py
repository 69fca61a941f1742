"""What everybody's copy of the ledger costs in a round: bytes to one peer, and from the leader to all of them.

    python -m bench.scale.ledger_copy        about half a minute

A round in which every peer's work counts, and the state agreed on, in the ledger of a leader that is asked by all
peers; hashes, signatures and losses are drawn at random, since zstd must not find what it would not find in a run.
Leader and copies are those of a run; between them messages are encoded and no bytes are sent.
"""

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from duckweed.ledger.entries import (
    Body,
    Closed,
    Contributed,
    GenesisEntry,
    PeerEntry,
    RoundEntry,
    StateEntry,
)
from duckweed.ledger.ledger import Ledger
from duckweed.net.framing import LinkError
from duckweed.net.identity import Identity
from duckweed.run import folder as folders
from duckweed.run import toml
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.node.node import Node
from duckweed.swarm.peer.ledger_copy import LedgerCopy
from duckweed.swarm.protocol import copied
from duckweed.swarm.protocol import messages as m

PEERS = (2, 4, 10, 100, 1000)
TENSORS = (
    75  # scales in an entry: those of a Llama with 12 blocks and untied head, one for each tensor
)
LEADER = Identity(b"k" * 32)
LAYOUT = Layout.of({"weight": (64, 64)})


def genesis(spec: RunSpec) -> GenesisEntry:
    digest = "a1" * 32
    return GenesisEntry(
        spec.identity, LEADER.id, toml.write(spec), LAYOUT.digest(), digest, 1, digest, [], 1, digest
    )  # fmt: skip


def of_round(number: int, peers: int, draw: random.Random) -> list[tuple[int, Body]]:
    """The entries of one round, each with the round that it belongs to."""

    def digest() -> str:
        return draw.randbytes(32).hex()

    everybody = list(range(peers))
    said = {
        peer: Contributed(
            20_480, draw.gauss(3.2, 0.1), digest(), 1_200_000 + draw.randrange(9999), sizes=digest(),
            signature=draw.randbytes(64).hex(),
        )
        for peer in everybody
    }  # fmt: skip
    closed = Closed(
        number, everybody, [x.blob for x in said.values()], [20_480] * peers, {}, digest(),
        [draw.random() for _ in range(TENSORS)],
    )  # fmt: skip
    blocks = {peer: 123_456 + peer for peer in everybody}
    return [(number, RoundEntry(closed, blocks, said)), (number + 1, StateEntry(digest(), peers))]


class Crowd:
    """A leader, and peers with copies of its ledger in a folder. `sent`: bytes, by who has sent them."""

    def __init__(self, place: Path, peers: int, draw: random.Random) -> None:
        self.spec, self.sent = RunSpec(), Counter[str]()
        folder = folders.create(place, "leader")
        self.ledger = Ledger(folder.ledger, LEADER.sign)
        self.keys = [Identity(draw.randbytes(32)) for _ in range(peers)]
        self.ledger.append(0, genesis(self.spec))
        for index, key in enumerate(self.keys):
            self.ledger.append(0, PeerEntry(index, key.id))
        endpoint: Any = SimpleNamespace(id=LEADER.id, offered=[])
        first: tuple[str, list[str]] = LEADER.id, []
        self.node = Node(
            endpoint, LEADER, folder, self.ledger, self.spec, LAYOUT, first, lambda event: None, print
        )  # fmt: skip
        members = {x.id: SimpleNamespace(here=True, addresses=["127.0.0.1:1"]) for x in self.keys}
        coordinator: Any = SimpleNamespace(
            admission=SimpleNamespace(members=members), rounds=SimpleNamespace(nudge=lambda: None)
        )
        self.node.coordinator = coordinator
        self.copies = {
            x.id: LedgerCopy(place / f"{x.id[:16]}.db", self.spec.identity, x) for x in self.keys
        }
        self.silent: set[str] = set()
        """Peers that give nothing to others."""

    async def begin(self) -> None:
        """All peers have a copy of what is there: the first has fetched it, the others are given the file."""
        first, *others = self.copies.values()
        await self.pull(self.keys[0].id)
        for copy in others:
            shutil.copyfile(first.path, copy.path)

    def append(self, entries: list[tuple[int, Body]]) -> None:
        for round_, body in entries:
            self.ledger.append(round_, body)

    async def pull(self, key: str) -> None:
        """One peer copies what is new."""

        async def ask(question: m.GetEntries, limit: int) -> Any:
            answer, body = await self.node.handle(key, question, b"")
            self.sent[LEADER.id] += len(body) + len(m.encode(answer))
            assert len(body) <= limit
            return answer, body

        async def ask_peer(peer: m.PeerAddress, question: m.GetCopiedEntries, limit: int) -> Any:
            if peer.key in self.silent:
                raise LinkError("not there")
            answer, body = self.copies[peer.key].copied(question)
            self.sent[peer.key] += len(body) + len(m.encode(answer))
            assert len(body) <= limit
            return answer, body

        await self.copies[key].pull(ask, ask_peer)

    async def pull_all(self) -> None:
        """All peers at the same time."""
        await asyncio.gather(*(self.pull(x.id) for x in self.keys))

    def heads(self) -> set[str]:
        """The ends of all copies."""
        found = set()
        for copy in self.copies.values():
            with contextlib.closing(Ledger(copy.path)) as ledger:
                found.add(ledger.head)
        return found


def measured(peers: int, place: Path) -> tuple[int, int, int, int]:
    """Of one round: bytes to one peer as JSON and as they travel, bytes from the leader to all, and the most
    that any peer sends to others."""
    draw = random.Random(peers)
    crowd = Crowd(place, peers, draw)
    asyncio.run(crowd.begin())
    crowd.append(of_round(0, peers, draw))
    plain = len(msgspec.msgpack.encode(crowd.ledger.rows(1 + peers, 1 << 30, crowd.ledger.number)))
    packed = len(crowd.node.replica._packed(1 + peers, crowd.ledger.number))
    crowd.sent.clear()
    copied.RELAYED = (
        1e4  # one machine does the work of all: here a peer is not silent because it is late
    )
    asyncio.run(crowd.pull_all())
    assert crowd.heads() == {crowd.ledger.head}
    most = max((x for key, x in crowd.sent.items() if key != LEADER.id), default=0)
    return plain, packed, crowd.sent[LEADER.id], most


def main() -> None:
    print(
        "| peers | bytes a round | as they travel | from the leader to all | most from one peer |"
    )
    print("|---|---|---|---|---|")
    for peers in PEERS:
        with tempfile.TemporaryDirectory() as place:
            found = measured(peers, Path(place))
        print(f"| {peers:,} | " + " | ".join(f"{x:,}" for x in found) + " |")


if __name__ == "__main__":
    main()
