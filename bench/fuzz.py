"""Nonsense against a run: `python bench/fuzz.py [--messages 10000] [--seed 0]`.

A real run (two peers, a coordinator, each a process, over real links) is bombarded while it trains:
with noise, wrong lengths, truncated and altered messages, other versions, guessed secrets, questions of
strangers; then, in a second run, by a member that hands in forged, replayed, oversized and undecodable
contributions. Then real peers are given such answers by a false coordinator. Everything follows from
the seed but the order in which messages arrive.

Shown: what was sent and how it ended, what the coordinator counted, its memory before and after, and
whether the run took any notice: its last state must be, bit for bit, that of the same run simulated
without any of this. Writes bench/results/fuzz.json.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from iroh import IrohError

from duckweed.merge.round import Announcement, Closed, blob_hash
from duckweed.run.folder import RunFolder, create
from duckweed.run.ledger import Ledger
from duckweed.run.spec import RunSpec, override
from duckweed.swarm import genesis
from duckweed.swarm import messages as m
from duckweed.swarm.asking import standing
from duckweed.swarm.identity import Identity
from duckweed.swarm.invitation import Invitation
from duckweed.swarm.local import LocalRun
from duckweed.swarm.simulation import Simulation
from duckweed.swarm.timing import within
from duckweed.swarm.transport import Endpoint, Link, LinkError

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
PER_KEY = 22  # messages of one key: it is cut off before the last of them
AT_ONCE = 16
PATIENCE = 15.0  # seconds for an answer
ASKING = 4.0  # seconds that a misled peer may go on asking
IN_VAIN = 5  # times in a row that nothing is heard before it is given up
CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip


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


def announcement(**changes: Any) -> Announcement:
    first = Announcement(0, 0, 0, "ab" * 32, 100, 192, 3, 2.0, [0.1] * 20)
    return msgspec.structs.replace(first, **changes)


def sensible(dice: random.Random) -> m.Message:
    """A message that a member might send."""
    return dice.choice(
        [
            m.Join(m.PROTOCOL, "guess"), m.Enquire(m.PROTOCOL), m.Look(m.PROTOCOL, "x"),
            m.Probe(1 << 20, "x"), m.Next(dice.randrange(9), "ab" * 32, True),
            m.Progress("training", 1, 2, 3.0), m.Fetch("ab" * 32), m.Fetch("../ledger.db"),
            m.Leave("bye"), m.Snapshot(), m.Piece(0, dice.randrange(1 << 40)),
            m.Contribute(announcement(), b"s" * 64, m.Timings()),
        ]
    )  # fmt: skip


def stranger(dice: random.Random) -> Thrown:
    """Nonsense of somebody who is not in the run."""
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
        stream = await within(PATIENCE, link._connection.open_bi())
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


class Target:
    """A run that is served, and the process that serves it. source: where those who attack it sit."""

    def __init__(
        self, folder: RunFolder, id: str, addresses: list[str], source: str = "127.0.0.1:0"
    ) -> None:
        self.folder, self.id, self.addresses, self.source = folder, id, addresses, source
        self.pid = int((folder.path / "coordinator.pid").read_text())

    def memory(self) -> int:
        """Bytes that the coordinator holds in memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        return 0

    async def standing(self) -> m.Standing:
        secret = self.folder.read_secret()
        there = Invitation("", self.id, tuple(self.addresses), secret)
        return await standing(there, Identity(os.urandom(32)))


async def bombard(target: Target, count: int, dice: random.Random) -> Counter[tuple[str, str]]:
    """Throw `count` pieces of nonsense, under a new key every PER_KEY; how each kind ended."""
    ended: Counter[tuple[str, str]] = Counter()
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


# --- a member that means harm


def forged(
    dice: random.Random, me: Identity, index: int, task: m.Train, spec: RunSpec, folder: RunFolder,
    total: int,
) -> tuple[str, m.Contribute, bytes]:  # fmt: skip
    """A contribution that must not count, and what is wrong with it."""
    old = [p.read_bytes() for p in folder.blobs.iterdir() if p.is_file() and p.suffix != ".part"]
    blob = dice.choice(old) if old and dice.random() < 0.5 else dice.randbytes(200)
    honest = announcement(
        round=task.round, peer=index, block=task.block, blob=blob_hash(blob), size=len(blob),
        first=task.first, steps=task.steps, tokens=spec.tokens_per_block,
        sizes=[0.1] * total,
    )  # fmt: skip
    changes: dict[str, dict[str, Any]] = {
        "another's name": {"peer": 0},
        "another round": {"round": task.round + dice.choice([-1, 1, 10**9])},
        "another block": {"block": task.block + 1},
        "another blob": {"blob": "00" * 32},
        "another size": {"size": len(blob) + 1},
        "loss that is no number": {"loss": float("nan")},
        "more tokens": {"tokens": 10**12},
        "sizes that are no numbers": {"sizes": [float("inf")] * total},
        "too few sizes": {"sizes": [0.1]},
        "unsigned": {},
        "undecodable or replayed": {},
    }
    kind = dice.choice(list(changes))
    said = msgspec.structs.replace(honest, **changes[kind])
    signature = dice.randbytes(64) if kind == "unsigned" else me.sign(m.signed_part(said))
    return kind, m.Contribute(said, signature, m.Timings(), 1.0, 1), blob


