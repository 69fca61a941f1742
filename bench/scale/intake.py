"""A coordinator of a model of a billion parameters, over its real intake: `python -m bench.scale.intake [--peers 16]
[--millions 1000] [--rule mean]`.

The coordinator is the real one, a process of its own over real links, with its ledger and disk. Light peers
(bench/scale/thousand.py), all in this process, hand in contributions that were made before, one after the other, and ask
what is next until the round has closed. They apply nothing. Measured: seconds from the last contribution's acknowledgement until the first peer hears
how the round has closed; the most memory that the coordinator had; its processor seconds.
Writes bench/results/intake.json and prints a row of the table of docs/merge.md.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.scale import thousand
from bench.scale.sum import memory
from bench.wire.vector import Vector, synthetic
from duckweed.ledger.entries import Closed, GenesisEntry
from duckweed.ledger.ledger import Ledger
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.net.identity import load_or_create
from duckweed.round.open_round import Timings
from duckweed.round.signed import signed_part
from duckweed.run import events, toml
from duckweed.run import folder as folders
from duckweed.run.events import Serving
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.spec import RunSpec, override
from duckweed.swarm.protocol import messages as m
from duckweed.wire import codec_of

RESULTS = Path(__file__).parents[1] / "results" / "intake.json"


def specification(peers: int, rule: str) -> RunSpec:
    facts = {"inner.steps": 10, "inner.warmup": 1, "rounds.count": 2, "rounds.peers": peers}
    return override(RunSpec(), facts | {"rounds.patience": 3600.0, "merge.rule": rule})


def make(place: Path, spec: RunSpec, vector: Vector, peers: int) -> list[float]:
    """One file for each contribution, which are one vector, shifted; the sizes that all announce, [T]."""
    codec = codec_of(spec.wire, vector.layout)
    for number in range(peers):
        blob = codec.encode(np.roll(vector.values, number), vector.scales).blob
        (place / f"{number}.blob").write_bytes(blob)
    return codec.announce(vector.values)


def found(place: Path, spec: RunSpec, vector: Vector) -> RunFolder:
    """The folder of a run that needs no weights."""
    folder, layout = folders.create(place, "intake"), vector.layout
    write_atomically(folder.spec, toml.write(spec).encode())
    write_atomically(folder.path / "layout.json", msgspec.json.encode(layout))
    key = load_or_create(folder.coordinator_key)
    body = GenesisEntry(
        run=spec.identity, coordinator=key.id, spec=toml.write(spec), layout=layout.digest(), tokens="00",
        windows=10**9, state=thousand.state(0), scales=vector.scales.tolist(), parameters=layout.total, data="00",
    )  # fmt: skip
    ledger = Ledger(folder.ledger, key.sign)
    ledger.append(0, body)
    ledger.close()
    return folder


class Peer(thousand.Light):
    """Hands in what lies in a file, when it is its turn."""

    blobs: Path
    sizes: list[float]
    turn: float  # seconds between a contribution and the next
    handed: list[float]  # when each was acknowledged, of all peers

    async def _take_part(self, index: int) -> None:
        while True:
            answer, _ = await self.ask(
                m.Next(0, thousand.state(0), self.progress.doing == "waiting")
            )
            if isinstance(answer, m.Train):
                self.progress = m.Progress("training", 0, 1, 3.0)
                await asyncio.sleep(self.turn * answer.block)
                await self._hand_in(index, answer)
                self.progress = m.Progress("waiting", 0)
            if isinstance(answer, m.Apply):
                self.closed: Closed = answer.closed
                return

    async def _hand_in(self, index: int, task: m.Train) -> None:
        blob = await asyncio.to_thread((self.blobs / f"{index}.blob").read_bytes)
        said = Announcement(
            0, index, task.block, blob_hash(blob), len(blob), self.spec.tokens_per_block, task.steps, 3.0,
            self.sizes, task.first,
        )  # fmt: skip
        signature = self.identity.sign(signed_part(self.genesis, said))
        question = m.Contribute(said, signature, Timings(train=self.turn), 3.0, 1)
        answer, _ = await self.ask(question, blob)
        assert isinstance(answer, m.Ack), answer
        self.handed.append(time.monotonic())


async def play(peers: list[Peer], where: tuple[str, list[str], str]) -> float:
    """Seconds from the last acknowledgement until all have heard that the round has closed."""
    await asyncio.gather(*(peer.run(*where) for peer in peers))
    return time.monotonic() - max(peers[0].handed)


def measure(count: int, millions: int, rule: str, turn: float, threads: int) -> dict[str, Any]:
    spec = specification(count, rule)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        vector = synthetic(millions, 1)
        sizes, folder = make(place, spec, vector, count), found(place, spec, vector)
        vector = vector._replace(values=np.zeros(0, np.float32))
        size = (place / "0.blob").stat().st_size
        peers = [Peer(number + 1, spec, vector.layout, turn) for number in range(count)]
        handed: list[float] = []
        for peer in peers:
            peer.blobs, peer.sizes, peer.turn, peer.handed = place, sizes, turn, handed
        command = [sys.executable, "-m", "duckweed.process.entry", "coordinator", str(folder.path)]
        environment = os.environ | {"DUCKWEED_THREADS": str(threads)}
        with subprocess.Popen(
            [*command, "--address", "127.0.0.1:0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        ) as coordinator:  # fmt: skip
            assert coordinator.stdout is not None
            serving = next(
                event
                for event in map(events.decode, coordinator.stdout)
                if isinstance(event, Serving)
            )
            # What it tells is read on, or it would wait for its reader.
            threading.Thread(target=coordinator.stdout.read, daemon=True).start()
            port = serving.bound[0].rpartition(":")[2]
            where = serving.id, [f"127.0.0.1:{port}"], folder.read_secret()
            try:
                seconds = asyncio.run(play(peers, where))
                most, spent = memory(coordinator.pid), thousand.processor(coordinator.pid)
            finally:
                coordinator.kill()
        closed = peers[0].closed
        assert len(closed.accepted) == count, closed.rejected
        assert closed.update
        return {
            "peers": count, "millions": vector.layout.total / 1e6, "rule": rule, "threads": threads,
            "seconds between two": turn, "blob MB": round(size / 1e6, 1),
            "update MB": round(folder.blob(closed.update).stat().st_size / 1e6, 1),
            "s after the last": round(seconds, 1), "processor s": round(spent, 1), "peak MB": round(most),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--peers", type=int, default=16)
    parser.add_argument("--millions", type=int, default=1000)
    parser.add_argument("--rule", default="mean")
    parser.add_argument("--turn", type=float, default=8.0, help="seconds between two contributions")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    row = measure(given.peers, given.millions, given.rule, given.turn, given.threads)
    rows = json.loads(RESULTS.read_text())["rounds"] if RESULTS.exists() else []
    same = ("peers", "millions", "rule", "threads")
    rows = [old for old in rows if any(old[key] != row[key] for key in same)] + [row]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, shared with the peers"
    RESULTS.write_text(json.dumps({"machine": machine, "rounds": rows}, indent=1) + "\n")
    print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}\n| {' | '.join(map(str, row.values()))} |")


if __name__ == "__main__":
    main()
