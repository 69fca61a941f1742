"""A disk that fills: the command ends and says so, and goes on once there is room."""

import os
import subprocess
import sys
import time

import pytest
from fixtures import commands, tiny

from duckweed.process.child import ExitCode
from duckweed.process.local_run import LocalRun, RunFailed, _Ended
from duckweed.run import toml
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("mounting needs root on Linux")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=False
    ).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(disk):
    """Write until nothing more fits."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def begun(tmp_path, *words):
    out = tmp_path / "said"
    out.unlink(missing_ok=True)
    return commands.Command(["train", *words], tmp_path, out, env={"COLUMNS": "200"})


def test_a_run_whose_disk_fills_ends_and_goes_on_when_there_is_room(tmp_path, disk):
    changes = {
        "rounds.peers": 2,
        "rounds.count": 12,
        "rounds.checkpoint": 1,
        "rounds.patience": 60.0,
    }
    (tmp_path / "run.toml").write_text(toml.write(tiny.specification(tmp_path, changes)))
    folder = RunFolder(disk / "run")
    running = begun(tmp_path, "run.toml", "--runs", str(disk), "--name", "run")
    closes = time.monotonic() + 200
    while len(folder.saved_rounds()) < 2:
        assert time.monotonic() < closes
        assert running.poll() is None, running.said()
        time.sleep(0.05)
    fill(disk)
    code, said = running.wait(200), running.said()
    assert code == 1, said
    assert "full" in said
    again = begun(tmp_path, "--resume", str(folder.path))
    code, said = again.wait(200), again.said()
    assert code == 1, said
    assert "full" in said
    (disk / "ballast").unlink()
    whole = begun(tmp_path, "--resume", str(folder.path))
    code, said = whole.wait(400), whole.said()
    assert code == 0, said
    assert folder.report.is_file()


def test_a_run_is_not_begun_on_a_full_disk_and_leaves_its_name_free(tmp_path, disk):
    spec = tiny.specification(tmp_path, {"rounds.peers": 2, "rounds.count": 2})
    (tmp_path / "run.toml").write_text(toml.write(spec))
    fill(disk)
    running = begun(tmp_path, "run.toml", "--runs", str(disk), "--name", "run")
    code, said = running.wait(200), running.said()
    assert code == 1, said
    assert "is full" in said
    assert [x.name for x in disk.iterdir()] == ["ballast"]


def test_a_process_that_fails_without_a_word_is_told_of(tmp_path):
    """On a full disk there may be no room for its own words."""
    run = LocalRun(RunFolder(tmp_path), RunSpec(), "cpu", 1, 2)
    run._running = 3
    for slot in range(2):
        run._told.put(_Ended("peer", slot, ExitCode.FAILED))
    with pytest.raises(RunFailed, match=r"peer 1 ended with code 1; see .*logs"):
        list(run.events())
