"""One process at a time, and the next one as soon as it has ended, however it ends."""

import subprocess
import sys
import threading

import pytest

from duckweed.run.lock import Busy, alone

HOLD = """
import sys
from pathlib import Path
from duckweed.run.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_while_another_process_holds_it_the_lock_is_busy_and_then_free(tmp_path, holder):
    lock = tmp_path / "lock"
    with pytest.raises(Busy, match="held by another process"), alone(lock, wait=False):
        pass
    holder.kill()
    holder.wait()
    with alone(lock, wait=False):
        assert lock.exists()


def test_whoever_waits_gets_it_when_it_is_free(tmp_path, holder):
    got = threading.Event()

    def wait():
        with alone(tmp_path / "lock"):
            got.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not got.is_set()
    holder.stdin.close()
    waiting.join(60)
    assert got.is_set()


def test_in_one_process_too_it_is_held_once_and_an_error_lets_it_go(tmp_path):
    lock = tmp_path / "lock"

    def fail():
        with alone(lock):
            with pytest.raises(Busy), alone(lock, wait=False):
                pass
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with alone(lock, wait=False):
        pass