async def betray(target: Target, count: int, dice: random.Random, spec: RunSpec, tensors: int):
    """A member hands in `count` forged contributions, fewer if the run is over before; how each kind
    ended, and what the coordinator had counted before the last of them. Cut off after some of them, it
    waits until it is heard again only as another key."""
    ended: Counter[tuple[str, str]] = Counter()
    counted: dict[str, int] = {}
    sent = in_vain = 0
    while sent < count and in_vain < IN_VAIN:
        in_vain += 1
        me = Identity(dice.randbytes(32))
        endpoint = await Endpoint.bind(me, 1 << 20, target.source)
        with suppress(LinkError):
            link = await endpoint.connect(target.id, target.addresses)
            head, _ = await link.ask(m.encode(m.Join(m.PROTOCOL, target.folder.read_secret())))
            welcome = m.answer(head)
            assert isinstance(welcome, m.Welcome)
            state = "ff" * 32  # it lies about its state too, once there is one to lie about
            for _ in range(PER_KEY):
                run = await target.standing()
                counted = run.refused
                if run.round >= run.rounds:
                    await endpoint.close()
                    return ended, counted
                task = m.Train(run.round, 0, 0, 1, False, 0, spec.inner.steps)
                question = m.Next(run.round, state, False)
                asked = m.answer((await link.ask(m.encode(question), patience=PATIENCE))[0])
                task = asked if isinstance(asked, m.Train) else task
                kind, contribution, blob = forged(
                    dice, me, welcome.index, task, spec, target.folder, tensors
                )
                sent, in_vain = sent + 1, 0
                head, _ = await link.ask(m.encode(contribution), blob, patience=PATIENCE)
                ended[kind, type(m.answer(head)).__name__] += 1
            link.close()
        await endpoint.close()
    return ended, counted


# --- a coordinator that means harm


