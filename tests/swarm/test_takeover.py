"""A run that outlives its coordinator: real processes, real links, a real partition."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from fixtures import commands, tiny

from bench.wan.lab import Host, Lab, unavailable
from duckweed.ledger.entries import RUN, RoundEntry, SuccessionEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import load_or_create, verify
from duckweed.run.folder import RunFolder
from duckweed.swarm.protocol.invitation import Invitation

pytestmark = pytest.mark.slow

PATIENCE = 150.0
NAMES = ("anna", "ben")


def until(true, what):
    closes = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < closes, what() if callable(what) else what
        time.sleep(0.2)
    return found


class Swarm:
    """A coordinator and peers, each a process, each with a folder of its own; spawn: starts one."""

    def __init__(self, base, spawn, changes):
        self.base, self.spawn, self.processes = base, spawn, {}
        self.home = {"XDG_DATA_HOME": str(base / "data"), "COLUMNS": "1000"}
        lines = [self.identity(name) for name in NAMES]
        facts = {
            "members.successors": lines, "members.absence": 4.0, "rounds.peers": 3,
            "rounds.count": 1000, "rounds.checkpoint": 4, "inner.steps": 20,
        }  # fmt: skip
        self.spec = tiny.specification(base, facts | changes)
        self.folders = {"first": tiny.found(base, "run", self.spec)[0]}

    def identity(self, name):
        return commands.run(["identity", name], self.base, self.home).stdout.splitlines()[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(self, name, module, *words, host=None):
        log = self.base / f"{name}.log"
        self.processes[name] = self.spawn(host or name, module, words, self.base, self.home, log)

    def serve(self, address):
        folder = self.folders["first"].path
        self.address = address
        self.start(
            "first", "duckweed.process.entry", "coordinator", str(folder), "--address", address
        )
        until(lambda: (folder / "coordinator.pid").exists(), "the coordinator does not start")

    def local_peer(self):
        """A peer on the machine of the first coordinator."""
        folder = self.folders["first"]
        key = load_or_create(folder.coordinator_key).id
        self.start(
            "local", "duckweed.process.entry", "peer", str(folder.path), "--coordinator", key,
            "--addresses", self.address, host="first",
        )  # fmt: skip

    def join(self, *names):
        key = load_or_create(self.folders["first"].coordinator_key).id
        secret = self.folders["first"].read_secret()
        line = Invitation(self.spec.identity, key, (self.address,), secret)
        for name in names:
            home = self.base / name
            self.folders[name] = RunFolder(home)
            which = ["--identity", name] if name in NAMES else []
            self.start(
                name,
                "duckweed.cli",
                "join",
                str(line),
                "--home",
                str(home),
                "--device",
                "cpu",
                *tiny.OWN,
                *which,
            )

    def signal(self, name, number):
        os.killpg(self.processes[name].pid, number)
        if number == signal.SIGKILL:
            self.processes[name].wait()

    def entries(self, name, *kinds):
        """What the ledger of a machine says at this moment."""
        with (
            contextlib.suppress(LedgerError),
            contextlib.closing(Ledger(self.folders[name].ledger)) as ledger,
        ):
            return list(ledger.entries(*(kinds or RUN)))
        return []

    def rounds(self, name):
        return self.entries(name, RoundEntry)

    def terms(self, name):
        return [e.body.term for e in self.entries(name, SuccessionEntry)]

    def leader(self, name):
        """Which machine the ledger of a machine says leads."""
        last = self.entries(name, SuccessionEntry)[-1].body.key
        keys = {n: load_or_create(f.peer(0) / "key").id for n, f in self.folders.items()}
        keys["first"] = load_or_create(self.folders["first"].coordinator_key).id
        return next(n for n, key in keys.items() if key == last)

    def said(self):
        logs = sorted(self.base.glob("*.log"))
        return "\n".join(f"--- {x.name}\n{x.read_text()[-3000:]}" for x in logs)

    def reaches(self, names, count):
        """All these machines' ledgers have so many rounds."""
        until(lambda: all(len(self.rounds(x)) >= count for x in names), self.said)

    def takes_over(self, names, term):
        """All these machines' ledgers have a succession of this term or a later one."""
        until(lambda: all(max(self.terms(x), default=0) >= term for x in names), self.said)

    def agrees(self):
        """No two machines have closed the same round in two ways, nor agreed on two states; all ledgers
        hold."""
        seen = {}
        for name, folder in self.folders.items():
            with contextlib.closing(Ledger(folder.ledger)) as ledger:
                ledger.verify(verify)
            rounds = self.rounds(name)
            assert [e.round for e in rounds] == list(range(len(rounds)))
            for entry in self.entries(name)[: self.common()]:
                assert seen.setdefault(entry.number, entry.hash) == entry.hash
        return seen

    def common(self):
        """How many entries all have; the last few may not be held by a majority yet."""
        return max(0, min(len(self.entries(x)) for x in self.folders) - 4)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def here(_, module, words, folder, env, log):
    return commands.Command(words, folder, log, env=env, module=module)


