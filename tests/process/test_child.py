"""Processes that are started, heard and ended."""

import logging
import queue
import signal
import subprocess
import sys

import pytest
from fixtures import tiny

from duckweed.process.child import FORESEEN, Child, ExitCode, end
from duckweed.process.local_run import LocalRun
from duckweed.run.events import Said
from duckweed.run.folder import RunFolder

ANSWERS = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"


@pytest.fixture
def start(tmp_path):
    """Starts a program; returns the child, its lines and exit code in one queue, and its log."""
    children = []

    def started(program):
        told = queue.Queue()
        log = tmp_path / "log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env={},
            )  # fmt: skip
        child = Child("it", process, told.put, told.put)
        children.append(child)
        return child, told, log

    yield started
    end(children, 0.1)


def test_what_it_says_comes_line_by_line_and_its_exit_code_last(start):
    _, told, log = start("import sys; print('one'); print('two'); print('x', file=sys.stderr)")
    assert [told.get(timeout=60) for _ in range(3)] == [b"one\n", b"two\n", ExitCode.DONE]
    assert log.read_text() == "x\n"


def test_it_answers_what_it_is_asked(start):
    child, told, _ = start(ANSWERS)
    for line in (b"one\n", b"two\n"):
        child.send(line)
        assert told.get(timeout=60) == line.upper()
    child.kill()
    assert told.get(timeout=60) == -signal.SIGKILL
    assert -signal.SIGKILL not in FORESEEN


def test_one_that_was_asked_to_end_and_does_not_is_killed(start):
    stubborn = "import time; print(1, flush=True); time.sleep(600)"
    willing = "import sys; print(1, flush=True); sys.stdin.read()"
    (one, told, _), (other, heard, _) = start(stubborn), start(willing)
    assert told.get(timeout=60) == heard.get(timeout=60) == b"1\n"
    end([one, other], 0.5)
    assert told.get(timeout=60) == -signal.SIGKILL
    assert heard.get(timeout=60) == ExitCode.DONE
    assert {ExitCode.DONE, -signal.SIGTERM} <= FORESEEN


def test_a_line_that_is_no_event_is_passed_over_and_logged(tmp_path, caplog):
    run = LocalRun(RunFolder(tmp_path), tiny.specification(tmp_path), "cpu", 1, 1)
    with caplog.at_level(logging.WARNING):
        for line in (
            b"Downloading ...\n",
            b'{"event": "left"}\n',
            b'{"event": "said", "text": "a"}\n',
        ):
            run._hear("peer 0", line)
    assert run._next_event() == Said("a")
    assert "peer 0 wrote a line that is no event: b'Downloading" in caplog.text
    assert "makes no sense" in caplog.text
