"""Peers on real endpoints fetch one blob from one another, and states from several donors."""

import asyncio
import contextlib
import functools
import random

import msgspec
import numpy as np
import pytest

from duckweed.merge.round import blob_hash
from duckweed.net.identity import Identity
from duckweed.net.timeouts import UNKNOWN
from duckweed.net.transport import Endpoint, LinkError
from duckweed.net.virtual import VirtualLoop
from duckweed.round.open_round import Member
from duckweed.run import folder as folders
from duckweed.run import state as states
from duckweed.run.layout import Layout
from duckweed.swarm.blobs import multi_fetch, peer_links, pieces
from duckweed.swarm.blobs.peer_links import PeerLinks
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.coordinator import fetch_groups
from duckweed.swarm.peer.newest_state import newest
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
    for patience in (
        "HOLDER_SILENT",
        "HOLDER_EMPTY",
        "HOLDER_LEAST",
    ):  # however busy this machine is
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
        assert hub.asked - asked <= 100

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scene())


def test_the_newest_agreed_state_that_most_offer_is_taken(tmp_path):
    state, other = random.Random(2).randbytes(3 << 20), b"another" * 99999

    async def scene(hub, peers):
        for n, data in ((0, state), (1, state), (2, other)):
            peers.near[n].store.folder.state(4).write_bytes(data)
        peers.near[2].store.folder.state(9).write_bytes(other)  # nobody agreed on that
        at = [m.PeerAddress(x.key, x.addresses) for x in hub.members]
        groups = await peers.near[3].donors(m.DonorList({0: "a", 4: "b"}, at[:3]), None)
        donors = groups[0]
        assert len(donors) == 2
        hashes = pieces.hashes_of(peers.near[0].store.folder.state(4))
        assert donors[0].saved == m.SavedState(4, len(state), hashes)
        assert await donors[1].ask(2) == state[2 * pieces.LEAST : 3 * pieces.LEAST]

    play(tmp_path, 4, scene)


LAYOUT = Layout.of({"embedding": (600, 160), "gain": (160,)})


def made(round_, seed=0):
    weights = np.random.default_rng(seed).standard_normal(LAYOUT.total, np.float32)
    state = states.first(LAYOUT, weights)
    return msgspec.structs.replace(state, round=round_)


class Leader(Hub):
    """Tells a newcomer which states were agreed on, and who may have them; keeps none itself."""

    agreed: dict[int, str]

    async def ask(self, question, body=b"", *, body_limit=0):
        if isinstance(question, m.GetDonors):
            at = [m.PeerAddress(x.key, x.addresses) for x in self.members[:-1]]
            return m.DonorList(self.agreed, at), b""
        if isinstance(question, m.GetSavedState):
            return await self._saved(question)
        return await super().ask(question, body, body_limit=body_limit)

    async def _saved(self, question):
        answer = self.store.newest_state()
        if isinstance(answer, m.Refused):
            raise QuestionRefused(question, answer.reason)
        return answer, b""


def joined(path, lies, honest=1):
    """A newcomer among honest donors of the state after round 4, and liars, each of whom puts its own
    file in the place of the state after a round. What became of it, and how often liars were asked."""
    right, asked, said = made(4), [], []

    async def all_of_it():
        hub = Leader(path)
        hub.agreed = {4: right.hash(), 9: made(9, 1).hash()}
        async with Peers(path, hub, honest + len(lies) + 1) as peers:
            for near in peers.near[:honest]:
                right.save(near.store.folder.state(4))
            for near, (round_, write) in zip(peers.near[honest:], lies, strict=False):
                write(near.store.folder.state(round_))
                near.store.give = lambda question, give=near.store.give: (
                    asked.append(type(question)) or give(question)
                )
            new = peers.near[-1]
            folder = new.store.folder
            for _ in range(2):  # the second time it has all it needs, and the liars are known
                state = await newest(hub, new, folder, LAYOUT, None, said.append)
                folder.state(4).unlink()
            return state, len(new.liars), sorted(x.name for x in folder.states.iterdir())

    return asyncio.run(all_of_it()), asked, said