def answers(dice: random.Random, spec: RunSpec) -> Iterator[tuple[str, bytes, bytes]]:
    """Heads and bodies that a false coordinator gives; the first words are proper."""
    closed = Closed(0, [0], ["ab" * 32], [1], {}, "ab" * 32, [0.1] * 20)
    while True:
        wrong = msgspec.structs.replace(
            closed,
            **dice.choice(
                [
                    {"round": 5}, {"accepted": [10**12]}, {"weights": [-(1 << 62)]},
                    {"scales": [float("nan")]}, {"scales": []}, {"update": None},
                    {"update": "../../etc/passwd"}, {"blobs": []}, {},
                ]
            ),
        )  # fmt: skip
        yield dice.choice(
            [
                ("noise", dice.randbytes(dice.randrange(300)), b""),
                ("a question", m.encode(sensible(dice)), b""),
                ("a false round", m.encode(m.Apply(wrong)), b""),
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


def _given(ended: Counter[tuple[str, str]]) -> int:
    return sum(n for (_, how), n in ended.items() if how == "given")


async def mislead(peer_of: Callable[..., Any], count: int, dice: random.Random, spec: RunSpec):
    """Let `count` answers of a false coordinator reach real peers; how each ended."""
    ended: Counter[tuple[str, str]] = Counter()
    source = answers(dice, spec)
    kind = ""

    async def handle(peer: str, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        nonlocal kind
        match m.question(head):
            case m.Join():
                return m.encode(m.Welcome(0, "", -1, "", "")), b""
            case m.Progress() | m.Leave():
                return m.encode(m.Noted()), b""
        kind, answer, blob = next(source)
        ended[kind, "given"] += 1
        return answer, blob

    me = Identity(dice.randbytes(32))
    false = await Endpoint.bind(me, 1 << 21, "127.0.0.1:0")
    serving = asyncio.create_task(false.serve(handle, lambda peer, head: 1 << 20))
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


# --- the whole


@contextmanager
def served(folder: RunFolder, spec: RunSpec) -> Iterator[tuple[Target, threading.Thread]]:
    """A run with its peers, watched in a thread."""
    with LocalRun(folder, spec, "cpu", 1, spec.rounds.peers) as run:
        serving = run.start()
        watching = threading.Thread(target=lambda: list(run.events()), daemon=True)
        watching.start()
        port = serving["bound"][0].rpartition(":")[2]
        yield Target(folder, serving["id"], [f"127.0.0.1:{port}"]), watching


def specification(base: Path, rounds: int, steps: int) -> RunSpec:
    (base / "config.json").write_text(json.dumps(CONFIG))
    words = [
        "pond",
        "water",
        "leaf",
        "root",
        "green",
        "small",
        "floats",
        "under",
        "the",
        "sun",
        "and",
        "grows",
    ]
    dice = random.Random(1)
    (base / "text.txt").write_text(" ".join(dice.choice(words) for _ in range(6000)))
    return override(
        RunSpec(),
        {
            "data.path": "text.txt", "model.source": "config.json", "model.sequence": 32,
            "inner.steps": steps, "inner.batch": 2, "inner.warmup": 2, "rounds.count": rounds,
            "rounds.peers": 2, "rounds.patience": 2.0, "rounds.evaluate": 4,
            "rounds.evaluate_tokens": 512, "rounds.checkpoint": 2,
        },
    )  # fmt: skip


def found(base: Path, name: str, spec: RunSpec):
    ground = genesis.prepare(spec, base, lambda text: None)
    folder = create(base / "runs", name)
    return folder, ground, genesis.found(spec, ground, folder, "cpu", 1, lambda text: None)


def entries(folder: RunFolder, kind: str) -> list[Any]:
    ledger = Ledger(folder.ledger)
    found = list(ledger.entries(kind))
    ledger.close()
    return found


def main(messages: int, seed: int, base: Path, rounds: int = 40, steps: int = 60) -> dict[str, Any]:
    """Fuzz a run in the folder `base`; what happened."""
    os.environ["XDG_CACHE_HOME"] = str(base / "cache")
    os.chdir(base)
    dice = random.Random(seed)
    spec = specification(base, rounds, steps)
    folder, ground, state = found(base, "simulated", spec)
    layout = genesis.layout(folder)
    expected = Simulation(folder, spec, layout, ground, state, "cpu").run().hash()
    told: dict[str, Any] = {"seed": seed, "messages": messages}

    folder, *_ = found(base, "bombarded", spec)
    with served(folder, spec) as (target, watching):
        first = asyncio.run(bombard(target, messages // 10, dice))  # pools and caches fill
        before, began = target.memory(), time.monotonic()
        ended = asyncio.run(bombard(target, messages - messages // 10, dice)) + first
        told["seconds"] = time.monotonic() - began
        seen = asyncio.run(target.standing())
        if seen.round >= seen.rounds:
            raise SystemExit("the run was over before the bombardment; give it more --rounds")
        told["memory"] = {"before": before, "after": target.memory()}
        told["counted by the coordinator"] = seen.refused
        told["round at the end of the bombardment"] = f"{seen.round} of {seen.rounds}"
        watching.join(600)
    agreed = {e.round: e.body["hash"] for e in entries(folder, "state")}
    told["bombarded"] = table(ended)
    told["bit for bit the run without it"] = agreed.get(spec.rounds.count) == expected
    told["members"] = len(entries(folder, "peer"))

    folder, *_ = found(base, "betrayed", spec)
    with served(folder, spec) as (target, watching):
        while len(asyncio.run(target.standing()).peers) < spec.rounds.peers:
            if not watching.is_alive():
                raise SystemExit("the run ended before its peers were there")
            time.sleep(0.2)
        honest = {x.peer for x in asyncio.run(target.standing()).peers}
        ended, told["counted of the betrayer"] = asyncio.run(
            betray(target, messages // 20, dice, spec, len(layout.names))
        )
        watching.join(900)
    closed = [e.body["closed"] for e in entries(folder, "round")]
    told["betrayed"] = table(ended)
    told["betrayed run: rounds closed"] = len(closed)
    told["forged contributions that counted"] = sum(
        peer not in honest for one in closed for peer in one["accepted"]
    )
    told["misled"] = table(asyncio.run(_mislead(base, spec, ground, layout, messages // 50, dice)))
    return told


async def _mislead(base: Path, spec: RunSpec, ground, layout, count: int, dice: random.Random):
    from duckweed.learn import model as models
    from duckweed.learn.trainer import Trainer
    from duckweed.run import state as states
    from duckweed.swarm.peer import Peer
    from duckweed.swarm.work import Worker

    folder = RunFolder(base / "runs" / "simulated")
    start = states.load(folder.state(0), layout)
    home = base / "misled"
    for part in (home / "states", home / "blobs"):
        part.mkdir(parents=True)
    model = models.build(genesis.configuration(spec, ground), "cpu")
    worker = Worker(
        spec, layout, ground.dataset, Trainer(model, spec.inner, spec.total_steps, "cpu")
    )

    def peer_of(key: str, addresses: list[str]) -> Peer:
        me = Identity(dice.randbytes(32))
        where = (key, addresses)
        return Peer(me, worker, start, home, RunFolder(home), where, "", lambda text: None)

    return await mislead(peer_of, count, dice, spec)


def table(ended: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """kind -> how it ended -> how often."""
    kinds: dict[str, dict[str, int]] = {}
    for (kind, how), count in sorted(ended.items()):
        kinds.setdefault(kind, {})[how] = count
    return kinds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=150)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        told = main(given.messages, given.seed, Path(place), given.rounds)
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))
