"""Real runs between hosts of the laboratory: `duckweed serve` on one, `duckweed join` on the others."""

import contextlib
import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.wan.lab import Host, Lab
from duckweed.round.run_log import utilisation
from duckweed.run.events import RoundClosed, RunEnded
from duckweed.run.folder import E, RunFolder

INVITATION = re.compile(r"duckweed1:\S+")
PATIENCE = 1200.0
TEXT = (
    "argparse",
    "ast",
    "asyncio.base_events",
    "difflib",
    "inspect",
    "pydoc",
    "tarfile",
    "typing",
)
SPEC = """[data]
path = "text.txt"

[model]
sequence = 128

[inner]
steps = {steps}
batch = 2

[rounds]
count = {rounds}
peers = {peers}
evaluate = 100
evaluate_tokens = 2048
{more}
"""
DENSE = '\n[wire]\nkind = "dense"\n'  # every peer fetches what the others made: megabytes
ROOT = Path(__file__).parents[2]
ROOMS = (ROOT / "src", ROOT)  # whatever folder a process starts in, it is this program
DUCKWEED = [sys.executable, "-m", "duckweed"]


def write(place: Path, spec: str) -> None:
    """A specification and the text that it names, in a folder."""
    (place / "run.toml").write_text(spec)
    sources = (importlib.util.find_spec(name) for name in TEXT)
    text = "\n".join(Path(x.origin).read_text("utf-8") for x in sources if x and x.origin)
    (place / "text.txt").write_text(text)


class Stage:
    """Hosts of a laboratory for one run: the first coordinates, the others take part. The run is
    place/NAME; what a host says, place/HOST.log. patience: seconds for it to be said."""

    def __init__(
        self, lab: Lab, place: Path, spec: str, name: str, patience: float = PATIENCE
    ) -> None:
        self.lab, self.place, self.patience = lab, place, patience
        self.hub, *self.guests = lab.hosts
        self.folder = RunFolder(place / name)
        self.processes: dict[str, subprocess.Popen] = {}
        write(place, spec)

    def start(self, host: str, *command: str) -> subprocess.Popen:
        """A process on a host, in a group of its own."""
        paths = [*map(str, ROOMS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "COLUMNS": "400",
            "PYTHONPATH": os.pathsep.join(paths),
        }  # fmt: skip
        with (self.place / f"{host}.log").open("ab") as log:
            return self.lab.run(
                host, command, stdout=log, stderr=log, env=environment, cwd=self.place,
                start_new_session=True,
            )  # fmt: skip

    def coordinate(self) -> None:
        """Start the coordinator, or start it again."""
        run = self.folder.path
        what = [str(run)] if run.exists() else [
            str(self.place / "run.toml"), "--name", run.name, "--runs", str(self.place)
        ]  # fmt: skip
        listen = f"{self.lab.address(self.hub)}:7000"
        self.processes[self.hub] = self.start(
            self.hub, *DUCKWEED, "serve", *what, "--listen", listen
        )

    def invites(self) -> str:
        """The invitation, once it is given. Raises RuntimeError."""
        return self.hears(self.hub, INVITATION).group()

    def said(self, host: str) -> str:
        return (self.place / f"{host}.log").read_text(errors="replace")

    def hears(self, host: str, words: re.Pattern) -> re.Match:
        """Wait until a host says something. Raises RuntimeError if it does not."""
        closes = time.monotonic() + self.patience
        while not (found := words.search(self.said(host))):
            if time.monotonic() > closes or self.processes[self.hub].poll() is not None:
                raise RuntimeError(
                    f"{host} never said {words.pattern!r}; it said:\n{self.said(host)}"
                )
            time.sleep(0.05)
        return found

    def events(self, kind: type[E]) -> list[E]:
        """What the run's own records say."""
        return list(self.folder.records(kind))

    def until_round(self, number: int) -> None:
        """Wait until so many rounds are closed. Raises RuntimeError if anybody ends before."""
        closes = time.monotonic() + self.patience
        while len(self.events(RoundClosed)) < number:
            codes = {host: process.poll() for host, process in self.processes.items()}
            ended = [h for h, code in codes.items() if code or (h == self.hub and code == 0)]
            if ended or time.monotonic() > closes:
                told = "\n".join(f"{host} said:\n{self.said(host)}" for host in ended or [self.hub])
                raise RuntimeError(f"no round {number}; {told}")
            time.sleep(0.1)


class Served(Stage):
    """A run that is left to itself. peer: the program that the n-th peer is; ready: peers have the
    first state before they come."""

    def __init__(
        self,
        lab: Lab,
        place: Path,
        spec: str,
        peer: Callable[[int], Sequence[str]] = lambda n: DUCKWEED,
        ready: bool = False,
    ) -> None:
        super().__init__(lab, place, spec, "wan")
        self.coordinate()
        self.invitation = self.invites()
        if ready:
            for name in self.guests:
                shutil.copytree(self.folder.states, place / name / "states", copy_function=os.link)
        for n, name in enumerate(self.guests):
            home = ("--home", str(place / name), "--data", "text.txt")
            self.processes[name] = self.start(name, *peer(n), "join", self.invitation, *home)

    def ends(self) -> None:
        """Wait for all. Raises RuntimeError if one fails."""
        for host in (*self.guests, self.hub):
            if code := self.processes[host].wait(self.patience):
                raise RuntimeError(f"{host} ended with code {code}; it said:\n{self.said(host)}")


@contextlib.contextmanager
def served(hosts: Sequence[Host], spec: str) -> Iterator[Served]:
    """A laboratory with a run in it, until the block is left."""
    with tempfile.TemporaryDirectory() as place, Lab(hosts) as lab:
        yield Served(lab, Path(place), spec)


def specification(peers: int, rounds: int, steps: int, more: str = "") -> str:
    return SPEC.format(peers=peers, rounds=rounds, steps=steps, more=more)


def train(
    hosts: Sequence[Host], rounds: int = 4, steps: int = 10, more: str = ""
) -> dict[str, Any]:
    """One run from beginning to end; raises RuntimeError if a peer or the coordinator fails."""
    with served(hosts, specification(len(hosts) - 1, rounds, steps, more)) as run:
        run.ends()
        return facts(run)


def facts(run: Served) -> dict[str, Any]:
    """The first round is left out of times, for it waits for start-up."""
    rounds = run.events(RoundClosed)
    times = [t for x in rounds[1:] for t in x.timings.values()]
    moved = rounds[-1].traffic
    exchanged = [t["send"] + t["fetch"] for t in times]
    return {
        "peers": len(run.guests),
        "seconds_per_round": round(statistics.median(x.seconds for x in rounds[1:]), 2),
        "seconds_of_exchange": round(statistics.median(exchanged), 2),
        "utilisation": round(statistics.mean(utilisation(t) for t in times), 4),
        "accepted": [len(x.accepted) for x in rounds],
        "traffic": moved,
        "relayed": run.events(RunEnded)[-1].relayed,
    }


def moved(**link: float) -> dict[str, Any]:
    """A peer changes its address while it trains (a laptop changes networks): what that costs."""
    hosts = [Host("hub"), Host("stays", **link), Host("moves", **link)]
    with served(hosts, specification(2, 6, 10)) as run:
        run.until_round(2)
        run.lab.move("moves")
        began, before = time.monotonic(), len(run.events(RoundClosed))
        run.until_round(before + 2)  # the one it was in, and one more
        seconds = time.monotonic() - began
        run.ends()
        return facts(run) | {"seconds_of_two_rounds_after": round(seconds, 1)}
