"""A run that is interrupted at any instant of its life: `python -m bench.peer.interrupt [--seeds 200]`.

A tiny run with a coordinator and two peers, each a process, and the same run simulated, are begun by
`duckweed train`. At random instants, between its first breath and somewhat after it would have ended, the
command gets a SIGINT, a SIGTERM or a SIGKILL, up to three times; each time `--resume`, or the same command
where no run had begun, goes on. At last it is left in peace. Then the folder must be finished, with model
and report, and the last state must be, bit for bit, that of the run that nobody interrupted. Everything
follows from the seed but how fast the machine is. Each seed is shown as it ends, with what the run said where
it failed.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import verify
from duckweed.process import environment
from duckweed.process.forkserver import ForkServer
from duckweed.run.folder import RunFolder

SIGNALS = ("SIGINT", "SIGTERM", "SIGKILL")
PATIENCE = 300.0  # seconds for a command that is left in peace
OFTEN = 3  # how often a run is interrupted, at most
ROUNDS = 3
CONFIG = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
SPECIFICATION = f"""
[data]
path = "text.txt"
[model]
source = "config.json"
sequence = 32
[inner]
steps = 3
batch = 2
warmup = 2
[rounds]
count = {ROUNDS}
peers = 2
patience = 60.0
evaluate_tokens = 512
"""


@dataclass(frozen=True)
class Whole:
    """The run that nobody interrupts."""

    forks: ForkServer
    """Starts the commands, which have loaded torch then: what is interrupted is the run."""
    base: Path
    """Its working folder."""
    state: str
    """Hash of the last state, hex."""
    seconds: dict[bool, float]
    """How long the command takes, by whether it simulates."""


def whole(forks: ForkServer, base: Path) -> Whole:
    """Write text, model and specification into `base`, and let the run be, with processes and simulated."""
    base.mkdir(parents=True, exist_ok=True)
    words = random.Random(1).choices(
        ["pond", "water", "leaf", "root", "green", "small", "floats", "under", "sun"], k=6000
    )
    (base / "text.txt").write_text(" ".join(words))
    (base / "config.json").write_text(json.dumps(CONFIG))
    (base / "run.toml").write_text(SPECIFICATION)
    seconds, states = {}, set()
    for simulate in (True, False):
        began = time.monotonic()
        folder = base / "runs" / f"whole-{simulate}"
        assert command(forks, folder, simulate, None) == 0
        seconds[simulate] = time.monotonic() - began
        states.add(finished(folder))
    (state,) = states
    return Whole(forks, base, state, seconds)


def fork_server(base: Path) -> ForkServer:
    """What starts the commands. base: where they keep what they prepared."""
    return ForkServer(environment.of_child(1) | {"XDG_CACHE_HOME": str(base / "cache")})


def interrupted(whole: Whole, seed: int) -> None:
    """One run, interrupted as the seed says. Raises AssertionError."""
    draw = random.Random(seed)
    simulate = draw.random() < 0.5
    folder = whole.base / "runs" / f"seed-{seed}"
    for _ in range(draw.randint(1, OFTEN)):
        after = draw.uniform(0.0, 1.1 * whole.seconds[simulate])
        command(whole.forks, folder, simulate, (after, draw.choice(SIGNALS)))
    code = command(whole.forks, folder, simulate, None)
    assert code == 0, f"exit code {code}"
    assert finished(folder) == whole.state, "another state than without interruption"


def command(forks: ForkServer, folder: Path, simulate: bool, end: tuple[float, str] | None) -> int:
    """Begin the run, or go on with it, until it ends or gets a signal after so many seconds; returns the
    exit code. What it said is kept beside the folder."""
    base = folder.parent.parent
    new = [str(base / "run.toml"), "--runs", str(folder.parent), "--name", folder.name]
    words = ["--resume", str(folder)] if folder.exists() else new
    log = base / f"{folder.name}.log"
    with log.open("a") as file:
        file.write(f"\n--- {words} {end}\n")
    process = forks.start("duckweed.cli", ["train", *words, *["--simulate"] * simulate], log)
    process.stdin.close()
    drained = threading.Thread(target=_append, args=(process.stdout, log))
    drained.start()
    try:
        return process.wait(end[0] if end else PATIENCE)
    except subprocess.TimeoutExpired:
        assert end, f"still running after {PATIENCE:.0f} s"
        process.send_signal(getattr(signal, end[1]))
        return process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        drained.join()


def _append(source: BinaryIO, log: Path) -> None:
    with source, log.open("ab") as file:
        shutil.copyfileobj(source, file)


def finished(folder: Path) -> str:
    """The hash of the last state of a run. Raises AssertionError if anything of it is missing."""
    run = RunFolder(folder)
    assert run.report.read_text("utf-8").rstrip().endswith("</html>"), "no report"
    assert (run.model / "config.json").is_file(), "no model"
    assert list(run.model.glob("*.safetensors")), "no weights"
    ledger = Ledger(run.ledger)
    ledger.verify(verify)
    states = {entry.round: entry.body.hash for entry in ledger.entries(StateEntry)}
    ledger.close()
    return states[ROUNDS]


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as place, fork_server(Path(place)) as forks:
        alone = whole(forks, Path(place))
        for seed in range(given.first, given.first + given.seeds):
            try:
                interrupted(alone, seed)
                print(f"seed {seed}: the same", flush=True)
            except (AssertionError, OSError, KeyError, subprocess.TimeoutExpired) as error:
                failed += 1
                said = (alone.base / f"seed-{seed}.log").read_text()
                print(f"seed {seed}: {error}\n{said}", flush=True)
    print(f"{given.seeds} runs interrupted, {given.seeds - failed} ended as the one left in peace")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
