"""A real peer, and a coordinator that is at fault."""

import asyncio
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from fixtures import tiny
from fixtures.pretended import SPEC, first_entry

from duckweed.ledger.entries import Closed
from duckweed.merge.round import blob_hash
from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint
from duckweed.round import founding
from duckweed.round.worker import Worker
from duckweed.run.folder import RunFolder
from duckweed.run.state import State
from duckweed.swarm.peer import peer as room
from duckweed.swarm.peer.peer import Peer
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.errors import PeerStopped
from duckweed.swarm.protocol.server import accepting

UPDATE = b"no update at all"


class AtFault:
    """Admits a peer, says that its round has closed, and gives what is no update; or answers Next with
    what is no answer to it."""

    def __init__(self, tensors, nonsense=None):
        self.closed = Closed(0, [0], ["ab" * 32], [1], {}, blob_hash(UPDATE), [0.1] * tensors)
        self.nonsense, self.heard = nonsense, []
        self.genesis = None

    async def answer(self, key, question, body):
        self.heard.append(question)
        match question:
            case m.Join():
                return m.Welcome(0, "", -1, "", "", genesis=self.genesis), b""
            case m.Next():
                return self.nonsense or m.Apply(self.closed), b""
            case m.Fetch():
                return m.Blob(), UPDATE
        return m.Ack(), b""

    def good_byes(self):
        return [x.reason for x in self.heard if isinstance(x, m.Leave)]


class Silent(AtFault):
    """Admits a peer, and never answers what is to be done next."""

    async def answer(self, key, question, body):
        if isinstance(question, m.Next):
            await asyncio.sleep(60)
        return await super().answer(key, question, body)


def play(path, coordinator_of, done=False):
    """Run a peer of a small run until it ends; the coordinator, and how the peer ended. done: the peer
    holds the last state already."""
    spec = tiny.specification(path)
    folder, ground, state = tiny.found(path, "run", spec)
    layout = founding.layout(folder)
    worker = Worker(spec, layout, founding.learner(spec, ground, "cpu"))
    home = path / "home"
    for part in (home / "states", home / "blobs"):
        part.mkdir(parents=True)
    coordinator = coordinator_of(len(layout.names))

    async def all_of_it():
        key = Identity(b"c" * 32)
        coordinator.genesis = first_entry(spec, key)
        endpoint = await Endpoint.bind(key, m.HEAD_LIMIT, "127.0.0.1:0")
        accept = accepting(m.question, lambda key, question: 0, coordinator.answer)
        serving = asyncio.create_task(endpoint.serve(accept))
        where = (key.id, endpoint.addresses)
        me, shared = Identity(b"p" * 32), RunFolder(home)
        state.round = spec.rounds.count if done else 0
        peer = Peer(me, worker, state, home, shared, where, "", lambda text: None)
        try:
            return await asyncio.wait_for(peer.run(), 30)
        except (ValueError, PeerStopped) as error:
            return error
        finally:
            serving.cancel()
            await endpoint.close()

    return coordinator, asyncio.run(all_of_it())


def test_a_peer_that_cannot_apply_a_round_says_good_bye(tmp_path):
    """Else its round would wait for it until its silence is noticed."""
    coordinator, error = play(tmp_path, AtFault)
    assert isinstance(error, ValueError)
    assert coordinator.good_byes() == [str(error)]


def test_a_peer_that_gets_nonsense_says_what_it_asked_and_what_came(tmp_path):
    coordinator, error = play(tmp_path, lambda tensors: AtFault(tensors, m.Blob()))
    assert isinstance(error, PeerStopped)
    assert "the answer to Next is not Train or Write or Audit or Apply or Wait or Stop" in str(
        error
    )
    assert "'blob' came" in str(error)
    assert coordinator.good_byes() == [str(error)[:200]]


def test_a_peer_whose_coordinator_is_gone_in_the_last_second_keeps_the_last_state(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(room, "LAST_WORD", 0.5)
    _, reason = play(tmp_path, Silent, done=True)
    assert "all rounds are done" in reason
    assert "kept as this machine has it" in reason
    assert RunFolder(tmp_path / "home").saved_rounds() == [3]
    assert RunFolder(tmp_path / "home").local()["over"] == m.ALL_DONE


def test_a_peer_that_is_ended_while_it_writes_has_written_when_it_is_gone(tmp_path, monkeypatch):
    """Its folder may be another's then."""
    take_part, written, ended = Peer.run, [], []

    async def run(peer):
        task, loop = asyncio.ensure_future(take_part(peer)), asyncio.get_running_loop()

        def save(state, path):
            loop.call_soon_threadsafe(task.cancel)
            time.sleep(0.5)
            written.append(path)

        monkeypatch.setattr(State, "save", save)
        await asyncio.wait([task])
        ended.append((task.cancelled(), list(written)))

    monkeypatch.setattr(Peer, "run", run)
    play(tmp_path, lambda tensors: AtFault(tensors, m.Stop("over")))
    assert ended == [(True, [RunFolder(tmp_path / "home").state(0)])]


@pytest.mark.parametrize(
    "module", ["swarm.peer.status_client", "swarm.peer.peer", "swarm.protocol.client"]
)
def test_a_client_loads_no_server(module):
    code = (
        f"import sys, duckweed.{module}; "
        "print([x for x in sys.modules if x.startswith(('duckweed.swarm.node', 'duckweed.swarm.coordinator'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_answers_that_name_a_peer_by_an_index_that_it_lost_are_signed_anew(tmp_path):
    """A leader that took over may have lost that the peer was admitted, and number it anew."""
    key, home = Identity(b"c" * 32), RunFolder(tmp_path)
    worker, state = SimpleNamespace(spec=SPEC), SimpleNamespace(round=0)
    peer = Peer(key, worker, state, tmp_path, home, (key.id, []), "", lambda text: None)
    peer.index, peer._wrote = 3, ("answers", b"")
    for index, kept in ((3, True), (4, False)):
        peer._welcomed(m.Welcome(index, "", -1, "", "", genesis=first_entry(SPEC, key)))
        assert bool(peer._wrote) is kept
