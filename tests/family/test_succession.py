"""A family whose organiser is killed: its successors lead the paths to their end, whether these had begun or not, and the
organiser that comes back follows."""

import contextlib
import json
import os
import re
import signal
import time

import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import GenesisEntry, RoundEntry, StateEntry, SuccessionEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import load_or_create, named, verify
from duckweed.run import toml
from duckweed.run.folder import RunFolder

pytestmark = pytest.mark.slow

PATIENCE = 250.0
NAMES = ("anna", "ben")
CHANGES = {
    "paths.count": 2, "paths.prefix": 8, "rounds.count": 8, "paths.common": 0.13, "rounds.peers": 2,
    "rounds.patience": 10.0, "inner.steps": 10, "members.absence": 3.0, "rounds.evaluate": 100,
}  # fmt: skip
LONG_START = {"rounds.peers": 3, "paths.common": 0.5}


def entries(run, *kinds):
    with (
        contextlib.suppress(LedgerError),  # it is not there yet, or is being made
        contextlib.closing(Ledger(run.ledger)) as ledger,
    ):
        return [entry.body for entry in ledger.entries(*kinds)]
    return []


def genesis(run):
    """Hash of the first entry of a run."""
    with contextlib.closing(Ledger(run.ledger)) as ledger:
        ledger.verify(verify)
        return ledger.hash_at(0)


class Scene:
    """The organiser's command, those of peers, and their folders."""

    def __init__(self, base, changes):
        self.base = base
        self.env = {"XDG_DATA_HOME": str(base / "data"), "COLUMNS": "1000"}
        lines = [f"{name}:{load_or_create(named(name)).id}" for name in NAMES]
        self.keys = dict(line.split(":") for line in lines)
        self.spec = tiny.specification(base, CHANGES | changes | {"members.successors": lines})
        (base / "t.toml").write_text(toml.write(self.spec))
        self.family, self.running, self.ended = base / "runs" / "family", {}, []

    def command(self, name, *words):
        command = commands.Command(words, self.base, self.base / f"{name}.out", env=self.env)
        self.running[name] = command
        return command

    def serve(self, *words):
        serving = self.command("serve", "serve", *words, "--no-relay")
        return self.soon(lambda: re.search(r"duckweed1:\S+", serving.said())).group()

    def join(self, line, *names):
        for name in names:
            who = ["--identity", name] if name in NAMES else []
            self.command(name, "join", line, "--home", name, *who, *tiny.OWN)

    def kill(self, name):
        command = self.running.pop(name)
        os.kill(command.pid, signal.SIGKILL)
        command.wait(PATIENCE)

    def said(self):
        return "\n".join(f"--- {x.name}\n{x.read_text()}" for x in sorted(self.base.glob("*.out")))

    def soon(self, true, ending=False):
        """Wait for something to become true while all commands run, or are ending; returns it."""
        closes = time.monotonic() + PATIENCE
        while not (found := true()):
            assert ending or all(x.poll() is None for x in self.running.values()), self.said()
            assert time.monotonic() < closes, self.said()
            time.sleep(0.05)
        return found

    def all_end_well(self):
        self.soon(lambda: all(x.poll() is not None for x in self.running.values()), ending=True)
        codes = {name: command.poll() for name, command in self.running.items()}
        assert set(codes.values()) == {0}, f"{codes}\n{self.said()}"

    def run(self, name, path):
        return RunFolder(self.base / name / f"path-{path}")

    def led(self, path):
        """The path as the organiser has it."""
        return RunFolder(self.family / f"path-{path}")

    def acquainted(self, part=""):
        """Whether each peer knows where the successors listen for a run: who lost the organiser before it heard that could
        not go on."""
        for name in self.running.keys() - {"serve"}:
            others = {self.keys[other] for other in NAMES if other != name}
            try:
                known = json.loads((self.base / name / part / "voters.json").read_text())
            except FileNotFoundError:
                return False
            if not others <= known["at"].keys():
                return False
        return True


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def begin(changes):
        made.append(Scene(tmp_path, changes))
        return made[0]

    made = []
    yield begin
    for command in made[0].running.values():
        command.kill()


def test_its_successors_lead_all_paths_to_their_end(scene):
    it = scene({"rounds.count": 40, "paths.common": 0.02})  # no path is over before the kill
    line = it.serve("t.toml", "--name", "family", "--listen", "127.0.0.1:0")
    it.join(line, *NAMES)
    it.soon(
        lambda: (
            any(entries(it.led(path), RoundEntry) for path in range(2))
            and all(it.acquainted(f"path-{path}") for path in range(2))
        )
    )
    it.kill("serve")
    it.all_end_well()
    taken = 0
    for name in NAMES:
        for path in range(2):
            run = it.run(name, path)
            assert entries(run, SuccessionEntry)
            assert genesis(run) == genesis(it.led(path))
            assert entries(run, StateEntry)
            taken += (run.model / "config.json").is_file()
    assert taken >= 2


def test_lost_in_the_common_start_it_leaves_successors_who_begin_the_paths_for_all_peers(scene):
    it = scene(LONG_START)
    line = it.serve("t.toml", "--name", "family", "--listen", "127.0.0.1:0")
    it.join(line, *NAMES, "carl")
    it.soon(lambda: entries(RunFolder(it.family / "common"), RoundEntry) and it.acquainted())
    it.kill("serve")
    it.all_end_well()
    assert not it.led(0).path.exists()
    for path in range(2):
        first, second = (it.run(name, path) for name in NAMES)
        assert genesis(first) == genesis(second)
        for run in (first, second):
            with contextlib.closing(Ledger(run.ledger)) as ledger:
                assert ledger.last_round(StateEntry) == 4
    named_first = {entries(it.run("anna", path), GenesisEntry)[0].coordinator for path in range(2)}
    assert named_first.isdisjoint(it.keys.values())  # the organiser's, who can come back
    models = [it.run(name, path).model / "config.json" for name in it.running for path in range(2)]
    assert sum(model.is_file() for model in models) >= 2
    assert "training path" in it.running["carl"].said()


@pytest.mark.long
def test_back_again_the_organiser_follows_in_the_family_that_its_successors_began(scene):
    it = scene(LONG_START | {"rounds.count": 60, "paths.common": 0.05})
    line = it.serve("t.toml", "--name", "family", "--listen", "127.0.0.1:0")
    it.join(line, *NAMES, "carl")
    it.soon(lambda: entries(RunFolder(it.family / "common"), RoundEntry) and it.acquainted())
    it.kill("serve")
    it.soon(lambda: any(entries(it.run("anna", path), RoundEntry) for path in range(2)))
    assert it.serve("runs/family") == line  # who has it can still come
    it.soon(lambda: all(it.led(path).ledger.exists() for path in range(2)))
    it.join(line, "dora")  # and does
    it.soon(lambda: "training path" in it.running["dora"].said())
    it.all_end_well()
    assert "bits per byte of held-out text" in it.running["serve"].said()
    assert (it.family / "report.html").is_file()
    for path in range(2):
        assert genesis(it.led(path)) == genesis(it.run("anna", path))
        assert entries(it.led(path), SuccessionEntry)
