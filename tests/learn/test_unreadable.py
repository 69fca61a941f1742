"""Files and folders that the user may not read."""

import contextlib
import ctypes
import os
import shutil
import sys

import pytest
from fixtures.documents import left_out, made, read, three_files, write

from duckweed.learn.data.reading import DataError


@contextlib.contextmanager
def as_nobody():
    """File access of a user that owns nothing, also for a test that runs as root (Linux)."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)
    libc.setfsuid(65534)
    try:
        yield
    finally:
        libc.setfsuid(0)


@pytest.fixture
def closed(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("setfsuid is Linux's")
    folder = three_files(tmp_path)
    for place in (folder, *folder.parents):
        if place.name.startswith(("pytest-", "popen-")):
            place.chmod(0o755)
    folder.chmod(0o755)
    # Python's own files may be closed to others too: what is loaded late is loaded now.
    write(folder / "warm/a.txt", "words " * 500)
    made(folder, "warm", folder / "warm-cache")
    with pytest.raises(DataError):
        read(folder, "nothing/*.parquet")
    shutil.rmtree(folder / "warm")
    yield folder
    for place in folder.rglob("*"):
        place.chmod(0o755)


@pytest.mark.parametrize("path", ["data", "data/*"])
def test_what_may_not_be_read_is_left_out_and_counted(closed, path):
    (closed / "data/b").chmod(0)
    write(closed / "data/z.txt", "z").chmod(0)
    with as_nobody():
        texts, counts, examples = left_out(closed, path)
    assert (texts, counts) == (["a.txt"], {"not readable": 2})
    assert examples["not readable"] == "data/b"


def test_what_may_not_be_read_and_is_all_there_is_ends_with_what_to_do(closed):
    (closed / "data/a.txt").chmod(0)
    (closed / "data/b").chmod(0)
    with as_nobody():
        with pytest.raises(DataError, match=r"data/a\.txt cannot be read: .*permissions"):
            read(closed, "data/a.txt")
        with pytest.raises(DataError, match=r"'data/b' has nothing .*read.*permissions"):
            read(closed, "data/b")


def test_a_file_that_may_be_read_again_is_read_again(closed, monkeypatch):
    cache = closed / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    write(closed / "data/z.txt", "z" * 3000).chmod(0)
    with as_nobody(), monkeypatch.context() as patch:
        # os.access asks for the user that the process was started by, whom as_nobody() leaves.
        patch.setattr(os, "access", lambda path, mode: path.name != "z.txt")
        first = made(closed, "data", cache)
    (closed / "data/z.txt").chmod(0o644)
    assert made(closed, "data", cache).documents == first.documents + 1
    shutil.rmtree(cache)
