"""A family that is served by one command, and trained by peers that join by one invitation."""

import re
import time

import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import PeerEntry, StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import load_or_create
from duckweed.run import toml
from duckweed.run.folder import RunFolder

pytestmark = pytest.mark.slow

PATIENCE = 200.0
CHANGES = {
    "paths.count": 3, "paths.prefix": 8, "rounds.count": 3, "paths.common": 0.34, "rounds.peers": 2,
    "rounds.patience": 60.0,
}  # fmt: skip
RUNS = ["common", "path-0", "path-1", "path-2"]


def entries(run, kind):
    ledger = Ledger(run.ledger)
    found = [entry.body for entry in ledger.entries(kind)]
    ledger.close()
    return found


def test_two_peers_train_a_common_start_and_three_paths_by_one_invitation(tmp_path):
    spec = tiny.specification(tmp_path, CHANGES)
    (tmp_path / "t.toml").write_text(toml.write(spec))
    words = ["serve", "t.toml", "--name", "family", "--listen", "127.0.0.1:0", "--no-relay"]
    serving = commands.Command(words, tmp_path, tmp_path / "served")
    closes = time.monotonic() + PATIENCE
    while not (line := re.search(r"duckweed1:\S+", serving.said())):
        assert serving.poll() is None, serving.said()
        assert time.monotonic() < closes, serving.said()
        time.sleep(0.05)
    peers = [
        commands.Command(
            ["join", line.group(), "--home", home, *tiny.OWN], tmp_path, tmp_path / f"{home}.out"
        )
        for home in ("ann", "bob")
    ]
    codes = [command.wait(PATIENCE) for command in (*peers, serving)]
    said = "\n".join(command.said() for command in (*peers, serving))
    assert codes == [0, 0, 0], said

    family = tmp_path / "runs" / "family"
    assert "bits per byte of held-out text" in serving.said()
    assert (family / "report.html").is_file()
    keys = {load_or_create(tmp_path / home / "peers" / "0" / "key").id for home in ("ann", "bob")}
    for name in RUNS:
        run = RunFolder(family / name)
        assert {entry.key for entry in entries(run, PeerEntry)} <= keys
        assert entries(run, StateEntry)[-1].hash
        assert (run.model / "config.json").is_file()
    taken = [home / name for home in (tmp_path / "ann", tmp_path / "bob") for name in RUNS[1:]]
    assert sum((RunFolder(run).model / "config.json").is_file() for run in taken) >= 3
