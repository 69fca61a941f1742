"""A coordinator that means harm, and real peers that believe that it is theirs."""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench.fuzz.target import IN_VAIN, PATIENCE, Ended, sensible, table
from duckweed.ledger.entries import Closed, GenesisEntry, encode
from duckweed.ledger.ledger import Row, entry_hash
from duckweed.net.framing import Accepted
from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint
from duckweed.round import founding
from duckweed.round.worker import Worker
from duckweed.run import state as states
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.peer.peer import Peer
from duckweed.swarm.protocol import messages as m

PeerOf = Callable[[str, list[str]], Peer]
"""A peer for the coordinator of this key at these addresses."""

ASKING = 4.0  # seconds that a misled peer may go on asking


def answers(dice: random.Random, spec: RunSpec) -> Iterator[tuple[str, bytes, bytes]]:
    """Heads and bodies that a false coordinator gives; the first words are proper."""
    closed = Closed(0, [0], ["ab" * 32], [1], {}, "ab" * 32, [0.1] * 20)
    while True:
        wrong = msgspec.structs.replace(
            closed,
            **dice.choice(
                [
                    {"round": 5}, {"accepted": [10**12]}, {"weights": [-(1 << 62)]},
                    {"shared": [float("nan")]}, {"shared": []}, {"update": None},
                    {"update": "../../etc/passwd"}, {"blobs": []}, {},
                ]
            ),
        )  # fmt: skip
        yield dice.choice(
            [
                ("noise", dice.randbytes(dice.randrange(300)), b""),
                ("a question", m.encode(sensible(dice)), b""),
                ("a false round", m.encode(m.Apply(wrong)), b""),
                ("states and files to keep", m.encode(m.Apply(wrong, (0, 1 << 20), ("ab" * 32,))), b""),
                (
                    "an audit of nothing",
                    m.encode(m.Audit(7, 0, 0, 0, 4, 512, 2.5, "ab" * 32, "", "cd" * 32)),
                    b"",
                ),
                ("no block", m.encode(m.Train(0, -1, 0, 1, False, 0, -5)), b""),
                ("a body nobody asked for", m.encode(m.Wait("x")), bytes(10_000)),
                ("a blob of noise", m.encode(m.Blob()), dice.randbytes(100)),
                ("head too long", bytes((1 << 20) + 1), b""),
            ]
        )  # fmt: skip


def _outcome(running: asyncio.Task[str]) -> str:
    """How a peer ended that was told to when it had asked for long enough."""
    if not running.done():
        return "the peer would not end"
    if running.cancelled():
        return "the peer went on asking"
    return f"the peer stopped: {type(running.exception()).__name__}"


def _given(ended: Ended) -> int:
    return sum(n for (_, how), n in ended.items() if how == "given")


async def mislead(peer_of: PeerOf, count: int, dice: random.Random, spec: RunSpec):
    """Let `count` answers of a false coordinator reach real peers; how each ended."""
    ended = Ended()
    source = answers(dice, spec)
    kind = ""

    async def handle(peer: str, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        nonlocal kind
        match m.question(head):
            case m.Join():
                return m.encode(m.Welcome(0, "", -1, "", "", genesis=genesis)), b""
            case m.Progress() | m.Leave():
                return m.encode(m.Ack()), b""
        kind, answer, blob = next(source)
        ended[kind, "given"] += 1
        return answer, blob

    me = Identity(dice.randbytes(32))
    shown = GenesisEntry(spec.identity, me.id, "", "", "", 1, "", [], 1, "")
    body = encode(shown)
    digest = entry_hash("", 0, shown.kind, 0, body)
    genesis = Row(0, shown.kind, 0, body, me.sign(digest.encode()).hex())
    false = await Endpoint.bind(me, 1 << 21, "127.0.0.1:0")
    serving = asyncio.create_task(
        false.serve(lambda peer, head: Accepted(1 << 20, lambda body: handle(peer, head, body)))
    )
    in_vain = 0
    while (given := _given(ended)) < count:
        if in_vain == IN_VAIN:
            raise SystemExit(f"{IN_VAIN} peers in a row asked nothing: {table(ended)}")
        peer = peer_of(me.id, false.addresses)
        running = asyncio.create_task(peer.run())
        await asyncio.wait({running}, timeout=ASKING)
        if not running.done():
            running.cancel()
            await asyncio.wait({running}, timeout=PATIENCE)
        ended[kind, _outcome(running)] += 1
        in_vain = in_vain + 1 if given == _given(ended) else 0
    serving.cancel()
    await false.close()
    return ended


def peers_of(
    founded: RunFolder, spec: RunSpec, ground: founding.Ground, layout: Layout, home: Path,
    dice: random.Random,
) -> PeerOf:  # fmt: skip
    """Peers of a run that has been founded, under a new key each, which share the folder `home`."""
    start = states.load(founded.state(0), layout)
    for part in (home / "states", home / "blobs"):
        part.mkdir(parents=True)
    worker = Worker(spec, layout, founding.learner(spec, ground, "cpu"))

    def peer_of(key: str, addresses: list[str]) -> Peer:
        me, where = Identity(dice.randbytes(32)), (key, addresses)
        return Peer(me, worker, start, home, RunFolder(home), where, "", lambda text: None)

    return peer_of
