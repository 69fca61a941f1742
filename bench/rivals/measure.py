"""One contestant on the work, with or without a fault, on hosts of its own: what it cost and what came of it."""

import json
import math
import os
import signal
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.rivals import contestants, work
from bench.rivals.contestants import EVERY, Contest, Contestant
from bench.rivals.environments import python
from bench.rivals.hosts import Hosts
from duckweed.run.events import FinalLoss, RoundClosed
from duckweed.run.folder import RunFolder

PEERS = work.PEERS
ROOT = Path(__file__).parents[2]
FAULTS = ("kill", "stop", "slow", "nan", "x1000", "hub")
BACK = 5.0  # seconds until what was killed is started again
STOPPED = 30.0
SLOWER = 5  # times as slow
VICTIM = PEERS - 1
Line = dict[str, Any]


class Process:
    """A process on a host, started again with the same command if need be; what it used is added up."""

    def __init__(self, hosts: Hosts, host: str, command: list[str], place: Path, more: dict[str, str]) -> None:  # fmt: skip
        self.hosts, self.host, self.command, self.place, self.more = (
            hosts,
            host,
            command,
            place,
            more,
        )
        self.cpu, self.peak = 0.0, 0
        self.start()

    def start(self) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        environment = os.environ | {
            "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "COLUMNS": "400",
            "PATH": os.pathsep.join([str(python(self.more["RIVALS_ENVIRONMENT"]).parent), os.environ["PATH"]]),
            "GLOO_SOCKET_IFNAME": "eth0", "TOKENIZERS_PARALLELISM": "false",
            "FLWR_TELEMETRY_ENABLED": "0", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        with (self.place / f"{self.host}.log").open("ab") as log:
            self.process: subprocess.Popen[bytes] = self.hosts.start(
                self.host, self.command, log, environment | self.more, self.place
            )
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.code is None:
            pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.code = self.process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu += used.ru_utime + used.ru_stime
                self.peak = max(self.peak, used.ru_maxrss // 1024)
        return self.code

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        """End it and whatever it started."""
        for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return
            closes = time.monotonic() + seconds
            while self.poll() is None and time.monotonic() < closes:
                time.sleep(0.1)


class Run:
    """A contestant at work in `place`."""

    def __init__(self, who: Contestant, hosts: Hosts, place: Path, rounds: int, batch: int, fault: str, rate: float) -> None:  # fmt: skip
        self.who, self.hosts, self.place, self.fault = who, hosts, place, fault
        self.steps, self.batch = rounds * EVERY, batch
        self.processes: list[Process] = []
        self.hub = hosts.address("peer0" if who.name in ("ddp", "plain") else "hub")
        self.contest = Contest(place, self.hub, rounds, batch, PEERS, rate, self.on_hub, self.said)
        self.given = self.environment("hub", 0) | who.hub(self.contest)
        self.peers = [self.peer(number) for number in range(PEERS)]
        who.after(self.contest)

    def environment(self, host: str, index: int) -> dict[str, str]:
        return {
            "RIVALS_WORK": str(self.place / "work"), "RIVALS_INDEX": str(index), "RIVALS_HUB": self.hub,
            "RIVALS_LOG": str(self.place / f"{host}.jsonl"), "RIVALS_OPTIMIZER": self.who.optimizer,
            "RIVALS_PEERS": str(PEERS), "RIVALS_EVERY": str(EVERY), "RIVALS_PLACE": str(self.place),
            "RIVALS_ENVIRONMENT": self.who.environment, "RIVALS_STEPS": str(self.steps), "RIVALS_HERE": self.hosts.address(host),
            "RIVALS_RATE": str(self.contest.rate or ""),
        }  # fmt: skip

    def on_hub(self, host: str, command: list[str], more: dict[str, str] | None = None) -> None:
        given = self.environment(host, 0) | (more or {})
        self.processes.append(Process(self.hosts, host, command, self.place, given))

    def peer(self, number: int) -> Process:
        host = f"peer{number}"
        given = self.given | self.environment(host, number)
        if number == VICTIM and self.fault in ("nan", "x1000"):
            given["RIVALS_FAULT"] = self.fault
        made = Process(self.hosts, host, self.who.peer(number, given), self.place, given)
        self.processes.append(made)
        return made

    def said(self, host: str) -> str:
        return (self.place / f"{host}.log").read_text(errors="replace")

    def lines(self, host: str) -> list[Line]:
        """What a process said of itself."""
        path = self.place / f"{host}.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]

    def steps_of(self, number: int) -> list[float]:
        """When a peer did a step; of duckweed, when a round closed."""
        if not self.who.stepwise:
            return [x.time for x in self.rounds()]
        return [x["at"] for x in self.lines(f"peer{number}") if x["what"] == "step"]

    def rounds(self) -> list[RoundClosed]:
        folder = RunFolder(self.place / "contest")
        return list(folder.records(RoundClosed)) if folder.path.exists() else []

    @property
    def honest(self) -> range:
        """The peers that have no fault."""
        return range(VICTIM if self.fault not in ("", "hub") else PEERS)

    @property
    def victim(self) -> Process:
        """What has the fault: a peer, or what runs on the hub."""
        return self.processes[0] if self.fault == "hub" else self.peers[VICTIM]

    @property
    def total(self) -> int:
        """How many of `steps_of` there are in a whole run."""
        if self.who.stepwise:
            return self.steps
        return contestants.shipped(self.contest).schedule.rounds

    def over(self) -> bool:
        """Whether the run is over: all who have no fault are done or gone."""
        if self.who.name == "flower":
            return any(x["what"] == "ended" for x in self.lines("hub"))
        return all(self.peers[n].poll() is not None or self.ended(n) for n in self.honest)

    def ended(self, number: int) -> bool:
        """Whether a peer has measured its model, after its last step."""
        if not self.who.stepwise:
            return any(True for _ in RunFolder(self.place / f"peer{number}").records(FinalLoss))
        return any(x["what"] == "ended" for x in self.lines(f"peer{number}"))


def measure(
    name: str, rounds: int, batch: int, fault: str, limit: float, rate: float
) -> dict[str, Any]:
    """Run one contestant; what it cost, and how it ended. limit: seconds from the start of its processes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Hosts(["hub", *(f"peer{n}" for n in range(PEERS))]) as hosts,
    ):
        place = Path(folder)
        work.write(place / "work", rounds * EVERY, batch)
        began = time.time()
        run = Run(contestants.ALL[name], hosts, place, rounds, batch, fault, rate)
        try:
            happened = watch(run, began + limit)
            return told(run, began, happened)
        finally:
            for process in reversed(run.processes):
                process.end()


def watch(run: Run, closes: float) -> list[float]:
    """Wait for the end, and do the fault when a third is done. Returns when it happened, and when it was over."""
    happened: list[float] = []
    lasts = STOPPED if run.fault == "stop" else BACK
    while time.time() < closes and not run.over():
        now = time.time()
        if run.fault == "slow" and run.steps_of(VICTIM):
            crawl(run.victim)
        elif run.fault not in ("kill", "stop", "hub") or len(happened) == 2:
            time.sleep(0.3)
        elif not happened and len(run.steps_of(VICTIM)) > run.total // 3:
            run.victim.signal(signal.SIGSTOP if run.fault == "stop" else signal.SIGKILL)
            happened.append(now)
        elif happened and now > happened[0] + lasts:
            undo(run)
            happened.append(now)
        else:
            time.sleep(0.3)
    return happened


def crawl(victim: Process) -> None:
    """A second in which it works for a fifth."""
    victim.signal(signal.SIGCONT)
    time.sleep(1 / SLOWER)
    victim.signal(signal.SIGSTOP)
    time.sleep(1 - 1 / SLOWER)


def undo(run: Run) -> None:
    """Let what was stopped go on; start what was killed again."""
    if run.fault == "stop":
        run.victim.signal(signal.SIGCONT)
    else:
        run.victim.poll()
        run.victim.start()


def told(run: Run, began: float, happened: list[float]) -> dict[str, Any]:
    """The record."""
    over, finished = time.time(), bool(bits(run)) and run.over()
    times = {number: run.steps_of(number) for number in range(PEERS)}
    codes = [peer.poll() for peer in run.peers]
    moved = [run.hosts.moved(f"peer{number}") for number in range(PEERS)]
    hub = run.hosts.moved("hub")
    for process in reversed(run.processes):
        process.end()
    peers = [p for p in run.processes if p.host != "hub"]
    gaps = [gap(times[number], happened[0] if happened else 0.0) for number in run.honest]
    back = [t for t in times[VICTIM] if len(happened) > 1 and t > happened[1]]
    return {
        "contestant": run.who.name,
        "fault": run.fault,
        "steps": run.steps,
        "batch": run.batch,
        "rate": run.contest.rate,
        "optimizer": run.who.optimizer,
        "finished": finished,
        "bits_per_byte": bits(run),
        "steps_done": [len(times[number]) for number in range(PEERS)],
        "exit_codes": codes,
        "tokens_per_second": speed(run, times, run.honest),
        "seconds": round(over - began, 1),
        "cpu_seconds_peers": [round(p.cpu, 1) for p in peers],
        "cpu_seconds_hub": round(sum(p.cpu for p in run.processes if p.host == "hub"), 1),
        "peak_mb_peers": [p.peak for p in peers],
        "peak_mb_hub": max((p.peak for p in run.processes if p.host == "hub"), default=0),
        "sent": [up for up, _ in moved],
        "received": [down for _, down in moved],
        "hub_sent": hub[0],
        "hub_received": hub[1],
        "longest_gap": round(max(gaps, default=0.0), 1),
        "back_after": round(back[0] - happened[1], 1) if back and run.who.stepwise else None,
        "duckweed_rounds": [
            {"accepted": x.accepted, "rejected": {str(k): v for k, v in x.rejected.items()}}
            for x in run.rounds()
        ],
        "load": os.getloadavg()[0],
        "last_words": {p.host: run.said(p.host)[-600:] for p in run.processes if p.code},
    }


def gap(times: list[float], after: float) -> float:
    """The longest time between two steps, from that time on."""
    return max((b - a for a, b in pairwise(times) if b > after), default=math.inf)


def bits(run: Run) -> list[float | None]:
    """Held-out bits per byte where a contestant ended: of each peer that has no fault, or of the one model."""
    if not run.who.stepwise:
        folders = [RunFolder(run.place / f"peer{n}") for n in range(PEERS)]
        return [x.held_out / math.log(2) for folder in folders for x in folder.records(FinalLoss)]
    hosts = ["hub"] if run.who.name == "flower" else [f"peer{n}" for n in range(PEERS)]
    ends = [x for host in hosts for x in run.lines(host) if x["what"] == "ended"]
    return [x["bits_per_byte"] if math.isfinite(x["bits_per_byte"]) else None for x in ends]


def speed(run: Run, times: dict[int, list[float]], honest: range) -> float:
    """Tokens a second of all peers without a fault, from the first step, or closed round, to the last."""
    if not run.who.stepwise:
        rounds = run.rounds()
        if len(rounds) < 3:
            return 0.0
        return round(sum(x.tokens for x in rounds[1:]) / (rounds[-1].time - rounds[0].time), 1)
    each = [
        (len(t) - 1) * run.batch * 128 / (t[-1] - t[0])
        for number in honest
        if len(t := times[number]) > 2
    ]
    return round(math.fsum(each), 1)
