"""A volunteer's Windows: no `fcntl` and `resource`, no signal handlers in loops, no gentle kill.

There is none here, so all processes of a run are started where these things are missing: what
duckweed asks for is refused, as it would be there.
"""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from fixtures import tiny

from duckweed.ledger.entries import RoundEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import verify
from duckweed.run import toml
from duckweed.run.events import RoundClosed, RunEnded
from duckweed.run.folder import RunFolder

pytestmark = pytest.mark.slow
PATIENCE = 120.0

# Python runs it in every process before anything else. asyncio itself needs some of these modules on
# this system; duckweed's own modules get none of them.
MISSING = """
import asyncio, builtins, os, subprocess, sys

HIDDEN = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
found = builtins.__import__

def searched(name, globals=None, locals=None, fromlist=(), level=0):
    asking = (globals or {}).get("__name__", "")
    if not level and name.partition(".")[0] in HIDDEN and asking.startswith("duckweed"):
        raise ImportError(f"No module named {name!r} on this system")
    return found(name, globals, locals, fromlist, level)

def refused(*_):
    raise NotImplementedError

def ended_at_once(pid, number, kill=os.kill):
    kill(pid, number and 9)  # TerminateProcess: what is killed there can do nothing about it

builtins.__import__ = searched
asyncio.SelectorEventLoop.add_signal_handler = refused
subprocess.Popen.terminate = subprocess.Popen.kill
os.kill = ended_at_once
for name in ("getloadavg", "killpg", "nice"):
    delattr(os, name)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with a specification, and an environment in which the modules are missing."""
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "sitecustomize.py").write_text(MISSING)
    paths = [str(tmp_path / "missing"), os.environ.get("PYTHONPATH", "")]
    return tmp_path, os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "1000"}


def specify(base, changes):
    spec = tiny.specification(base, {"rounds.peers": 2, "rounds.patience": 60.0} | changes)
    (base / "run.toml").write_text(toml.write(spec))


def start(elsewhere, log, *words):
    base, environment = elsewhere
    with (base / log).open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "duckweed", *words],
            cwd=base, env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def until(true, log):
    closes = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < closes, log.read_text()
        time.sleep(0.1)
    return found


def closed(folder):
    """The rounds in the ledger of a run that has ended, chain and signatures checked."""
    ledger = Ledger(folder.ledger)
    ledger.verify(verify)
    rounds = [entry.round for entry in ledger.entries(RoundEntry)]
    ledger.close()
    return rounds


def test_what_is_hidden_is_missed_by_duckweed_alone(elsewhere):
    _, environment = elsewhere
    code = "import fcntl, os, sys; exec('import resource', {'__name__': 'duckweed.x'})"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert b"No module named 'resource' on this system" in done.stderr


def test_a_run_is_trained_to_its_end(elsewhere):
    base, _ = elsewhere
    specify(base, {"rounds.count": 2})
    process = start(elsewhere, "train.log", "train", "run.toml", "--name", "here")
    said = base / "train.log"
    assert process.wait(PATIENCE) == 0, said.read_text()
    folder = RunFolder(base / "runs" / "here")
    assert closed(folder) == [0, 1]
    assert folder.report.exists()
    assert list(folder.records(RunEnded))


def test_a_stopped_coordinator_ends_in_order_and_so_does_a_volunteer(elsewhere):
    base, _ = elsewhere
    specify(base, {"rounds.count": 1000})
    serving = start(
        elsewhere, "serve.log", "serve", "run.toml", "--name", "here", "--train", "1",
        "--listen", "127.0.0.1:0",
    )  # fmt: skip
    said, joined = base / "serve.log", base / "join.log"
    folder = RunFolder(base / "runs" / "here")
    try:
        line = until(lambda: re.search(r"duckweed1:\S+", said.read_text()), said)[0]
        volunteer = start(elsewhere, "join.log", "join", line, *tiny.OWN, "--nice", "5")
        until(lambda: any(folder.records(RoundClosed)), joined)
        volunteer.send_signal(signal.SIGINT)
        assert volunteer.wait(PATIENCE) == 130, joined.read_text()
        assert "Left." in joined.read_text()
        serving.send_signal(signal.SIGINT)
        assert serving.wait(PATIENCE) == 130, said.read_text()
    finally:
        serving.kill()
    assert "Stopped after" in said.read_text()
    assert closed(folder)[0] == 0
    assert list(folder.records(RunEnded))  # written by a coordinator that was not killed
