"""A family that is served by one command: trained by peers that join by one invitation and by peers beside it, killed
and gone on with, shown as a page, mirrored and logged."""

import json
import os
import re
import signal
import time
import urllib.request

import numpy as np
import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import PeerEntry, RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.merge import trunk
from duckweed.net.identity import load_or_create
from duckweed.round import export, founding
from duckweed.run import spec as specs
from duckweed.run import toml
from duckweed.run.events import Sampled
from duckweed.run.folder import RunFolder

pytestmark = pytest.mark.slow

PATIENCE = 200.0
CHANGES = {
    "paths.count": 3, "paths.prefix": 8, "rounds.count": 3, "paths.common": 0.34, "rounds.peers": 2,
    "rounds.patience": 10.0,
}  # fmt: skip
RUNS = ["common", "path-0", "path-1", "path-2"]


def entries(run, kind):
    if not run.ledger.exists():
        return []
    ledger = Ledger(run.ledger)
    found = [entry.body for entry in ledger.entries(kind)]
    ledger.close()
    return found


def soon(true, command):
    """Wait for something to become true while a command runs; returns it."""
    closes = time.monotonic() + PATIENCE
    while not (found := true()):
        assert command.poll() is None, command.said()
        assert time.monotonic() < closes, command.said()
        time.sleep(0.05)
    return found


def serve(tmp_path, *words):
    """`duckweed serve` of something, and the invitation that it prints."""
    words = ["serve", *words, "--no-relay"]
    serving = commands.Command(words, tmp_path, tmp_path / f"served-{len(words)}")
    return serving, soon(lambda: re.search(r"duckweed1:\S+", serving.said()), serving).group()


def test_two_peers_train_a_common_start_and_three_paths_by_one_invitation_though_it_is_killed(
    tmp_path,
):
    spec = tiny.specification(tmp_path, CHANGES)
    (tmp_path / "t.toml").write_text(toml.write(spec))
    serving, line = serve(tmp_path, "t.toml", "--name", "family", "--listen", "127.0.0.1:0")
    peers = [
        commands.Command(
            ["join", line, "--home", home, *tiny.OWN], tmp_path, tmp_path / f"{home}.out"
        )
        for home in ("ann", "bob")
    ]
    family = tmp_path / "runs" / "family"
    paths = [RunFolder(family / name) for name in RUNS[1:]]
    soon(lambda: any(entries(run, RoundEntry) for run in paths), serving)
    os.kill(serving.pid, signal.SIGKILL)
    serving.wait(PATIENCE)
    serving, again = serve(tmp_path, "runs/family")
    assert again == line  # who has it can still come
    codes = [command.wait(PATIENCE) for command in (*peers, serving)]
    said = "\n".join(command.said() for command in (*peers, serving))
    assert codes == [0, 0, 0], said

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


def test_peers_that_join_train_paths_with_a_trunk_though_the_organiser_is_killed(tmp_path):
    changes = {"paths.count": 2, "paths.shared": "trunk", "rounds.peers": 3, "rounds.count": 6}
    spec = tiny.specification(tmp_path, CHANGES | changes)
    (tmp_path / "t.toml").write_text(toml.write(spec))
    serving, line = serve(tmp_path, "t.toml", "--name", "family", "--listen", "127.0.0.1:0")
    peers = [
        commands.Command(
            ["join", line, "--home", home, *tiny.OWN], tmp_path, tmp_path / f"{home}.out"
        )
        for home in ("ann", "bob", "cat")
    ]
    paths = [RunFolder(tmp_path / "runs" / "family" / name) for name in RUNS[1:3]]
    soon(lambda: any(entries(run, RoundEntry) for run in paths), serving)
    os.kill(serving.pid, signal.SIGKILL)
    serving.wait(PATIENCE)
    serving, _ = serve(tmp_path, "runs/family")
    codes = [command.wait(PATIENCE) for command in (*peers, serving)]
    said = "\n".join(command.said() for command in (*peers, serving))
    assert codes == [0, 0, 0, 0], said
    rounds = [[entry.closed for entry in entries(run, RoundEntry)] for run in paths]
    assert [len(each) for each in rounds] == [4, 4]
    for one, other in zip(*rounds, strict=True):
        assert one.trunk == other.trunk
        assert one.accepted
        assert other.accepted
    split = trunk.divided(spec.paths, founding.layout(paths[0]))
    ends = [export.latest_state(run, specs.load(run.spec)) for run in paths]
    np.testing.assert_array_equal(*(split.trunk.take(end.weights) for end in ends))


def test_peers_beside_it_train_all_paths_and_page_mirror_and_tools_have_each_run(tmp_path):
    pytest.importorskip("tensorboard")
    spec = tiny.specification(tmp_path, CHANGES)
    (tmp_path / "t.toml").write_text(toml.write(spec))
    serving, _ = serve(
        tmp_path, "t.toml", "--name", "family", "--listen", "127.0.0.1:0", "--train", "2",
        "--page", "127.0.0.1:0", "--log", "tensorboard", "--mirror", "copy",
    )  # fmt: skip
    url = re.search(r"shown at (\S+)", serving.said()).group(1)
    family = tmp_path / "runs" / "family"
    soon(lambda: entries(RunFolder(family / "path-0"), RoundEntry), serving)
    listed = urllib.request.urlopen(url, timeout=20).read().decode()
    assert all(f"run/{name}/" in listed for name in RUNS)
    shown = urllib.request.urlopen(f"{url}run/path-0/", timeout=20).read().decode()
    assert "path-0: a run of duckweed" in shown
    assert serving.wait(PATIENCE) == 0, serving.said()

    assert "bits per byte of held-out text" in serving.said()
    for name in RUNS:
        run, mirror = (
            RunFolder(family / name),
            tmp_path / "copy" / ("" if name == "common" else name),
        )
        assert len({entry.key for entry in entries(run, PeerEntry)}) >= 1
        assert entries(run, StateEntry)[-1].hash
        assert json.loads((mirror / "index.json").read_text())["run"] == run_identity(run)
        assert list((run.path / "tensorboard").iterdir())
        assert [x.text for x in run.records(Sampled)]  # what its model wrote for the page


def run_identity(run):
    from duckweed.run import spec as specs

    return specs.load(run.spec).identity