def noise(path):
    path.write_bytes(random.Random(3).randbytes(700_000))


LIES = {
    "noise as the newest state": (9, noise),
    "another state as the newest": (9, lambda path: made(9, 2).save(path)),
    "another state as the same": (4, lambda path: made(4, 2).save(path)),
    "a state of another round": (9, lambda path: made(4).save(path)),
    "nothing at all": (9, lambda path: path.write_bytes(b"")),
    "far too much": (9, lambda path: path.write_bytes(bytes(5_000_000))),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_newcomer_that_meets_a_liar_joins_all_the_same(tmp_path, lie):
    (state, liars, kept), _, _ = joined(tmp_path, [lie])
    assert state.hash() == made(4).hash()
    assert kept == []
    assert liars == (lie[0] == 9)  # who offers the same round is asked only if the first is no good


def test_liars_that_agree_cost_one_fetch_and_are_not_asked_again(tmp_path):
    lie = (9, lambda path: made(9, 2).save(path))
    (state, liars, kept), asked, said = joined(tmp_path, [lie, lie])
    assert state.hash() == made(4).hash()
    assert (liars, kept) == (2, [])
    assert asked.count(m.GetSavedState) == 2
    assert sum("not the state that the run agreed on" in text for text in said) == 1


def test_nobody_but_liars_leaves_nothing_behind(tmp_path):
    with pytest.raises(LinkError, match="nobody gives a state that the run has agreed on"):
        joined(tmp_path, [(9, noise), (4, lambda path: made(4, 2).save(path))], honest=0)
    assert not list(tmp_path.glob("peer2/states/*"))


def test_who_gave_a_wrong_piece_of_a_blob_is_not_asked_for_the_next_one(tmp_path):
    async def scene(hub, peers):
        asked, liar = [], peers.near[1]
        right = liar.store.give

        def lie(question):
            answer, data = right(question)
            asked.append(question)
            return answer, bytes(len(data))

        liar.store.folder.blob(DIGEST).write_bytes(BLOB)
        liar.store.give = lie
        assert await peers.near[0].blob(DIGEST, peers.held(0)) == BLOB
        assert peers.near[0].liars == {liar.endpoint.id}
        told = len(asked)
        assert told
        assert await peers.near[0].blob(DIGEST, peers.held(0)) == BLOB
        assert len(asked) == told

    play(tmp_path, 2, scene)


class Knows:
    """A coordinator that knows who takes part, and how often it was asked."""

    def __init__(self):
        self.members, self.asked = set(), 0

    async def ask(self, question, body=b"", *, body_limit=0):
        self.asked += 1
        if question.key not in self.members:
            raise QuestionRefused(question, "no")
        return m.Ack(), b""


def virtually(scene, path):
    async def all_of_it():
        knows = Knows()
        links = PeerLinks(None, Store(folders.create(path, "run")), knows)
        await scene(knows, links)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(all_of_it())


def key(number):
    return f"{number:064x}"


async def told(links, who):
    answer, _ = await links.answer(who, m.GetSavedState(), b"")
    return "takes no part" not in answer.reason


def test_a_new_member_is_known_at_once_however_many_strangers_ask(tmp_path):
    async def scene(knows, links):
        for number in range(3000):
            links.rate_limits.met(key(number), "10.0.0.1:5")
            assert not await told(links, key(number))
        knows.members.add(key(5000))
        links.rate_limits.met(key(5000), "10.0.0.2:5")
        assert await told(links, key(5000))
        assert knows.asked < 100  # it is no amplifier of strangers either
        assert len(links._strangers) <= peer_links.STRANGERS

    virtually(scene, tmp_path)


def test_who_was_unknown_is_asked_about_again_soon(tmp_path):
    async def scene(knows, links):
        assert not await told(links, key(1))
        knows.members.add(key(1))
        assert not await told(links, key(1))
        assert knows.asked == 1
        await asyncio.sleep(2.1)
        assert await told(links, key(1))
        assert await told(links, key(1))
        assert knows.asked == 2

    virtually(scene, tmp_path)
