"""A family whose organiser is killed for good once its paths have begun: its successors lead them to their end."""

import contextlib
import json
import os
import re
import signal
import time

import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import RoundEntry, StateEntry, SuccessionEntry
from duckweed.ledger.ledger import Ledger
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


def entries(run, *kinds):
    if not run.ledger.exists():
        return []
    with contextlib.closing(Ledger(run.ledger)) as ledger:
        return [entry.body for entry in ledger.entries(*kinds)]


def knows(home, path, other):
    """Whether a successor knows where the other one listens for a path."""
    with contextlib.suppress(FileNotFoundError):
        return other in json.loads((home / f"path-{path}" / "voters.json").read_text())["at"]
    return False


def soon(true, *processes):
    closes = time.monotonic() + PATIENCE
    while not (found := true()):
        said = "\n".join(x.said() for x in processes)
        assert all(x.poll() is None for x in processes), said
        assert time.monotonic() < closes, said
        time.sleep(0.05)
    return found


def test_its_successors_lead_all_paths_to_their_end(tmp_path, monkeypatch):
    env = {"XDG_DATA_HOME": str(tmp_path / "data"), "COLUMNS": "1000"}
    monkeypatch.setenv("XDG_DATA_HOME", env["XDG_DATA_HOME"])
    lines = [f"{name}:{load_or_create(named(name)).id}" for name in NAMES]
    spec = tiny.specification(tmp_path, CHANGES | {"members.successors": lines})
    (tmp_path / "t.toml").write_text(toml.write(spec))
    words = ["serve", "t.toml", "--name", "family", "--listen", "127.0.0.1:0", "--no-relay"]
    serving = commands.Command(words, tmp_path, tmp_path / "served", env=env)
    line = soon(lambda: re.search(r"duckweed1:\S+", serving.said()), serving).group()
    peers = [
        commands.Command(
            ["join", line, "--home", name, "--identity", name, *tiny.OWN],
            tmp_path, tmp_path / f"{name}.out", env=env,
        )
        for name in NAMES
    ]  # fmt: skip
    paths = [RunFolder(tmp_path / "runs" / "family" / f"path-{n}") for n in range(2)]
    keys = [identity.partition(":")[2] for identity in lines]
    soon(
        lambda: any(entries(run, RoundEntry) for run in paths)
        and all(
            knows(tmp_path / name, path, other)
            for name, other in zip(NAMES, reversed(keys), strict=True)
            for path in range(2)
        ),
        serving, *peers,
    )  # fmt: skip
    os.kill(serving.pid, signal.SIGKILL)
    codes = [peer.wait(PATIENCE) for peer in peers]
    assert codes == [0, 0], "\n".join(peer.said() for peer in peers)

    taken = 0
    for name in NAMES:
        for number in range(2):
            run = RunFolder(tmp_path / name / f"path-{number}")
            assert entries(run, SuccessionEntry)
            with contextlib.closing(Ledger(run.ledger)) as ledger:
                ledger.verify(verify)
                assert ledger.last_round(StateEntry) == 7
            taken += (run.model / "config.json").is_file()
    assert taken >= 2
