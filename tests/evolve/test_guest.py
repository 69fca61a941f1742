"""Trials on other machines, as real processes over real connections: given, taken back, audited."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from duckweed.evolve.workers import worker_protocol
from duckweed.evolve.workers.audit import Audit
from duckweed.evolve.workers.pool import Pool
from duckweed.evolve.workers.remote_worker import Guest, LinkSpec, invitations
from duckweed.evolve.workers.worker_protocol import ParcelError
from duckweed.net.identity import load_or_create
from duckweed.swarm.protocol.invitation import Invitation, InvitationError
from evolve.small import campaign, cell

LIMIT = 600.0
HONEST = "from duckweed.cli import main; main()"
# Trains each cell with other seeds than asked for: as many tokens, other weights.
LIAR = """
import msgspec
from duckweed.evolve.workers.worker_server import Lender
train = Lender._train
Lender._train = lambda self, campaign, cell: train(
    self, campaign, msgspec.structs.replace(cell, seed=cell.seed + 1))
from duckweed.cli import main; main()
"""
# Trains until there is a file "die" in its home, then dies in the middle of a cell.
MORTAL = """
import os, signal
from duckweed.evolve.workers.worker_server import Lender
train = Lender._train
def train_or_die(self, campaign, cell):
    if (self.home.parent / "die").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return train(self, campaign, cell)
Lender._train = train_or_die
from duckweed.cli import main; main()
"""


@contextlib.contextmanager
def machine(home: Path, program: str = HONEST):
    """A process of `duckweed evolve work` and its invitation."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, "evolve", "work", "--home", str(home), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"COLUMNS": "4000"},
    )  # fmt: skip
    assert process.stdout
    try:
        for line in process.stdout:
            if found := re.search(r"--workers (\S+)", line):
                yield process, found.group(1)
                break
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


class Ground:
    """A campaign with one process here, and guests."""

    def __init__(self, base: Path) -> None:
        self.folder, journal, plain = campaign(base)
        journal.close()
        self.cells = [cell(plain, seed, 5e8) for seed in range(4)]
        self.said: list[str] = []
        self.audits: list[bool] = []
        self.links = LinkSpec(load_or_create(self.folder.key))
        self.pool = Pool(self.folder, 1, lambda _, reason: self.said.append(reason))
        self.audit = Audit(self.pool, lambda _, a, b: self.audits.append(a.weights == b.weights))

    def invite(self, *lines: str) -> list[Guest]:
        guests = []
        for one in invitations(list(lines)):

            def make(number, one=one):
                guests.append(
                    Guest(one, number, self.folder, self.links, lambda _, r: self.said.append(r))
                )
                return guests[-1]

            self.pool.invite(make)
        return guests

    def run(self):
        """Weights and worker of each cell."""
        found = {}
        self.audit.run(
            [[c] for c in self.cells],
            lambda c, result: found.update({c.seed: (result.weights, result.worker)}),
            lambda: None,
            LIMIT,
        )
        return found


def until(guests: list[Guest]):
    """Wait until all are here."""
    while not all(guest.up for guest in guests):
        time.sleep(0.05)


@pytest.mark.slow
def test_a_guest_trains_the_same_weights_and_one_that_dies_loses_nothing(tmp_path):
    ground = Ground(tmp_path / "c")
    with machine(tmp_path / "guest", MORTAL) as (process, line), ground.pool:
        (guest,) = ground.invite(line)
        until([guest])
        found = ground.run()
        first = {seed: weights for seed, (weights, _) in found.items()}
        assert guest.number in {worker for _, worker in found.values()}
        assert ground.audits
        assert all(ground.audits)

        (tmp_path / "guest" / "die").touch()
        found = ground.run()
        assert process.wait(60) == -signal.SIGKILL
        assert {seed: weights for seed, (weights, _) in found.items()} == first
        assert guest.number not in {worker for _, worker in found.values()}
        assert any("gave it back" in text for text in ground.said)
    ground.links.close()


@pytest.mark.slow
def test_a_guest_that_lies_is_found_out_and_its_cells_are_run_elsewhere(tmp_path):
    ground = Ground(tmp_path / "c")
    with machine(tmp_path / "guest", LIAR) as (_, line), ground.pool:
        (guest,) = ground.invite(line)
        until([guest])
        found = ground.run()
        assert len(found) == len(ground.cells)
        assert guest.number not in {worker for _, worker in found.values()}
        assert guest.expelled
        assert ground.audits == [False]
        assert any("not asked again" in text for text in ground.said)
    ground.links.close()


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
    with pytest.raises(ParcelError, match="sends no file"):
        worker_protocol.unpack_campaign(files, tmp_path)
    with pytest.raises(ParcelError, match="exports no file"):
        worker_protocol.unpack_export(files, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("body", [b"", b"\xc1", b"[]", msgspec.msgpack.encode({"plain.toml": 1})])
def test_what_is_no_parcel_is_refused(body, tmp_path):
    with pytest.raises(ParcelError, match="not a parcel"):
        worker_protocol.unpack_export(body, tmp_path)
