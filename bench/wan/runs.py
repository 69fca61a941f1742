"""Real runs between hosts of the laboratory: `duckweed serve` on one, `duckweed join` on the others."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.wan.lab import Host, Lab

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


DUCKWEED = [sys.executable, "-m", "duckweed"]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of one kind in the records of a run."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [x for x in found if x.get("event") == kind]


def write(place: Path, spec: str) -> None:
    """A specification and the text that it names, in a folder."""
    (place / "run.toml").write_text(spec)
    sources = (importlib.util.find_spec(name) for name in TEXT)
    text = "\n".join(Path(x.origin).read_text("utf-8") for x in sources if x and x.origin)
    (place / "text.txt").write_text(text)


class Served:
    """A run on hosts of a laboratory. The first host coordinates, the others take part. peer: the
    program that a peer is; ready: peers have the first state before they come."""

    def __init__(
        self, lab: Lab, place: Path, spec: str, peer: Sequence[str] = DUCKWEED, ready: bool = False
    ) -> None:
        self.lab, self.place = lab, place
        self.hub, *self.guests = lab.hosts
        write(place, spec)
        listen = f"{lab.address(self.hub)}:7000"
        self.server = self._start(
            DUCKWEED, self.hub, "serve", str(place / "run.toml"), "--listen", listen,
            "--name", "wan", "--runs", str(place),
        )  # fmt: skip
        found = self._hears(self.hub, INVITATION)
        self.invitation = found.group()
        if ready:
            for name in self.guests:
                shutil.copytree(
                    place / "wan" / "states", place / name / "states", copy_function=os.link
                )
        self.peers = {
            name: self._start(peer, name, "join", self.invitation, "--home", str(place / name))
            for name in self.guests
        }

    def _start(self, program: Sequence[str], host: str, *words: str) -> subprocess.Popen:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "COLUMNS": "400",
        }  # fmt: skip
        with (self.place / f"{host}.log").open("wb") as log:
            return self.lab.run(
                host, [*program, *words], stdout=log, stderr=log, env=environment, cwd=self.place
            )

    def said(self, host: str) -> str:
        return (self.place / f"{host}.log").read_text()

    def _hears(self, host: str, words: re.Pattern) -> re.Match:
        closes = time.monotonic() + PATIENCE
        while not (found := words.search(self.said(host))):
            if time.monotonic() > closes or self.server.poll() is not None:
                raise RuntimeError(
                    f"{host} never said {words.pattern!r}; it said:\n{self.said(host)}"
                )
            time.sleep(0.1)
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What the run's own records say."""
        return events(self.place / "wan", kind)

    def until_round(self, number: int) -> None:
        """Wait until so many rounds are closed. Raises RuntimeError if the run ends before."""
        closes = time.monotonic() + PATIENCE
        while len(self.events("round")) < number:
            if time.monotonic() > closes or self.server.poll() is not None:
                raise RuntimeError(
                    f"no round {number}; the coordinator said:\n{self.said(self.hub)}"
                )
            time.sleep(0.1)

    def ends(self) -> None:
        """Wait for all. Raises RuntimeError if one fails."""
        for host, process in [*self.peers.items(), (self.hub, self.server)]:
            if code := process.wait(PATIENCE):
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
    rounds = run.events("round")
    times = [t for x in rounds[1:] for t in x["timings"].values()]
    busy = sum(t["train"] + t["evaluate"] for t in times)
    moved = rounds[-1]["traffic"]
    exchanged = [t["send"] + t["fetch"] for t in times]
    return {
        "peers": len(run.peers),
        "seconds_per_round": round(statistics.median(x["seconds"] for x in rounds[1:]), 2),
        "seconds_of_exchange": round(statistics.median(exchanged), 2),
        "utilisation": round(busy / sum(sum(t.values()) for t in times), 4),
        "accepted": [len(x["accepted"]) for x in rounds],
        "traffic": moved,
        "relayed": run.events("end")[-1].get("relayed"),
    }


def moved(**link: float) -> dict[str, Any]:
    """A peer changes its address while it trains (a laptop changes networks): what that costs."""
    hosts = [Host("hub"), Host("stays", **link), Host("moves", **link)]
    with served(hosts, specification(2, 6, 10)) as run:
        run.until_round(2)
        run.lab.move("moves")
        began, before = time.monotonic(), len(run.events("round"))
        run.until_round(before + 2)  # the one it was in, and one more
        seconds = time.monotonic() - began
        run.ends()
        return facts(run) | {"seconds_of_two_rounds_after": round(seconds, 1)}
