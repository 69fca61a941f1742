"""A run between hosts of the laboratory whose processes and links can be struck."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.chaos.storm import Blow
from bench.wan.lab import Lab

INVITATION = re.compile(r"duckweed1:\S+")
PATIENCE = 240.0  # seconds for the first sign of the coordinator
SLOW = 1.0  # Mbit/s
NONSENSE = 400  # pieces that a villain throws
TEXT = ("argparse", "ast", "difflib", "inspect", "pydoc", "tarfile", "typing")
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
SPEC = """seed = {seed}

[data]
path = "text.txt"

[model]
source = "config.json"
sequence = 64

[inner]
steps = {steps}
batch = 4
warmup = 40

[rounds]
count = {rounds}
peers = {peers}
patience = 3.0
evaluate = 1
evaluate_tokens = 16384
checkpoint = 5
"""


class Arena:
    """The first host coordinates, the others take part; what they say is in `place`."""

    def __init__(
        self, lab: Lab, place: Path, *, peers: int, rounds: int, steps: int, seed: int
    ) -> None:
        self.lab, self.place = lab, place
        self.hub, *others = lab.hosts
        self.peers = others[:peers]
        self.folder = place / "run"
        self.invitation = ""
        self.processes: dict[str, subprocess.Popen] = {}
        (place / "config.json").write_text(json.dumps(CONFIG))
        sources = (importlib.util.find_spec(name) for name in TEXT)
        text = "\n".join(Path(x.origin).read_text("utf-8") for x in sources if x and x.origin)
        (place / "text.txt").write_text(text)
        spec = SPEC.format(seed=seed, steps=steps, rounds=rounds, peers=peers)
        (place / "run.toml").write_text(spec)

    # --- processes

    def start(self) -> None:
        """Coordinator first, then the peers."""
        self.begin(self.hub)
        closes = time.monotonic() + PATIENCE
        while not (found := INVITATION.search(self.said(self.hub))):
            if time.monotonic() > closes or self.processes[self.hub].poll() is not None:
                raise RuntimeError(f"the coordinator gave no invitation:\n{self.said(self.hub)}")
            time.sleep(0.1)
        self.invitation = found.group()
        for host in self.peers:
            self.begin(host)

    def begin(self, host: str) -> None:
        """Start what runs on a host, or start it again by the same words."""
        if host == self.hub:
            listen = ("--listen", f"{self.lab.address(host)}:7000")
            what = (str(self.folder),) if self.folder.exists() else (
                str(self.place / "run.toml"), "--name", "run", "--runs", str(self.place)
            )  # fmt: skip
            words = ("-m", "duckweed", "serve", *what, *listen)
        else:
            home = ("--home", str(self.place / host))
            words = ("-m", "duckweed", "join", self.invitation, *home)
        self.processes[host] = self._run(host, *words)

    def _run(self, host: str, *words: str) -> subprocess.Popen:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "COLUMNS": "400",
        }  # fmt: skip
        with (self.place / f"{host}.log").open("ab") as out:
            return self.lab.run(
                host, [sys.executable, *words], stdout=out, stderr=out, env=environment,
                cwd=self.place, start_new_session=True,
            )  # fmt: skip

    def said(self, host: str) -> str:
        return (self.place / f"{host}.log").read_text(errors="replace")

    def _groups(self, host: str) -> list[int]:
        """Process groups of a host: the command's and, of the coordinator, that of its child."""
        groups = [self.processes[host].pid]
        if host == self.hub:
            with contextlib.suppress(OSError, ValueError):
                groups.append(int((self.folder / "coordinator.pid").read_text()))
        return groups

    def signal(self, host: str, number: signal.Signals) -> None:
        for group in self._groups(host):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)

    # --- what the run's own records say

    def records(self, kind: str) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [x for x in found if x.get("event") == kind]

    def closed(self) -> int:
        """How many rounds are closed."""
        return len({x["round"] for x in self.records("round")})

    # --- blows

    def strike(self, blow: Blow) -> Callable[[], None]:
        """Do it; returns how it is undone."""
        host = blow.host
        match blow.kind:
            case "kill":
                self.signal(host, signal.SIGKILL)
                self.processes[host].wait()
                return lambda: self.begin(host)
            case "stop":
                self.signal(host, signal.SIGSTOP)
                return lambda: self.signal(host, signal.SIGCONT)
            case "cut":
                self.lab.cut(host)
                return lambda: self.lab.join(host)
            case "slow":
                before = self.lab.hosts[host]
                self.lab.change(host, up=SLOW, down=SLOW)
                return lambda: self.lab.change(host, up=before.up, down=before.down)
            case "villain":
                words = (self.invitation, str(self.folder), str(NONSENSE), "0")
                self._run(host, str(Path(__file__).with_name("villain.py")), *words)
                return lambda: None
