"""Peers on real endpoints fetch one blob from one another, and states from several donors."""

import asyncio
import contextlib
import functools
import random

import pytest

from duckweed.merge.round import blob_hash
from duckweed.net.identity import Identity
from duckweed.net.timeouts import UNKNOWN
from duckweed.net.transport import Endpoint
from duckweed.net.virtual import VirtualLoop
from duckweed.round.open_round import Member
from duckweed.run import folder as folders
from duckweed.swarm.blobs import multi_fetch, peer_links, pieces
from duckweed.swarm.blobs.peer_links import PeerLinks
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.coordinator import fetch_groups
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import QuestionRefused

BLOB = random.Random(1).randbytes(6 << 20)
DIGEST = blob_hash(BLOB)


class Hub:
    """Stands for the coordinator: a store, and who takes part."""

    def __init__(self, path):
        self.folder = folders.create(path, "hub")
        self.store, self.given = Store(self.folder), 0
        self.asked = 0  # about members
        self.members: list[Member] = []

    async def ask(self, question, body=b"", *, body_limit=0):
        if isinstance(question, m.IsMember):
            self.asked += 1
            known = any(x.key == question.key for x in self.members)
            if not known:
                raise QuestionRefused(question, "no")
            return m.Ack(), b""
        answer, data = self.store.blob_piece(question)
        assert len(data) <= body_limit
        self.given += len(data)
        return answer, data


class Peers:
    """So many peers, each with an endpoint and a folder of its own."""

    def __init__(self, path, hub, count):
        self.path, self.hub, self.count = path, hub, count

    async def __aenter__(self):
        self.near, self.tasks = [], []
        for n in range(self.count):
            endpoint = await Endpoint.bind(Identity(bytes([n + 1]) * 32), 1 << 20, "127.0.0.1:0")
            store = Store(folders.create(self.path, f"peer{n}"))
            near = PeerLinks(endpoint, store, self.hub)
            self.near.append(near)
            self.tasks.append(asyncio.create_task(near.serve()))
            addresses = [x for x in endpoint.bound if x.startswith("127.")]
            self.hub.members.append(Member(n, endpoint.id, here=True, addresses=addresses))
        return self

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        for near in self.near:
            near.close()
            with contextlib.suppress(Exception):
                await near.endpoint.close()

    def held(self, n):
        size, hashes = self.hub.store.pieces_of(DIGEST)
        return m.BlobManifest(
            size, hashes, fetch_groups.group(self.hub.members, self.hub.members[n])
        )


def play(path, count, scene):
    async def all_of_it():
        hub = Hub(path)
        hub.folder.blob(DIGEST).write_bytes(BLOB)
        async with Peers(path, hub, count) as peers:
            await asyncio.wait_for(scene(hub, peers), 60)

    asyncio.run(all_of_it())


def test_the_hub_gives_a_blob_about_once_and_each_peer_about_as_much_as_it_gets(
    tmp_path, monkeypatch
):
    for patience in ("HOLDER_SILENT", "HOLDER_EMPTY"):  # however busy this machine is
        monkeypatch.setattr(multi_fetch, patience, 60.0)

    async def scene(hub, peers):
        got = await asyncio.gather(
            *(x.blob(DIGEST, peers.held(n)) for n, x in enumerate(peers.near))
        )
        assert got == [BLOB] * 4
        assert hub.given < 2 * len(BLOB)  # a star would give four times the blob
        assert sum(x.given for x in peers.near) + hub.given >= 4 * len(BLOB)
        assert max(x.given for x in peers.near) < 2 * len(BLOB)

    play(tmp_path, 4, scene)


def test_a_peer_that_is_not_there_is_replaced(tmp_path):
    async def scene(hub, peers):
        held = peers.held(0)
        peers.tasks[2].cancel()
        await peers.near[2].endpoint.close()
        for near in peers.near:  # how long the dead one is waited for is not what is tested
            near.endpoint.connect = functools.partial(near.endpoint.connect, patience=3.0)
        got = await asyncio.gather(*(peers.near[n].blob(DIGEST, held) for n in (0, 1, 3)))
        assert got == [BLOB] * 3

    play(tmp_path, 4, scene)


def test_strangers_get_nothing_from_a_peer(tmp_path):
    async def scene(hub, peers):
        giver, stranger = peers.near
        path = giver.store.folder.blob(DIGEST)
        path.write_bytes(BLOB)
        hub.members.pop(1)
        holder = m.PeerAddress(hub.members[0].key, hub.members[0].addresses)
        with pytest.raises(QuestionRefused, match="takes no part"):
            await stranger.ask(holder, m.GetBlobPiece(DIGEST, 0), pieces.LEAST)
        assert giver.given == 0

    play(tmp_path, 2, scene)


def test_a_new_member_is_known_soon_however_many_strangers_have_asked(tmp_path):
    async def scene():
        hub = Hub(tmp_path)
        links = PeerLinks(None, None, hub)
        new = Identity(b"n" * 32).id
        for number in range(3000):
            assert not await links._member(f"{number:064x}")
            await asyncio.sleep(0.2)
        assert len(links._strangers) == peer_links.STRANGERS
        assert not await links._member(new)
        hub.members.append(Member(0, new, here=True))
        await asyncio.sleep(UNKNOWN + 0.1)
        assert await links._member(new)
        # Nor does a flood of keys make the peer ask its coordinator without end.
        asked = hub.asked
        for number in range(3000):
            await links._member(f"{number + 10**6:064x}")
        assert hub.asked - asked <= 50

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())


def test_the_newest_agreed_state_that_most_offer_is_taken(tmp_path):
    state, other = random.Random(2).randbytes(3 << 20), b"another" * 99999

    async def scene(hub, peers):
        for n, data in ((0, state), (1, state), (2, other)):
            peers.near[n].store.folder.state(4).write_bytes(data)
        peers.near[2].store.folder.state(9).write_bytes(other)  # nobody agreed on that
        at = [m.PeerAddress(x.key, x.addresses) for x in hub.members]
        donors = await peers.near[3].state(m.DonorList({0: "a", 4: "b"}, at[:3]), None)
        assert len(donors) == 2
        hashes = pieces.hashes_of(peers.near[0].store.folder.state(4))
        assert donors[0].saved == m.SavedState(4, len(state), hashes)
        assert await donors[1].ask(2) == state[2 * pieces.LEAST : 3 * pieces.LEAST]

    play(tmp_path, 4, scene)
