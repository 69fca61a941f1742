"""The folder of a run."""

import os

import pytest

from duckweed.run import folder as folders
from duckweed.run.events import FinalLoss, RoundClosed
from duckweed.run.folder import FolderError, RunFolder, write_atomically


def test_a_new_folder_has_its_parts_and_is_found_once_it_has_a_specification(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = folders.create(tmp_path / "runs", "one")
    for part in (made.states, made.blobs, made.logs):
        assert part.is_dir()
    with pytest.raises(FolderError, match="no run there"):
        folders.find(made.path)
    made.spec.write_text("seed = 1\n")
    assert folders.find(made.path).path == made.path
    assert folders.find(folders.Path("one")).path.resolve() == made.path
    with pytest.raises(FolderError, match=r"two.*Runs here: one"):
        folders.find(folders.Path("two"))


def test_a_folder_that_exists_is_not_touched(tmp_path):
    made = folders.create(tmp_path, "one")
    (made.path / "precious").write_text("data")
    with pytest.raises(FolderError, match=r"exists already.*remove it.*--name"):
        folders.create(tmp_path, "one")
    assert (made.path / "precious").read_text() == "data"


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../up", "a b", "ä", "x" * 101, "a\n"]
)
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(FolderError, match="not a name"):
        folders.create(tmp_path / "runs", name)
    assert not list(tmp_path.iterdir())


def test_the_next_free_name(tmp_path):
    assert folders.next_name(tmp_path / "none", "train") == "train-1"
    for name in ("train-1", "train-3", "other-2"):
        folders.create(tmp_path, name)
    assert folders.next_name(tmp_path, "train") == "train-2"


def test_saved_rounds_pass_over_what_is_no_state(tmp_path):
    made = RunFolder(tmp_path)
    made.states.mkdir()
    for name in (
        "00000010.safetensors",
        "00000002.safetensors",
        "x.safetensors",
        "00000011.7.part",
    ):
        (made.states / name).touch()
    assert made.saved_rounds() == [2, 10]


def test_a_line_that_a_crash_cut_off_loses_no_other(tmp_path):
    made = RunFolder(tmp_path)
    assert list(made.records(RoundClosed)) == []
    made.record(RoundClosed(round=0, seconds=1.0))
    made.record(RoundClosed(round=1, seconds=1.0))
    size = made.metrics.stat().st_size
    os.truncate(made.metrics, size - 5)
    assert [r.round for r in made.records(RoundClosed)] == [0]
    made.record(RoundClosed(round=1, seconds=1.0))
    made.record(FinalLoss(2.0, round=2))
    assert [r.round for r in made.records(RoundClosed)] == [0, 1]
    assert [r.round for r in made.records(RoundClosed, FinalLoss)] == [0, 1, 2]


def test_metrics_hold_no_nan(tmp_path):
    made = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        made.record(RoundClosed(round=0, seconds=1.0, loss=float("nan")))
    assert not made.metrics.exists()


def test_a_write_that_fails_leaves_the_old_contents(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "name", ["..", "../x", "/etc/passwd", ".hidden", "", "a/b", "a\\b", "a\n", "x" * 101]
)
def test_a_name_from_the_network_leads_nowhere_else(tmp_path, name):
    with pytest.raises(ValueError, match="plain name"):
        folders.inside(tmp_path, name)
    with pytest.raises(ValueError, match="plain name"):
        RunFolder(tmp_path).blob(name)
    assert folders.inside(tmp_path, "ab" * 32).parent == tmp_path


def test_a_private_folder_is_its_owners_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        (tmp_path / "old").mkdir(mode=0o755)
        for name in ("old", "new"):
            assert folders.private(tmp_path / name).stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
