"""A storm of people: an open run of which some peers are hostile (attacker.py), with a flood of strangers beside it
(strangers.py), on this machine's loopback. What it does to the run is read from ledger and records (accounts.py)."""

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.chaos import accounts
from bench.chaos.attacker import LIES
from bench.chaos.verdict import judge
from bench.fuzz.flood import open_files
from bench.wan.runs import DUCKWEED, Stage
from duckweed.run.events import FinalLoss, RoundClosed

PATIENCE = 1200.0  # seconds without a closed round, or for a first sign, until the run is given up
HOMEWARD = 120.0  # seconds for the peers to end after the coordinator: each measures the model
PROBE = 10  # rounds of the run that tells how long a round is
HUB, STRANGERS, CREW = "hub", "strangers", "crew"
SPEC = """seed = {seed}

[data]
path = "stdlib"

[model]
source = "llama-0.5m"
sequence = 64

[architecture]
width = 64
layers = 2
inner_width = 176
heads = 4
kv_heads = 4

[inner]
steps = {steps}
batch = 4
precision = "fp32"

[rounds]
count = {rounds}
peers = {peers}
patience = 3.0
evaluate = 5
evaluate_tokens = 8192
checkpoint = 10

[members]
join = "open"
"""
"""The model of bench.hostile, 133,440 parameters."""


class Loopback:
    """Processes that all run on this machine, in place of a laboratory's hosts; they end with the block."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = list(hosts)
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)

    def address(self, host: str) -> str:
        return "127.0.0.1"

    def run(self, host: str, command: Sequence[str], **more: Any) -> subprocess.Popen:
        """A process in a group of its own, but of this session: its share of the machine is that of all."""
        more |= {"start_new_session": False, "process_group": 0}
        self._processes.append(subprocess.Popen(command, **more))
        return self._processes[-1]


class Siege(Stage):
    """A run and its processes. What is in `place` already is gone on with. every: seconds between two samples."""

    def __init__(
        self, lab: Loopback, place: Path, *, honest: int, hostile: int, rounds: int, steps: int, seed: int,
        every: float, tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        place.mkdir(parents=True, exist_ok=True)
        spec = SPEC.format(seed=seed, steps=steps, rounds=rounds, peers=honest + hostile)
        super().__init__(lab, place, spec, "run", PATIENCE)  # type: ignore[arg-type]
        self.honest = [f"p{n}" for n in range(honest)]
        self.hostile = [f"h{n}" for n in range(hostile)]
        self.rounds, self.every, self.tell = rounds, every, tell
        self.lasts = max(1, min(6, rounds // len(LIES)))
        """Rounds of each attack."""
        self.samples = place / "samples.jsonl"
        self.fallen: dict[str, str] = {}  # honest peer -> its last words, where it ended by itself

    def coordinate(self) -> None:
        run, port = self.folder.path, self.place / "port"
        if not port.exists():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port.write_text(str(free.getsockname()[1]))
        what = [str(run)] if self.folder.founded else [
            str(self.place / "run.toml"), "--name", run.name, "--runs", str(self.place)
        ]  # fmt: skip
        listen = ("--listen", f"127.0.0.1:{port.read_text()}", "--no-relay")
        self.processes[HUB] = self.start(HUB, *DUCKWEED, "serve", *what, *listen)

    def open(self) -> None:
        """Coordinator, then strangers and all peers."""
        self.coordinate()
        invitation = self.invites()
        for name in self.honest:
            home = ("--home", str(self.place / name), "--no-model")
            self.processes[name] = self.start(name, *DUCKWEED, "join", invitation, *home)
        program = str(Path(__file__).with_name("attacker.py"))
        for name in self.hostile:
            words = (invitation, str(self.place / CREW), name, str(self.lasts))
            self.processes[name] = self.start(name, sys.executable, program, *words)
        if self.hostile:
            program = str(Path(__file__).with_name("strangers.py"))
            words = (invitation, str(self.folder.path))
            self.processes[STRANGERS] = self.start(STRANGERS, sys.executable, program, *words)

    def passes(self) -> None:
        """Watch until the run ends. Raises RuntimeError if it does not go on."""
        closed, closes, sampled = 0, time.monotonic() + PATIENCE, 0.0
        while (code := self.processes[HUB].poll()) is None:
            if (now := self.closed()) > closed:
                closed, closes = now, time.monotonic() + PATIENCE
            if time.monotonic() > closes and closed < self.rounds:
                raise RuntimeError(f"no round closed for {PATIENCE:.0f} s; see {self.place}")
            if time.monotonic() > sampled + self.every:
                sampled = time.monotonic()
                self._sample(closed)
            self._look()
            time.sleep(0.5)
        if code:
            raise RuntimeError(f"the coordinator ended:\n{self.said(HUB)[-2000:]}")
        for name in (*self.honest, *self.hostile):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.processes[name].wait(HOMEWARD)
        self._look()

    def closed(self) -> int:
        """How many rounds are closed."""
        return len({x.round for x in self.events(RoundClosed)})

    def over(self) -> bool:
        """Whether the run was trained and measured before."""
        return self.closed() == self.rounds and bool(self.events(FinalLoss))

    def _look(self) -> None:
        for name in self.honest:
            if self.processes[name].poll() and name not in self.fallen:
                words = self.said(name).strip().splitlines()
                self.fallen[name] = words[-1] if words else "it said nothing"
                self.tell(f"{name} ended: {self.fallen[name]}")

    def _sample(self, closed: int) -> None:
        """Memory of the coordinator and of an honest peer, MB, and files that the coordinator has open."""
        with contextlib.suppress(OSError, ValueError):
            hub = int((self.folder.path / "coordinator.pid").read_text())
            peer = self.processes[next(x for x in self.honest if x not in self.fallen)].pid
            found = {
                "time": round(time.time(), 1), "round": closed, "coordinator": memory(hub),
                "peer": memory(peer), "files": open_files(hub),
            }  # fmt: skip
            with self.samples.open("a") as file:
                file.write(json.dumps(found) + "\n")
            self.tell(json.dumps(found))


def memory(pid: int) -> float:
    """Resident memory of a process, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 / 1e6 for x in lines if x.startswith("VmRSS"))


