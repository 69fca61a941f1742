"""One coordinator, many peers: `python -m bench.scale.thousand [--peers 1000] [--rounds 3] [--seconds 60]`.

The coordinator is the real one, a process of its own on one core, over real links. The peers are light:
each has its own key, endpoint and connection and says what a real peer says, when it would say it, but
sleeps where a real one trains (uniformly between half and all of `--seconds`) and hands in the same
codes under its own signature in a blob of its own. They hold no weights and share some processes.

Shown for each round: processor seconds of the coordinator (of one core), its memory, bytes, how long
the round took beyond its slowest peer. Writes bench/results/thousand.json.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from duckweed.ledger.entries import GenesisEntry
from duckweed.ledger.ledger import Ledger, entry_hash
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.timeouts import BEAT, PATIENCE, RETRY
from duckweed.net.transport import Endpoint, Link, LinkError
from duckweed.round.open_round import Timings
from duckweed.round.signed import signed_part
from duckweed.run import events, toml
from duckweed.run import folder as folders
from duckweed.run.events import PeerLeft, RoundClosed, Serving
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec, override
from duckweed.swarm.protocol import messages as m
from duckweed.wire import codec_of

RESULTS = Path(__file__).parents[1] / "results" / "thousand.json"
TICK = os.sysconf("SC_CLK_TCK")
LIMIT = 8 << 20  # bytes of an update


def specification(peers: int, rounds: int) -> RunSpec:
    return override(
        RunSpec(),
        {
            "inner.steps": 10, "inner.warmup": 1, "rounds.count": rounds, "rounds.peers": peers,
            "rounds.patience": 15.0,
        },
    )  # fmt: skip


def layout_of(parameters: int) -> Layout:
    """Square matrices with about so many values in all."""
    side = 256
    return Layout.of({f"layer{n}": (side, side) for n in range(max(1, parameters // side**2))})


def found(path: Path, spec: RunSpec, layout: Layout) -> RunFolder:
    """The folder of a run that needs no weights."""
    folder = folders.create(path, "thousand")
    write_atomically(folder.spec, toml.write(spec).encode())
    write_atomically(folder.path / "layout.json", msgspec.json.encode(layout))
    ledger = Ledger(folder.ledger, load_or_create(folder.coordinator_key).sign)
    body = GenesisEntry(
        run=spec.identity, coordinator=load_or_create(folder.coordinator_key).id,
        spec=toml.write(spec), layout=layout.digest(), tokens="00", windows=10**9, state=state(0),
        scales=[1.0] * len(layout.names), parameters=layout.total, data="00",
    )  # fmt: skip
    ledger.append(0, body)
    ledger.close()
    return folder


def state(round_: int) -> str:
    """The hash that all light peers report after a round."""
    return f"{round_:064x}"


class Light:
    """A peer that says what a real one says, and sleeps where it trains."""

    def __init__(self, number: int, spec: RunSpec, layout: Layout, seconds: float) -> None:
        self.identity = Identity(number.to_bytes(32, "big"))
        self.spec, self.layout, self.seconds = spec, layout, seconds
        self.dice = random.Random(number)
        self.progress = m.Progress("starting", 0)
        self.questions = self.failed = 0
        self._link: Link | None = None
        self._lock = asyncio.Lock()

    async def run(self, coordinator: str, addresses: list[str], secret: str) -> None:
        self.endpoint = await Endpoint.bind(self.identity, m.HEAD_LIMIT, "127.0.0.1:0")
        self.meeting = coordinator, addresses
        beat = asyncio.create_task(self._beat())
        try:
            welcome, _ = await self.ask(m.Join(m.PROTOCOL, secret))
            assert isinstance(welcome, m.Welcome), welcome
            assert welcome.genesis
            self.genesis = entry_hash("", 0, "genesis", 0, welcome.genesis.body)
            await self._take_part(welcome.index)
        finally:
            beat.cancel()
            await self.endpoint.close()

    async def _take_part(self, index: int) -> None:
        round_, contributed = 0, False
        while True:
            answer, _ = await self.ask(m.Next(round_, state(round_), contributed))
            match answer:
                case m.Train():
                    self.progress = m.Progress("training", round_, 1, 3.0)
                    await asyncio.sleep(self.seconds * self.dice.uniform(0.5, 1.0))
                    await self._hand_in(index, answer)
                    contributed = True
                case m.Apply(closed=closed):
                    for blob in closed.needed():
                        await self.ask(m.Fetch(blob), limit=LIMIT)
                    round_, contributed = round_ + 1, False
                case m.Stop():
                    return
                case m.Wait():
                    self.progress = m.Progress("waiting", round_)
                case _:
                    raise AssertionError(answer)

    async def _hand_in(self, index: int, task: m.Train) -> None:
        noise = np.random.default_rng([index, task.round]).normal(size=self.layout.total)
        ones = np.ones(len(self.layout.names), np.float32)
        blob = codec_of(self.spec.wire, self.layout).encode(noise, ones).blob
        announcement = Announcement(
            task.round, index, task.block, blob_hash(blob), len(blob),
            self.spec.tokens_per_block // self.spec.inner.steps * task.steps, task.steps, 3.0,
            [1.0] * len(self.layout.names), task.first,
        )  # fmt: skip
        signature = self.identity.sign(signed_part(self.genesis, announcement))
        timings = Timings(train=self.seconds)
        answer, _ = await self.ask(m.Contribute(announcement, signature, timings, 3.0, 1), blob)
        assert isinstance(answer, m.Ack), answer

    async def ask(
        self, question: m.Message, body: bytes = b"", limit: int = 0
    ) -> tuple[m.Answer, bytes]:
        while True:
            try:
                async with self._lock:
                    if self._link is None:
                        self._link = await self.endpoint.connect(*self.meeting)
                    link = self._link
                self.questions += 1
                head, answer = await link.ask(
                    m.encode(question), body, body_limit=limit, patience=PATIENCE
                )
                return m.answer(head), answer
            except LinkError:
                self.failed += 1
                if self._link is link:
                    link.close()
                    self._link = None
                await asyncio.sleep(RETRY)

    async def _beat(self) -> None:
        pause = BEAT
        while True:
            await asyncio.sleep(pause)
            if self._link:
                try:
                    head, _ = await self._link.ask(m.encode(self.progress), patience=PATIENCE)
                except LinkError:
                    self.failed += 1
                    continue
                self.questions += 1
                answer = m.answer(head)
                pause = (answer.beat if isinstance(answer, m.Ack) else 0) or pause


async def crowd(first: int, count: int, given: dict[str, Any]) -> dict[str, int]:
    """`count` light peers in this process."""
    spec = specification(given["peers"], given["rounds"])
    layout = layout_of(given["parameters"])
    peers = [Light(first + n, spec, layout, given["seconds"]) for n in range(count)]
    where = given["id"], given["addresses"], given["secret"]

    async def begin(number: int, peer: Light) -> None:
        await asyncio.sleep(number * given["stagger"])
        await peer.run(*where)

    await asyncio.gather(*(begin(n, peer) for n, peer in enumerate(peers)))
    return {
        "questions": sum(peer.questions for peer in peers),
        "failed": sum(peer.failed for peer in peers),
    }


def processor(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid: int) -> int:
    """Bytes that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def main(peers: int, rounds: int, seconds: float, parameters: int, crowds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        spec, layout = specification(peers, rounds), layout_of(parameters)
        folder = found(Path(place), spec, layout)
        command = [sys.executable, "-m", "duckweed.process.entry", "coordinator", str(folder.path)]
        coordinator = subprocess.Popen(
            [*command, "--address", "127.0.0.1:0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with coordinator:
            return _watch(coordinator, folder, peers, rounds, seconds, layout, crowds)


def _watch(
    coordinator: subprocess.Popen, folder: RunFolder, peers: int, rounds: int, seconds: float,
    layout: Layout, crowds: int,
) -> dict[str, Any]:  # fmt: skip
    assert coordinator.stdout is not None
    told_events = map(events.decode, coordinator.stdout)
    serving = next(event for event in told_events if isinstance(event, Serving))
    port = serving.bound[0].rpartition(":")[2]
    given = {
        "peers": peers, "rounds": rounds, "seconds": seconds, "parameters": layout.total,
        "id": serving.id, "addresses": [f"127.0.0.1:{port}"],
        "secret": folder.read_secret(), "stagger": 0.02 * crowds,
    }  # fmt: skip
    each = -(-peers // crowds)
    others = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.scale.thousand", "--crowd", str(1 + n * each), str(min(each, peers - n * each))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for n in range(crowds)
    ]  # fmt: skip
    for other in others:
        assert other.stdin is not None
        other.stdin.write(json.dumps(given))
        other.stdin.close()
    told: list[dict[str, Any]] = []
    spent, began, left = processor(coordinator.pid), time.monotonic(), 0
    idle = memory(coordinator.pid)
    for event in told_events:
        left += isinstance(event, PeerLeft)
        if not isinstance(event, RoundClosed):
            continue
        now, clock = processor(coordinator.pid), time.monotonic()
        told.append(
            {
                "round": event.round,
                "accepted": len(event.accepted),
                "round seconds": round(event.seconds, 1),
                "wall seconds since the last": round(clock - began, 1),
                "processor seconds": round(now - spent, 2),
                "share of one core": round((now - spent) / (clock - began), 3),
                "memory MB": round(memory(coordinator.pid) / 1e6, 1),
                "traffic": event.traffic,
            }
        )
        print(json.dumps(told[-1]), flush=True)
        spent, began = now, clock
        if len(told) == rounds:
            break
    said = [json.loads(other.stdout.read()) for other in others if other.stdout]
    for other in others:
        other.wait(60)
    return {
        "peers": peers,
        "parameters": layout.total,
        "seconds that the slowest peer trains": seconds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with the light peers",
        "memory MB before anybody came": round(idle / 1e6, 1),
        "rounds": told,
        "peers taken for lost": left,
        "questions": sum(x["questions"] for x in said),
        "questions that failed": sum(x["failed"] for x in said),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--parameters", type=int, default=1 << 16)
    parser.add_argument("--crowds", type=int, default=2)
    parser.add_argument("--crowd", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd:
        print(json.dumps(asyncio.run(crowd(*options.crowd, json.loads(sys.stdin.read())))))
    else:
        told = main(
            options.peers, options.rounds, options.seconds, options.parameters, options.crowds
        )
        RESULTS.write_text(json.dumps(told, indent=1) + "\n")
        print(json.dumps(told, indent=1))
