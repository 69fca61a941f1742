"""A run between hosts of the laboratory whose processes and links can be struck."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bench.chaos.storm import Blow
from bench.wan.lab import Lab
from bench.wan.runs import DUCKWEED, Stage
from duckweed.run.events import RoundClosed

PATIENCE = 240.0  # seconds for the first sign of the coordinator
SLOW = 1.0  # Mbit/s
NONSENSE = 400  # pieces that a villain throws
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


class Arena(Stage):
    """A stage on which things go wrong. Hosts beyond the coordinator's and `peers` more are for
    villains."""

    def __init__(
        self, lab: Lab, place: Path, *, peers: int, rounds: int, steps: int, seed: int
    ) -> None:
        spec = SPEC.format(seed=seed, steps=steps, rounds=rounds, peers=peers)
        super().__init__(lab, place, spec, "run", PATIENCE)
        self.peers, self.invitation = self.guests[:peers], ""
        (place / "config.json").write_text(json.dumps(CONFIG))

    def open(self) -> None:
        """Coordinator first, then the peers."""
        self.coordinate()
        self.invitation = self.invites()
        for host in self.peers:
            self.begin(host)

    def begin(self, host: str) -> None:
        """Start what runs on a host, or start it again by the same words."""
        if host == self.hub:
            self.coordinate()
        else:
            home = (
                "--home",
                str(self.place / host),
                "--data",
                "text.txt",
                "--config",
                "config.json",
            )
            self.processes[host] = self.start(host, *DUCKWEED, "join", self.invitation, *home)

    def _groups(self, host: str) -> list[int]:
        """Process groups of a host: the command's and, of the coordinator, that of its child."""
        groups = [self.processes[host].pid]
        if host == self.hub:
            with contextlib.suppress(OSError, ValueError):
                groups.append(int((self.folder.path / "coordinator.pid").read_text()))
        return groups

    def signal(self, host: str, number: signal.Signals) -> None:
        for group in self._groups(host):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)

    def closed(self) -> int:
        """How many rounds are closed."""
        return len({x.round for x in self.events(RoundClosed)})

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
                villain = str(Path(__file__).with_name("villain.py"))
                words = (self.invitation, str(self.folder.path), str(NONSENSE), "0")
                self.start(host, sys.executable, villain, *words)
                return lambda: None