def play(place: Path, tell: Callable[[str], None], **facts: Any) -> dict[str, Any]:
    """One run, or what is left of it; what it was worth."""
    done = place / "found.json"
    if done.exists():
        return json.loads(done.read_text())
    hosts = [HUB, *(f"p{n}" for n in range(facts["honest"]))]
    with Loopback(hosts) as lab:
        siege = Siege(lab, place, tell=tell, **facts)
        tell(f"{place.name}: {siege.rounds} rounds, {siege.closed()} of them closed before")
        if not siege.over():
            siege.open()
            siege.passes()
    found = read(siege)
    done.write_text(json.dumps(found, indent=1) + "\n")
    return found


def read(siege: Siege) -> dict[str, Any]:
    """What a run was worth, with what became of honest and hostile peers."""
    rounds = [x.seconds for x in siege.events(RoundClosed)[1:]]
    found = asdict(judge(siege)) | {"seconds a round": round(statistics.median(rounds), 2)}
    found["peers that ended by themselves"] = siege.fallen
    found |= accounts.told(
        siege.folder, [siege.place / x for x in siege.honest], siege.place / CREW
    )
    if siege.samples.exists():
        found["memory"] = accounts.memory([*_lines(siege.samples)])
    log = siege.place / f"{STRANGERS}.log"
    if log.exists():
        sums = [x for x in log.read_text().splitlines() if x.startswith("{")]
        found["strangers"] = json.loads(sums[-1]) if sums else {}
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, path.read_text().splitlines())


def compare(
    place: Path, tell: Callable[[str], None], keep: Callable[[dict[str, Any]], None], *, peers: int, hostile: int,
    minutes: float, rounds: int, steps: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The storm, and then the calm run of its honest peers with as many tokens. rounds: 0 for as many as fill the
    minutes, by a short run before. keep: takes what there is so far."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM; the same command goes on"))
    honest = peers - hostile
    facts: dict[str, Any] = {
        "honest": honest, "hostile": hostile, "steps": steps, "seed": seed, "every": min(60.0, max(5.0, minutes)),
    }  # fmt: skip
    if not rounds:
        probe = play(place / "probe", tell, rounds=PROBE, **facts)
        rounds = max(PROBE, round(60 * minutes / probe["seconds a round"]))
    found: dict[str, Any] = {
        "peers": peers, "hostile": hostile, "rounds": rounds, "steps": steps, "seed": seed, "minutes": minutes
    }  # fmt: skip
    found["storm"] = storm = play(place / "storm", tell, rounds=rounds, **facts)
    keep(found)
    whole = storm["tokens"] / storm["contributions"] * honest
    calm = max(1, round(storm["tokens"] / whole))
    found["calm"] = play(place / "calm", tell, rounds=calm, **facts | {"hostile": 0})
    found["loss against calm"] = storm["held_out"] / found["calm"]["held_out"] - 1
    keep(found)
    return found
