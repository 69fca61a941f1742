"""What a coordinator's log says, and that it says nothing unless it is asked to."""

import subprocess
import sys

import pytest
from fixtures import commands, tiny

from duckweed.process.local_run import LocalRun
from duckweed.process.logs import VARIABLE, configure

WARN = "import duckweed, logging; logging.getLogger('duckweed.net.transport').warning('lost')"


def output(code, monkeypatch, level=None):
    if level:
        monkeypatch.setenv(VARIABLE, level)
    else:
        monkeypatch.delenv(VARIABLE, raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_the_library_is_silent_unless_it_is_asked_to_speak(monkeypatch):
    setup = "from duckweed.process import logs; logs.configure(); "
    assert output(WARN, monkeypatch) == ""
    assert output(setup + WARN, monkeypatch) == ""
    said = output(setup + WARN, monkeypatch, "info")
    assert "WARNING duckweed.net.transport: lost" in said


def test_an_unknown_level_is_an_error_that_names_the_levels(monkeypatch):
    monkeypatch.setenv(VARIABLE, "loud")
    with pytest.raises(ValueError, match="'loud'; it must be one of debug, info, warning"):
        configure()


@pytest.mark.slow
def test_the_log_of_a_coordinator_names_who_connected(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "debug")
    spec = tiny.specification(tmp_path, {"rounds.count": 1, "rounds.peers": 1})
    folder, _, _ = tiny.found(tmp_path, "run", spec)
    with LocalRun(folder, spec, "cpu", 1, 1, forks=commands.forks()) as run:
        run.start()
        for _ in run.events():
            pass
    said = (folder.logs / "coordinator.log").read_text()
    assert "duckweed.net.transport:" in said
    assert "connected from 127.0.0.1" in said