def among(lab):
    """What starts a process on a host of a laboratory."""

    def start(host, module, words, folder, env, log):
        command = [sys.executable, "-c", f"import {module} as x; x.main()", *words]
        with log.open("ab") as out:
            return lab.run(
                host, command, cwd=folder, env=os.environ | env, stdout=out, stderr=out,
                stdin=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip

    return start


def test_a_successor_goes_on_and_the_old_coordinator_follows(tmp_path):
    with Swarm(tmp_path, here, {}) as swarm:
        swarm.serve(f"127.0.0.1:{free_port()}")
        swarm.join("anna", "ben", "carl")
        swarm.reaches(["first", "anna", "ben", "carl"], 2)
        swarm.signal("first", signal.SIGKILL)
        before = swarm.rounds("first")
        swarm.takes_over(["anna", "ben"], 1)
        swarm.reaches(["anna", "ben", "carl"], len(before) + 2)
        # What was closed stays closed; the last round of the old one may not have been.
        held = {e.hash for e in swarm.rounds("anna")}
        assert {e.hash for e in before[:-1]} <= held
        swarm.serve(swarm.address)
        swarm.takes_over(["first"], 1)
        swarm.reaches(["first", "anna", "ben", "carl"], len(before) + 4)
        # The leader freezes, is replaced, and wakes up believing that it still is.
        frozen, term = swarm.leader("first"), max(swarm.terms("first"))
        others = [x for x in ("first", *NAMES) if x != frozen]
        swarm.signal(frozen, signal.SIGSTOP)
        swarm.takes_over(others, term + 1)
        swarm.signal(frozen, signal.SIGCONT)
        swarm.takes_over([frozen, "carl"], term + 1)
        count = len(swarm.rounds("carl"))
        swarm.reaches(swarm.folders, count + 2)
        swarm.agrees()


@pytest.mark.skipif(bool(unavailable()), reason=f"no laboratory: {unavailable()}")
@pytest.mark.long  # tests/swarm/test_node.py has the same in virtual time
def test_a_partition_does_not_give_a_round_two_ends(tmp_path):
    hosts = [Host(name) for name in ("first", *NAMES)]
    with Lab(hosts) as lab, Swarm(tmp_path, among(lab), {}) as swarm:
        swarm.serve(f"{lab.address('first')}:7000")
        swarm.local_peer()
        swarm.join(*NAMES)
        swarm.reaches(["first", *NAMES], 2)
        lab.cut("first")
        swarm.takes_over(NAMES, 1)
        swarm.reaches(NAMES, len(swarm.rounds("first")) + 2)
        # The cut-off side, a coordinator and a peer, may have begun to close one round, not two.
        held = {e.hash for e in swarm.rounds("anna")}
        alone = [e for e in swarm.rounds("first") if e.hash not in held]
        assert len(alone) <= 1
        assert not swarm.terms("first")
        lab.join("first")
        swarm.takes_over(["first"], 1)
        swarm.reaches(swarm.folders, len(swarm.rounds("anna")) + 2)
        swarm.agrees()
        dropped = swarm.folders["first"].dropped
        assert dropped.exists() or not alone
        # The peer of the cut-off side takes part with the others again.
        local = load_or_create(swarm.folders["first"].peer(0) / "key").id
        until(lambda: counts(swarm, local), swarm.said)


def counts(swarm, key):
    """Whether a peer's work counted in the last round but one."""
    entries = swarm.entries("anna")
    indices = {e.body.index for e in entries if e.kind == "peer" and e.body.key == key}
    rounds = [e for e in entries if e.kind == "round"]
    return bool(indices & set(rounds[-2].body.closed.accepted))
