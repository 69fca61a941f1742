"""A ledger is read without writing anything: on read-only media, and of a run that is not one's own."""

import os
import shutil
import subprocess
import sys
from contextlib import closing

import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import GenesisEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import Identity
from duckweed.run import toml

KEY = Identity(b"k" * 32)


def genesis():
    return GenesisEntry(
        run="r" * 64, coordinator=KEY.id, spec="", layout="", tokens="", windows=1, state="", scales=[],
        parameters=1, data="",
    )  # fmt: skip


@pytest.fixture
def medium(tmp_path):
    """A small disk that becomes read-only when it is told to."""
    place = tmp_path / "medium"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("mounting needs root on Linux")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield place, lambda: subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    subprocess.run(["umount", place], check=True)


def read(path):
    with closing(Ledger(path)) as ledger:
        return [entry.kind for entry in ledger.entries(GenesisEntry)]


def test_a_reader_leaves_nothing_behind(tmp_path):
    path = tmp_path / "ledger.db"
    with closing(Ledger(path, KEY.sign)) as ledger:
        ledger.append(0, genesis())
        assert read(path) == ["genesis"]  # while it is being written
    before = path.read_bytes()
    assert read(path) == ["genesis"]
    assert [x.name for x in tmp_path.iterdir()] == ["ledger.db"]
    assert path.read_bytes() == before
    with pytest.raises(LedgerError, match="no such file"):
        Ledger(tmp_path / "none.db")
    with closing(Ledger(path)) as ledger, pytest.raises(LedgerError, match="for reading only"):
        ledger.append(0, genesis())


def test_a_ledger_is_read_on_read_only_media(medium):
    place, lock = medium
    with closing(Ledger(place / "ledger?#%20.db", KEY.sign)) as ledger:
        ledger.append(0, genesis())
    lock()
    assert read(place / "ledger?#%20.db") == ["genesis"]


def test_what_a_crash_left_on_read_only_media_is_read_whole(medium, tmp_path):
    place, lock = medium
    with closing(Ledger(tmp_path / "ledger.db", KEY.sign)) as ledger:
        ledger.append(0, genesis())
        for end in ("", "-wal"):
            shutil.copyfile(tmp_path / f"ledger.db{end}", place / f"ledger.db{end}")
    lock()
    assert read(place / "ledger.db") == ["genesis"]


@pytest.mark.slow
def test_a_run_is_shown_asked_and_measured_on_read_only_media(medium, tmp_path):
    place, lock = medium
    spec = tiny.specification(tmp_path, {"rounds.peers": 1, "rounds.count": 1})
    (tmp_path / "run.toml").write_text(toml.write(spec))

    def duckweed(*words):
        done = commands.run(words, tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    duckweed("train", "run.toml", "--simulate", "--runs", str(place), "--name", "run")
    lock()
    run = str(place / "run")
    assert "signatures hold" in duckweed("show", run)
    assert "run is over: all 1 rounds are done" in duckweed("status", run)
    assert "the" in duckweed("generate", run, "--prompt", "the", "--tokens", "4")
    assert "bits per byte" in duckweed("evaluate", run, "--data", "text.txt")
    # The model of a run is a model like any other.
    model = str(place / "run" / "model")
    assert "the" in duckweed("generate", model, "--prompt", "the", "--tokens", "4")
    assert "bits per byte" in duckweed("evaluate", model, "--data", "text.txt")
    assert "This run is finished" in duckweed("train", "--resume", run)
