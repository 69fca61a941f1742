"""A family trained by processes, killed in each of its phases, and gone on with."""

import os
import signal
import time

import pytest
from fixtures import commands, tiny

from duckweed.family import begin
from duckweed.family import train as training
from duckweed.learn.fit import Machine
from duckweed.ledger.entries import RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.run import toml
from duckweed.run.folder import Destination, RunFolder

pytestmark = pytest.mark.slow

PATIENCE = 200.0
CHANGES = {
    "paths.count": 2, "paths.prefix": 8, "rounds.count": 6, "paths.common": 0.34,
    "rounds.peers": 2, "rounds.patience": 60.0, "rounds.evaluate": 100, "inner.steps": 12,
}  # fmt: skip


def entries(run, kind):
    if not run.ledger.exists():
        return []
    ledger = Ledger(run.ledger)
    found = [entry.body for entry in ledger.entries(kind)]
    ledger.close()
    return found


def quiet(text):
    pass


@pytest.mark.parametrize("shared", ["none", "trunk"])
def test_killed_in_the_common_start_and_between_its_paths_it_loses_no_closed_round(
    tmp_path, shared
):
    spec = tiny.specification(tmp_path, CHANGES | {"paths.shared": shared})
    (tmp_path / "t.toml").write_text(toml.write(spec))
    whole = begin.found(
        spec, Destination(tmp_path, tmp_path / "runs", "whole"), Machine("cpu"), (), quiet, quiet
    )
    for _ in training.simulate(whole, quiet):
        pass

    runs = [tmp_path / "runs" / "real" / name for name in ("common", "path-0", "path-1")]
    folders = [RunFolder(run) for run in runs]
    words = ["train", "t.toml", "--name", "real"]
    for run in folders[:2]:
        command = commands.Command(words, tmp_path, tmp_path / "out")
        closes = time.monotonic() + PATIENCE
        while not entries(run, RoundEntry):
            assert command.poll() is None, command.said()
            assert time.monotonic() < closes, command.said()
            time.sleep(0.05)
        os.kill(command.pid, signal.SIGKILL)
        command.wait(PATIENCE)
        words = ["train", "--resume", "runs/real"]
    before = [len(entries(run, RoundEntry)) for run in folders]
    ended = commands.run(words, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "bits per byte of held-out text" in ended.stdout

    assert [len(entries(run, RoundEntry)) for run in folders] == [2, 4, 4]
    assert before[0] == 2
    assert sum(before[1:]) < 8
    for run in folders:
        simulated = whole.folder.path / run.path.name
        expected = entries(RunFolder(simulated), StateEntry)[-1]
        assert entries(run, StateEntry)[-1].hash == expected.hash
        assert (run.model / "config.json").is_file()
