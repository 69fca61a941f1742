"""A run that is over: whoever asks is told so, for as long as anybody answers, and after that what is likely."""

import asyncio
import os
import subprocess
import sys

import pytest
from fixtures import tiny
from typer.testing import CliRunner

from duckweed import session
from duckweed.cli import app
from duckweed.net.identity import Identity
from duckweed.net.transport import LinkError
from duckweed.process.local_run import NO_LOOPBACK, LocalRun
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.swarm.peer.join import join
from duckweed.swarm.peer.status_client import status
from duckweed.swarm.protocol.invitation import Invitation

SMALL = {"rounds.peers": 1, "rounds.count": 1, "inner.steps": 2, "inner.warmup": 1}


@pytest.fixture(scope="module")
def over(tmp_path_factory):
    """A finished run."""
    base = tmp_path_factory.mktemp("over")
    spec = tiny.specification(base, SMALL)
    folder, ground, state = tiny.found(base, "one", spec)
    Simulation(folder, spec, founding.layout(folder), ground, state, "cpu").run()
    session.finish(session.Session(folder, spec, ground, "cpu", 1))
    return folder, spec


def told(*words):
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def test_the_folder_says_that_the_run_is_over_and_where_its_results_are(over):
    folder, _ = over
    code, text = told("status", str(folder.path))
    assert code == 0
    assert "is over: all 1 rounds are done, held-out loss" in text
    assert str(folder.model) in text
    assert str(folder.report) in text


def test_a_peer_that_was_there_to_the_end_knows_that_the_run_is_over(tmp_path):
    folder, _, _ = tiny.found(tmp_path, "home", tiny.specification(tmp_path, SMALL))
    folder.coordinator_key.unlink()  # in the home of a peer there is none
    folder.note({"over": "all rounds are done"})
    code, text = told("status", str(folder.path))
    assert code == 0
    assert "is over: all 1 rounds are done" in text
    assert "on the organiser's machine" in text


def test_while_a_finished_run_is_served_newcomers_hear_that_it_is_over(over, tmp_path):
    folder, spec = over
    secret = folder.read_secret()
    with LocalRun(folder, spec, "cpu", 1, 0) as run:
        serving = run.start(stays=True)
        port = next(a for a in serving.bound if a.startswith("127.")).rpartition(":")[2]
        there = Invitation(spec.identity, serving.id, (f"127.0.0.1:{port}",), secret)
        found = asyncio.run(status(there, Identity(os.urandom(32))))
        assert (found.round, found.rounds) == (1, 1)
        assert found.held_out is not None
        reason = asyncio.run(join(there, tmp_path / "guest", (), "cpu", lambda text: None))
    assert "the run is over, all 1 rounds are done, held-out loss" in reason
    with pytest.raises(
        LinkError, match=r"nobody answers at 127.*The run is over, .*duckweed doctor"
    ):
        asyncio.run(status(there, Identity(os.urandom(32))))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")
def test_without_a_loopback_a_local_run_ends_at_once_and_says_why(tmp_path):
    """In a network namespace of its own the loopback interface is down."""
    code = """
import sys
from pathlib import Path
from duckweed.process.local_run import LocalRun, RunFailed
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
with LocalRun(RunFolder(Path(sys.argv[1])), RunSpec(), "cpu", 1, 1) as run:
    try:
        run.start()
    except RunFailed as error:
        print(error)
"""
    command = ["unshare", "-n", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if "unshare" in done.stderr:
        pytest.skip("namespaces are not allowed here")
    assert done.stdout.strip() == NO_LOOPBACK
    assert "ip link set lo up" in NO_LOOPBACK
