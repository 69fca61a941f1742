"""Peers of a family that is served: a path that loses its last peer rests, and one of another path goes there."""

import asyncio
import contextlib
import threading

import pytest
from fixtures import tiny

from duckweed import participation, session
from duckweed.family import begin
from duckweed.family import serve as serving
from duckweed.learn.fit import Machine
from duckweed.ledger.entries import PeerEntry, RoundEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net import timeouts
from duckweed.net.identity import load_or_create
from duckweed.process.serving import Way
from duckweed.round import founding
from duckweed.run import spec as specs
from duckweed.run.folder import Destination, RunFolder
from duckweed.swarm.protocol import offers
from duckweed.volunteer.peer_home import PeerHome

pytestmark = pytest.mark.slow

PATIENCE = 200.0
CHANGES = {
    "paths.count": 2, "paths.prefix": 8, "rounds.count": 500, "paths.common": 0.002, "rounds.peers": 2,
    "rounds.evaluate": 1000,
}  # fmt: skip


def quiet(*words):
    pass


def key_of(home):
    return load_or_create(RunFolder(home).peer(0) / "key").id


def entries(run, kind):
    with contextlib.closing(Ledger(run.ledger)) as ledger:
        return [entry.body for entry in ledger.entries(kind)]


@contextlib.contextmanager
def served(family):
    """The coordinators of a family as processes, watched by a thread; gives its invitation."""
    told, ended, found = threading.Event(), threading.Event(), []

    def begun(invitation, at):
        found.append(invitation)
        told.set()

    def work():
        way = Way("127.0.0.1:0", own_relay=False)
        with contextlib.closing(serving.serve(family, way, quiet, begun, quiet)) as story:
            for _ in story:
                if ended.is_set():
                    return

    thread = threading.Thread(target=work)
    thread.start()
    assert told.wait(PATIENCE)
    try:
        yield found[0]
    finally:
        ended.set()
        thread.join(PATIENCE)


def test_the_last_peer_of_a_path_leaves_and_one_of_the_other_takes_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timeouts, "PATHS_LOOK", 1.0)
    rule, calm = offers.stay_or_go, [True]  # nobody moves before all three are at work
    monkeypatch.setattr(offers, "stay_or_go", lambda of, at, together: at if calm else rule(of, at))
    spec = tiny.specification(tmp_path, CHANGES)
    family = begin.found(
        spec, Destination(tmp_path, tmp_path / "runs", "f"), Machine("cpu"), (), quiet, quiet
    )
    for _ in session.simulate(family.common):
        pass
    runs, said = [family.folder.of_path(path) for path in range(2)], {}

    def paths():
        return offers.read(family.common.folder)

    async def until(true):
        async with asyncio.timeout(PATIENCE):
            while not true():
                await asyncio.sleep(0.1)

    async def scene(invitation):
        peers = {}
        for count, name in enumerate(("ann", "bob", "cy"), 1):
            home, words = PeerHome.of(str(invitation), tmp_path / name), said.setdefault(name, [])
            part = participation.join(home, ["text.txt"], "cpu", words.append, False, "config.json")
            peers[name] = asyncio.create_task(part)
            await until(lambda count=count: sum(x.here for x in paths()) == count)
        await until(lambda: all(x.rounds for x in paths()))
        await until(lambda: sorted(x.here for x in paths()) == [1, 2])
        lonely = [x.here for x in paths()].index(1)
        (leaver,) = [name for name in peers if said[name] and at_work(said[name]) == lonely]
        calm.clear()
        peers.pop(leaver).cancel()
        await until(
            lambda: any(offers.going(1 - lonely, lonely) in words for words in said.values())
        )
        before = len(entries(runs[lonely], RoundEntry))
        await until(lambda: len(entries(runs[lonely], RoundEntry)) > before)
        assert not any(task.done() for task in peers.values())
        for task in peers.values():
            task.cancel()
        await asyncio.gather(*peers.values(), return_exceptions=True)
        return lonely

    def at_work(words):
        begun = [x for x in words if x.startswith("training path")]
        return int(begun[-1].split()[2]) if begun else None

    with served(family) as invitation:
        lonely = asyncio.run(scene(invitation))

    closed = [entry.closed for entry in entries(runs[lonely], RoundEntry)]
    assert [x.round for x in closed] == list(range(len(closed)))  # none was lost
    index = {entry.key: entry.index for entry in entries(runs[lonely], PeerEntry)}
    mover = next(
        name
        for name in said
        if offers.going(1 - lonely, lonely) in said[name]
        and index.get(key_of(tmp_path / name)) in closed[-1].accepted
    )
    there = RunFolder(tmp_path / mover / f"path-{lonely}")
    router = founding.router_of(there, specs.load(there.spec))
    assert router.read_bytes() == family.folder.router.read_bytes()
    assert not list(tmp_path.glob(f"*/path-{lonely}/path-*"))
