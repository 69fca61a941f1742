"""A volunteer's machine, by the commands that a person would type: real processes over real links."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time

import msgspec
import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import RoundEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.timeouts import SILENCE
from duckweed.process.local_run import LocalRun
from duckweed.run.folder import RunFolder
from duckweed.swarm.blobs.mirroring import mirrored
from duckweed.swarm.peer.status_client import status
from duckweed.swarm.protocol.invitation import Invitation, publish, published

pytestmark = pytest.mark.slow

PATIENCE = 120.0


def duckweed(*words, cwd, **more):
    return commands.run(words, cwd, timeout=PATIENCE, **more)


class Volunteer:
    """A `duckweed join` that runs, and what it says."""

    def __init__(self, cwd, log, *words):
        self.log = log
        env = {"COLUMNS": "1000"}
        self.process = commands.Command(["join", *tiny.OWN, *words], cwd, log, env=env)

    def said(self):
        return self.log.read_text()

    def says(self, words):
        closes = time.monotonic() + PATIENCE
        while words not in self.said():
            assert time.monotonic() < closes, f"never said {words!r}:\n{self.said()}"
            assert self.process.poll() is None or words in self.said(), self.said()
            time.sleep(0.1)

    def ends(self):
        return self.process.wait(PATIENCE)


class Served:
    """A run with one peer beside the coordinator, an invitation from the command line."""

    def __init__(self, base, name, changes):
        self.base = base
        facts = {"rounds.count": 1000, "rounds.peers": 1, "inner.steps": 200}
        self.spec = tiny.specification(base, facts | changes)
        self.folder, _, _ = tiny.found(base, name, self.spec)

    def __enter__(self):
        self.run = LocalRun(self.folder, self.spec, "cpu", 1, 1, forks=commands.forks())
        self.run.__enter__()
        serving = self.run.start()
        port = serving.bound[0].rpartition(":")[2]
        publish(
            self.folder,
            Invitation(self.spec.identity, serving.id, (f"127.0.0.1:{port}",), ""),
        )
        self.until(lambda seen: seen["members"])  # its own peer takes its time to come
        return self

    def __exit__(self, *why):
        self.run.__exit__(*why)

    @property
    def own_peer(self):
        """The process of the peer beside the coordinator."""
        return int((self.folder.path / "peer0.pid").read_text())

    def invite(self, *words):
        made = duckweed("invite", self.folder.path, *words, cwd=self.base)
        assert made.returncode == 0, made.stderr
        return re.search(r"duckweed1:\S+", made.stdout)[0]

    def status(self):
        there = published(self.folder).with_secret(self.folder.read_secret())
        seen = asyncio.run(status(there, Identity(os.urandom(32))))
        return msgspec.to_builtins(seen)

    def until(self, true):
        closes = time.monotonic() + PATIENCE
        while not true(seen := self.status()):
            assert time.monotonic() < closes, seen
            time.sleep(0.1)
        return seen

    def counted(self, index):
        """How many contributions of a peer the ledger has."""
        ledger = Ledger(self.folder.ledger)
        closed = [entry.body.closed.accepted for entry in ledger.entries(RoundEntry)]
        ledger.close()
        return sum(index in accepted for accepted in closed)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    base = tmp_path_factory.mktemp("volunteer")
    with Served(base, "served", {}) as run:
        yield run


def one(seen, key):
    return next(x for x in seen["peers"] if x["key"] == key)


def test_a_volunteer_joins_pauses_resumes_is_suspended_and_leaves(served):
    """One peer through all of it, always the same to the run."""
    base, line = served.base, served.invite("--uses", "1", "--name", "Ann")
    dry = duckweed(
        "join", line, *tiny.OWN, "--home", "ann", "--dry-run", "--up", "20mbit", cwd=base
    )
    assert dry.returncode == 0, dry.stderr
    said = " ".join(dry.stdout.split())
    assert re.search(r"will train config\.json \(37 K parameters\) at about [\d,]+ tokens/s", said)
    assert re.search(r"in an hour; it takes about .* of memory and .* of disk", said)
    assert re.search(r"The coordinator is .* away, .*bit/s up, .*bit/s down", said)
    key = load_or_create(RunFolder(base / "ann").peer(0) / "key").id
    assert key not in [x["key"] for x in served.status()["peers"]]

    ann = Volunteer(base, base / "ann.log", line, "--home", "ann")
    index = one(served.until(lambda seen: key in [x["key"] for x in seen["peers"]]), key)["peer"]
    served.until(lambda seen: one(seen, key)["counted"] >= 1)
    other = duckweed("join", line, *tiny.OWN, "--home", "ben", cwd=base)
    assert other.returncode == 1
    assert "used up" in " ".join(other.stderr.split())
    twice = duckweed("join", line, *tiny.OWN, "--home", "ann", cwd=base)
    assert twice.returncode == 1
    assert "taking part already" in " ".join(twice.stderr.split())

    assert duckweed("pause", "ann", cwd=base).returncode == 0
    ann.says("pausing: paused by its volunteer")
    seen = served.until(lambda seen: not one(seen, key)["here"])
    resting = seen["round"]
    served.until(lambda seen: seen["round"] > resting)  # the others are not held up
    before = served.counted(index)
    assert duckweed("resume", "ann", cwd=base).returncode == 0
    ann.says("going on")
    served.until(lambda seen: one(seen, key)["counted"] > before)

    os.kill(ann.process.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    served.until(lambda seen: not one(seen, key)["here"])
    os.kill(served.own_peer, signal.SIGSTOP)  # it would only keep a core busy meanwhile
    time.sleep(max(0.0, stopped + SILENCE[1] + 15 - time.monotonic()))  # the link dies too
    before = one(served.status(), key)["counted"]
    os.kill(served.own_peer, signal.SIGCONT)
    os.kill(ann.process.pid, signal.SIGCONT)
    served.until(lambda seen: one(seen, key)["counted"] > before)

    gone = duckweed("leave", "ann", cwd=base)
    assert gone.returncode == 0
    assert "has left" in gone.stdout
    assert ann.ends() == 0
    assert "Done: left" in ann.said()
    assert not one(served.status(), key)["here"]
    shown = json.loads(duckweed("status", served.folder.path, "--json", cwd=base).stdout)
    assert one(shown, key)["doing"] == "gone"
    assert "not taking part" in duckweed("leave", "ann", cwd=base).stdout


def test_what_the_volunteer_allows_is_checked_before_anything_is_begun(served):
    base, line = served.base, served.invite()
    members = served.status()["members"]
    for option, amount, words in (
        ("--disk", "10kB", "--disk allows 10 kB"),
        ("--memory", "400MB", "--memory allows 400 MB"),
    ):
        refused = duckweed(
            "join", line, *tiny.OWN, "--home", f"eve{option}", option, amount, cwd=base
        )
        assert refused.returncode == 1
        assert words in " ".join(refused.stderr.split())
    writer = duckweed("join", line, *tiny.OWN, "--home", "fay", "--answers-only", cwd=base)
    assert writer.returncode == 1
    assert "only in reinforcement learning" in " ".join(writer.stderr.split())
    assert served.status()["members"] == members


def test_a_newcomer_takes_the_state_of_a_run_that_goes_on_from_its_mirror_and_counts(served):
    base, line, url, told = served.base, served.invite(), str(served.base / "mirror"), []
    served.until(lambda seen: seen["round"] >= 1)
    with mirrored(served.folder, url, told.append):
        mia = Volunteer(base, base / "mia.log", line, "--home", "mia", "--mirror", url)
        mia.says("from the mirror")
        key = load_or_create(RunFolder(base / "mia").peer(0) / "key").id
        served.until(lambda seen: any(x["key"] == key and x["counted"] for x in seen["peers"]))
    assert not told
    assert "asking the run's machines" not in mia.said()
    assert duckweed("leave", "mia", cwd=base).returncode == 0
    assert mia.ends() == 0


@pytest.fixture
def small(tmp_path):
    """A disk of 4 MB."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path], check=False)
    if made.returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_full_disk_ends_a_peer_with_words_and_with_room_again_it_goes_on(served, small):
    home, line = small / "dan", served.invite()
    dan = Volunteer(served.base, served.base / "dan.log", line, "--home", home)
    dan.says("fetching the state")
    filler = small / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert dan.ends() == 1
    said = " ".join(dan.said().split())
    assert "is full" in said
    assert "make room" in said
    filler.unlink()
    again = Volunteer(served.base, served.base / "dan2.log", "--home", home)
    key = load_or_create(RunFolder(home).peer(0) / "key").id
    before = one(served.status(), key)["counted"]
    served.until(lambda seen: one(seen, key)["counted"] > before)
    assert duckweed("leave", home, cwd=served.base).returncode == 0
    assert again.ends() == 0
