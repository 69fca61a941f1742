"""Trials on other machines, as real processes over real connections: given, taken back, audited."""

import contextlib
import re
import signal
import time
from pathlib import Path

import msgspec
import pytest
from fixtures import commands

from duckweed.evolve.workers import local_worker, worker_protocol
from duckweed.evolve.workers.audit import Audit
from duckweed.evolve.workers.pool import Batch, Pool
from duckweed.evolve.workers.remote_worker import Connections, RemoteWorker, invitations
from duckweed.evolve.workers.worker_protocol import WorkerProtocolError
from duckweed.net.identity import load_or_create
from duckweed.swarm.protocol.invitation import Invitation, InvitationError
from evolve.tiny_campaign import campaign, trial

LIMIT = 600.0


@contextlib.contextmanager
def machine(home: Path, kind: str):
    """A process of `duckweed evolve work` and its invitation. kind: as in `evolve.workers.machine`."""
    said = home.parent / "machine.log"
    process = commands.Command(
        ["evolve", "work", "--home", home, "--listen", "127.0.0.1:0"], home.parent, said,
        env={"COLUMNS": "4000", "MACHINE": kind}, module="evolve.workers.machine",
    )  # fmt: skip
    try:
        while not (found := re.search(r"--workers (\S+)", process.said())):
            assert process.poll() is None, process.said()
            time.sleep(0.05)
        yield process, found.group(1)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _one_fork_server(monkeypatch):
    monkeypatch.setattr(local_worker, "fork_server", commands.lent)


class PoolWithRemotes:
    """A campaign with one process here, and remotes."""

    def __init__(self, base: Path) -> None:
        self.folder, journal, plain = campaign(base)
        journal.close()
        self.trials = [trial(plain, seed, 5e8) for seed in range(4)]
        self.said: list[str] = []
        self.audits: list[bool] = []
        self.connections = Connections(load_or_create(self.folder.key))
        self.pool = Pool(self.folder, 1, lambda _, reason: self.said.append(reason))
        self.audit = Audit(self.pool, lambda _, a, b: self.audits.append(a.weights == b.weights))

    def invite(self, *lines: str) -> list[RemoteWorker]:
        remotes = []
        for one in invitations(list(lines)):

            def make(number, one=one):
                remotes.append(
                    RemoteWorker(
                        one, number, self.folder, self.connections, lambda _, r: self.said.append(r)
                    )
                )
                return remotes[-1]

            self.pool.invite(make)
        return remotes

    def run(self):
        """Weights and worker of each trial."""
        found = {}
        self.audit.run(
            Batch(
                [[trial] for trial in self.trials],
                lambda trial, result: found.update({trial.seed: (result.weights, result.worker)}),
                LIMIT,
            )
        )
        return found


def until(remotes: list[RemoteWorker]):
    """Wait until all are here."""
    while not all(remote.up for remote in remotes):
        time.sleep(0.05)


@pytest.mark.slow
def test_a_remote_worker_trains_the_same_weights_and_one_that_dies_loses_nothing(tmp_path):
    ground = PoolWithRemotes(tmp_path / "c")
    with machine(tmp_path / "remote", "mortal") as (process, line), ground.pool:
        (remote,) = ground.invite(line)
        until([remote])
        found = ground.run()
        first = {seed: weights for seed, (weights, _) in found.items()}
        assert remote.number in {worker for _, worker in found.values()}
        assert ground.audits
        assert all(ground.audits)

        (tmp_path / "remote" / "die").touch()
        found = ground.run()
        assert process.wait(60) == -signal.SIGKILL
        assert {seed: weights for seed, (weights, _) in found.items()} == first
        assert remote.number not in {worker for _, worker in found.values()}
        assert any("gave it back" in text for text in ground.said)
    ground.connections.close()


@pytest.mark.slow
def test_a_remote_worker_that_lies_is_found_out_and_its_trials_are_run_elsewhere(tmp_path):
    ground = PoolWithRemotes(tmp_path / "c")
    with machine(tmp_path / "remote", "liar") as (_, line), ground.pool:
        (remote,) = ground.invite(line)
        until([remote])
        found = ground.run()
        assert len(found) == len(ground.trials)
        assert remote.number not in {worker for _, worker in found.values()}
        assert remote.expelled
        assert ground.audits == [False]
        assert any("not asked again" in text for text in ground.said)
    ground.connections.close()


def test_an_invitation_to_a_run_is_none_to_trials():
    other = Invitation("0" * 64, "1" * 64, ("127.0.0.1:1",), "secret")
    with pytest.raises(InvitationError, match="duckweed evolve work"):
        invitations([str(other)])
    with pytest.raises(InvitationError, match="not an invitation"):
        invitations(["two"])


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../plain.toml", "training/../../x", "training/.x", "training/a/b/c", "x.py",
     "training/" + "a" * 200, "", "training/a\x00b", "plain.toml\n"],
)  # fmt: skip
def test_files_of_other_names_are_refused_and_nothing_is_written(name, tmp_path):
    files = msgspec.msgpack.encode({"plain.toml": b"", name: b"x"})
    with pytest.raises(WorkerProtocolError, match="sends no file"):
        worker_protocol.unpack_campaign(files, tmp_path)
    with pytest.raises(WorkerProtocolError, match="exports no file"):
        worker_protocol.unpack_export(files, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("body", [b"", b"\xc1", b"[]", msgspec.msgpack.encode({"plain.toml": 1})])
def test_what_is_no_archive_is_refused(body, tmp_path):
    with pytest.raises(WorkerProtocolError, match="not an archive"):
        worker_protocol.unpack_export(body, tmp_path)
