"""A coordinator that is killed at any instant: peers go on by themselves, no closed round is lost."""

import contextlib
import json
import random
import signal
import socket
import time

import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import RUN
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import load_or_create, verify
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import state as states

pytestmark = pytest.mark.slow

SEED = 20261125  # of the instants; another one must do as well
KILLS = 4
PATIENCE = 200.0


class Processes:
    """A coordinator at a fixed address and two peers, each started by itself."""

    def __init__(self, folder):
        self.folder, self.running = folder, {}
        self.key = load_or_create(folder.coordinator_key).id
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.kill()
            process.wait()

    def start(self, name, role, *words):
        self.running[name] = commands.Command(
            [role, self.folder.path, *words], self.folder.path, self.log(name),
            self.folder.logs / f"{name}.err", module="duckweed.process.entry",
        )  # fmt: skip

    def log(self, name):
        return self.folder.logs / f"{name}.jsonl"

    def coordinator(self):
        self.start("coordinator", "coordinator", "--address", self.address)

    def peer(self, slot):
        self.start(
            f"peer{slot}", "peer", "--slot", str(slot), "--coordinator", self.key,
            "--addresses", self.address,
        )  # fmt: skip

    def events(self, name, kind):
        """What a process has told; a line that a kill has cut off is passed over."""
        found = []
        for line in self.log(name).read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return [event for event in found if event["event"] == kind]

    def ledger(self):
        ledger = Ledger(self.folder.ledger)
        ledger.verify(verify)
        found = list(ledger.entries(*RUN))
        ledger.close()
        return found

    def until(self, true):
        closes = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < closes, self.log("coordinator").read_text()[-3000:]
            assert all(p.poll() in (None, 0, -9) for p in self.running.values())
            time.sleep(0.05)


def test_killed_at_any_instant_it_loses_no_closed_round(tmp_path):
    changes = {
        "rounds.count": 10, "rounds.peers": 2, "rounds.patience": 60.0, "inner.steps": 20,
    }  # fmt: skip
    spec = tiny.specification(tmp_path, changes)
    simulated, ground, state = tiny.found(tmp_path, "simulation", spec)
    layout = founding.layout(simulated)
    expected = Simulation(simulated, spec, layout, ground, state, "cpu").run().hash()
    folder, _, _ = tiny.found(tmp_path, "killed", spec)
    instants = random.Random(SEED)
    with Processes(folder) as run:
        run.coordinator()
        for slot in range(2):
            run.peer(slot)
        for kill in range(KILLS):
            # Somewhere in the course of two rounds, of which each goes through all that can be hit.
            closed = 2 * kill
            run.until(lambda n=closed: len(run.events("coordinator", "round")) > n)
            seconds = max(e["seconds"] for e in run.events("coordinator", "round"))
            time.sleep(instants.uniform(0, 1.5 * seconds))
            run.running["coordinator"].send_signal(signal.SIGKILL)
            run.running["coordinator"].wait()
            before = run.ledger()
            told = {e["round"] for e in run.events("coordinator", "round")}
            assert told <= {e.round for e in before if e.kind == "round"}
            assert all(run.running[f"peer{slot}"].poll() is None for slot in range(2))
            run.coordinator()
            run.until(lambda b=before: run.ledger()[: len(b)] == b)
        run.until(lambda: all(p.poll() == 0 for p in run.running.values()))
        for slot in range(2):
            assert run.events(f"peer{slot}", "ended")[0]["reason"] == "all rounds are done"
            assert any("does not answer" in e["text"] for e in run.events(f"peer{slot}", "said"))
        rounds = [e for e in run.ledger() if e.kind == "round"]
    assert [e.round for e in rounds] == list(range(10))
    last = states.load(folder.state(10), layout)
    assert last.hash() == expected
