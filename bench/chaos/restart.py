"""What a restart of the coordinator costs: `python -m bench.chaos.restart [--kills 6] [--away 5]`.

Two peers train `llama-0.5m` with one thread each, in rounds of some twelve seconds, on this machine. Again and again the coordinator is killed with -9 at
an instant of a round that is drawn from a seed, and started again after `--away` seconds; one round is left in peace between
two such. Measured: how much longer such a round takes than the median of those that were left in peace, how long nobody answered, from the kill until
the new coordinator serves, and how many contributions count in the round. Writes bench/results/restart.json.
"""

import argparse
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from duckweed.net.identity import load_or_create
from duckweed.round import founding
from duckweed.run import events
from duckweed.run import folder as folders
from duckweed.run.events import Event, RoundClosed, Serving
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec, override

RESULTS = Path(__file__).parents[1] / "results" / "restart.json"
PEERS = 2
MODULE = "duckweed.process.entry"


def specification(rounds: int, steps: int) -> RunSpec:
    facts = {
        "model.source": "llama-0.5m", "model.sequence": 128, "inner.steps": steps, "inner.batch": 8,
        "inner.precision": "fp32", "rounds.count": rounds, "rounds.peers": PEERS, "rounds.patience": 60.0,
        "rounds.evaluate": 1000,
    }  # fmt: skip
    return override(RunSpec(), facts)


class Scene:
    """The processes of a run, and what the coordinators told, each line with the instant at which it was seen."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.key = folder, load_or_create(folder.coordinator_key).id
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.log, self._read = folder.logs / "told.jsonl", 0
        self.log.touch()
        self.coordinator = self._coordinator()
        peer = ["--coordinator", self.key, "--addresses", self.address]
        self.peers = [self._start("peer", "--slot", str(slot), *peer) for slot in range(PEERS)]

    def again(self) -> None:
        self.coordinator = self._coordinator()

    def news(self) -> list[Event]:
        """What was told since the last call, whole lines only."""
        data = self.log.read_bytes()[self._read :]
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [events.decode(line) for line in whole.splitlines()]

    def until(self, kind: type[Event]) -> Any:
        """The next event of a kind."""
        while True:
            for event in self.news():
                if isinstance(event, kind):
                    return event
            assert all(peer.poll() is None for peer in self.peers), "a peer has ended"
            time.sleep(0.02)

    def end(self) -> None:
        for process in (self.coordinator, *self.peers):
            process.kill()
            process.wait()

    def _coordinator(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as told:
            return self._start("coordinator", "--address", self.address, out=told)

    def _start(
        self, role: str, *words: str, out: Any = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", MODULE, role, str(self.folder.path), *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DUCKWEED_THREADS": "1"}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, env=environment)


def measure(kills: int, away: float, steps: int, seed: int) -> dict[str, Any]:
    dice, spec = random.Random(seed), specification(2 * kills + 3, steps)
    calm: list[float] = []
    hit: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = folders.create(Path(place), "restart")
        ground = founding.prepare(spec, Path.cwd(), lambda text: None)
        founding.found(spec, ground, folder, "cpu", PEERS, lambda text: None)
        scene = Scene(folder)
        try:
            scene.until(RoundClosed)  # in the first round peers begin one after the other
            closed = time.monotonic()
            for kill in range(kills + 1):
                scene.until(RoundClosed)
                calm.append(time.monotonic() - closed)
                closed = time.monotonic()
                if kill == kills:
                    break
                at = dice.uniform(0.05, 0.95) * statistics.median(calm)
                time.sleep(at)
                scene.coordinator.kill()
                scene.coordinator.wait()
                killed = time.monotonic()
                time.sleep(away)
                scene.again()
                scene.until(Serving)
                absent = time.monotonic() - killed
                event = scene.until(RoundClosed)
                now = time.monotonic()
                hit.append(
                    {
                        "at": at,
                        "absent": absent,
                        "seconds": now - closed,
                        "counted": len(event.accepted),
                    }
                )
                closed = now
        finally:
            scene.end()
    usual = statistics.median(calm)
    for one in hit:
        one["more"] = one["seconds"] - usual
    return {
        "usual": usual, "calm": calm, "away": away, "kills": hit,
        "median more": statistics.median(one["more"] for one in hit),
        "median absent": statistics.median(one["absent"] for one in hit),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--away", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = measure(given.kills, given.away, given.steps, given.seed)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"a round in peace: {found['usual']:.1f} s\n| killed after | nobody answered | the round took longer by | counted |\n|--:|--:|--:|--:|"
    )
    for one in found["kills"]:
        print(
            f"| {one['at']:.1f} s | {one['absent']:.1f} s | {one['more']:.1f} s | {one['counted']} of {PEERS} |"
        )


if __name__ == "__main__":
    main()
