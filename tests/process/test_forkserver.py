"""Processes that are forked from one which has loaded what they need."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from duckweed.process import environment, forkserver
from duckweed.process.forkserver import ForkServer

MODULE = "fixtures.forked"
HERE = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def server():
    path = os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])
    with ForkServer(environment.of_child(1) | {"PYTHONPATH": path}) as server:
        yield server


def test_a_forked_process_is_like_one_that_was_started(server, tmp_path):
    words = ["one", "two words"]
    forked = server.start(MODULE, words, tmp_path / "forked")
    started = forkserver.start(MODULE, words, server.environment, tmp_path / "started")
    for process in (forked, started):
        process.stdin.write(b"a line\n")
        process.stdin.close()
    assert forked.stdout.read() == started.stdout.read()
    assert forked.wait(60) == started.wait(60) == 7
    assert (tmp_path / "forked").read_text() == (tmp_path / "started").read_text() == "error\n"


@pytest.mark.skipif(not forkserver.FORKS, reason="nothing is forked on this system")
def test_what_was_loaded_is_there_at_once(server, tmp_path):
    process = server.start(MODULE, ["loaded"], tmp_path / "log")
    process.stdin.close()
    assert b"torch transformers" in process.stdout.read()


def test_it_is_killed_and_its_end_is_told_as_that_of_any_process(server, tmp_path):
    process = server.start(MODULE, ["waits"], tmp_path / "log")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.kill()  # of one that has ended nothing is left to kill
    assert process.wait(60) == -signal.SIGKILL


def test_one_that_raises_ends_with_its_traceback_in_the_log(server, tmp_path):
    process = server.start(MODULE, ["raises"], tmp_path / "log")
    assert process.wait(60) == 1
    assert "LookupError: what was asked for" in (tmp_path / "log").read_text()


def test_where_the_fork_server_has_died_processes_are_started_anew(tmp_path):
    with ForkServer(environment.of_child(1) | {"PYTHONPATH": HERE}) as server:
        if server._server:
            server._server.kill()
            server._server.wait()
        for _ in range(100):
            process = server.start(MODULE, ["one"], tmp_path / "log")
            process.stdin.close()
            if process.wait(60) == 7:
                return
            time.sleep(0.05)  # its end has not been noticed yet
    pytest.fail("no process was started")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_ends_when_the_process_that_uses_it_is_killed(tmp_path):
    code = (
        "from duckweed.process.forkserver import ForkServer; import os, time\n"
        "print(ForkServer(os.environ)._server.pid, flush=True); time.sleep(600)"
    )
    user = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    server = int(user.stdout.readline())
    user.kill()
    user.wait()
    gone = os.pidfd_open(server) if Path(f"/proc/{server}").exists() else None
    if gone is not None:
        assert select.select([gone], [], [], 120)[0]
        os.close(gone)
