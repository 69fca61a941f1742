"""Who gets in, by which door, and what strangers cost, asked of a real coordinator without network."""

import asyncio
import time

import msgspec
import pytest
from fixtures.pretended import PEERS

from duckweed.net.identity import Identity
from duckweed.run.events import PeerLeft
from duckweed.run.spec import SpecError, override
from duckweed.swarm.coordinator import admission as room
from duckweed.swarm.coordinator.guest_book import EXPELLED, GuestBook
from duckweed.swarm.protocol import messages as m
from swarm.test_coordinator import SPEC, play

OPEN = override(
    SPEC,
    {
        "members.join": "open",
        "members.audits": 0.0,
        "members.per_address": 2,
        "members.share": 0.5,
    },
)
SOMEBODY = Identity(b"z" * 32)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(room, "GUESTS_CHECK", 0.0)
    monkeypatch.setattr(room, "SILENCE_CHECK", 0.0)


def book(run):
    """The organiser's hand in the book, from another process."""
    return GuestBook(run.folder.guests)


def files(run):
    return {p: p.stat().st_size for p in run.folder.path.rglob("*") if p.is_file()}


def test_an_invitation_made_while_the_run_is_served_opens_it_and_revoking_closes_it(tmp_path):
    async def scene(run):
        secret = book(run).issue("Ann", uses=1)
        assert isinstance(await run.ask(PEERS[0], m.Join(m.PROTOCOL, secret)), m.Welcome)
        answer = await run.ask(PEERS[1], m.Join(m.PROTOCOL, secret))
        assert "used up" in answer.reason
        book(run).revoke(secret.partition(".")[0], expel=True)
        run.it.rounds.attended()
        assert await run.ask(PEERS[0], m.Next(0, "00" * 32, False)) == m.Refused(EXPELLED)
        assert (await run.ask(PEERS[0], m.Join(m.PROTOCOL, secret))).reason == EXPELLED
        assert not run.it.rounds.attended()

    run = play(tmp_path, scene)
    assert PeerLeft(0, EXPELLED) in run.events


def test_keys_on_the_list_need_no_invitation(tmp_path):
    async def scene(run):
        assert isinstance(await run.ask(PEERS[0], m.Join(m.PROTOCOL)), m.Welcome)
        assert isinstance(await run.ask(PEERS[1], m.Join(m.PROTOCOL)), m.Refused)

    play(tmp_path, scene, override(SPEC, {"members.keys": [PEERS[0].id]}))
    with pytest.raises(SpecError, match="not a public key"):
        override(SPEC, {"members.keys": ["ann"]})


def test_a_stranger_costs_a_private_run_nothing(tmp_path):
    """No entry, no member, no file, no body, and nothing is told; it is only counted."""

    async def scene(run):
        before = files(run)
        for question in (
            m.Join(m.PROTOCOL, "guess"), m.GetRunInfo(m.PROTOCOL), m.GetStatus(m.PROTOCOL, "guess"),
            m.Probe(m.PROBE_LIMIT), m.GetSavedState(), m.Fetch("ab" * 32), m.Next(0, "", False),
        ):  # fmt: skip
            answer, body = await run.it.handle(SOMEBODY.id, question, b"")
            assert isinstance(answer, m.Refused)
            assert body == b""
            assert run.it.body_limit(SOMEBODY.id, question) == 0
        assert files(run) == before
        assert not run.it.admission.members
        assert not run.events
        assert sum(run.it.admission.rate_limits.refused.values()) == 7

    play(tmp_path, scene)


def test_who_may_come_in_can_first_see_what_it_would_be(tmp_path):
    async def scene(run):
        secret = book(run).issue()
        terms = await run.ask(SOMEBODY, m.GetRunInfo(m.PROTOCOL, secret))
        assert (terms.round, terms.peers, terms.up) == (0, 0, 0)
        answer, noise = await run.it.handle(SOMEBODY.id, m.Probe(9000, secret), bytes(9000))
        assert (answer, len(noise)) == (m.Blob(), 9000)
        asked = m.Probe(1 << 40, secret)
        for sent in (0, 500, m.PROBE_LIMIT):  # never more comes back than was sent: no amplifier
            assert len((await run.it.handle(SOMEBODY.id, asked, bytes(sent)))[1]) == sent
        assert run.it.body_limit(SOMEBODY.id, asked) == m.PROBE_LIMIT
        assert SOMEBODY.id not in run.it.admission.members
        await run.start()
        closed = await run.round()
        terms = await run.ask(SOMEBODY, m.GetRunInfo(m.PROTOCOL, secret))
        assert (terms.round, terms.peers) == (1, 3)
        sizes = [run.folder.blob(blob).stat().st_size for blob in closed.blobs]
        assert (terms.up, terms.down) == (sum(sizes) // 3, sum(sizes))

    play(tmp_path, scene)


def test_status_tells_round_loss_peers_bytes_and_refusals(tmp_path):
    async def scene(run):
        secret = book(run).issue()
        await run.start()
        await run.round()
        await run.ask(PEERS[0], m.Progress("training", 1, 2, 3.25))
        await run.ask(PEERS[1], m.Leave("gone fishing"))
        await run.ask(SOMEBODY, m.GetSavedState())
        seen = await run.ask(SOMEBODY, m.GetStatus(m.PROTOCOL, secret))
        assert (seen.round, seen.rounds, seen.members) == (1, 2, 3)
        assert (seen.held_out, seen.loss) == (2.0, 3.0)
        assert [x.here for x in seen.peers] == [True, False, True]
        first = seen.peers[0]
        assert (first.doing, first.step, first.loss, first.counted) == ("training", 2, 3.25, 1)
        assert seen.refused == {"strangers": 1}
        assert seen.traffic["contributions"][0] > 12 * 3
        assert "waiting for peer" in seen.waiting
        assert "outside" not in m.encode(seen).decode("latin1")

    play(tmp_path, scene)


def test_an_open_run_takes_anybody_but_not_too_many_of_one_address(tmp_path):
    async def scene(run):
        for number, peer in enumerate(PEERS):
            run.it.admission.rate_limits.met(
                peer.id, "192.0.2.1:1" if number < 3 else "192.0.2.2:1"
            )
        answers = [await run.ask(peer, m.Join(m.PROTOCOL)) for peer in PEERS]
        assert [type(x) for x in answers] == [m.Welcome, m.Welcome, m.Refused]
        assert "2 peers of your address" in answers[2].reason
        # Who is in comes back, and who goes makes room.
        assert isinstance(await run.ask(PEERS[0], m.Join(m.PROTOCOL)), m.Welcome)
        await run.ask(PEERS[0], m.Leave("home"))
        assert isinstance(await run.ask(PEERS[2], m.Join(m.PROTOCOL)), m.Welcome)

    play(tmp_path, scene, OPEN)


def test_newcomers_of_an_open_run_cannot_outweigh_the_others(tmp_path):
    async def scene(run):
        addresses = ("192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1")
        for peer, address in zip(PEERS, addresses, strict=True):
            run.it.admission.rate_limits.met(peer.id, address)
        await run.start()
        run.it.admission.by_index[0].counted = 3  # the only one who has proved itself
        closed = await run.round()
        assert closed.accepted == [0, 1]
        assert closed.rejected == {2: "more than 50% of the round came from newcomers"}
        assert [x.counted for x in run.it.admission.here()] == [4, 1, 0]

    play(tmp_path, scene, OPEN)


def test_after_good_bye_a_late_sign_of_life_does_not_bring_a_peer_back(tmp_path):
    async def scene(run):
        await run.join()
        await run.ask(PEERS[0], m.Leave("paused"))
        late = await run.ask(PEERS[0], m.Progress("waiting", 0))
        assert isinstance(late, m.Refused)
        assert [x.index for x in run.it.admission.here()] == [1, 2]
        assert (await run.join([PEERS[0]])) == [0]
        assert len(run.it.admission.here()) == 3

    play(tmp_path, scene)


def test_a_clock_that_is_an_hour_off_and_jumps_changes_nothing(tmp_path, monkeypatch):
    """Nobody's absolute clock is part of the protocol, nor is the coordinator's of its rounds."""
    real = time.time

    async def scene(run):
        for hours in (1, -1):
            monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3600 * hours)
            if hours == 1:
                await run.start()
            assert (await run.round(run.it.rounds.number)).accepted == [0, 1, 2]
            assert len(run.it.admission.here()) == 3

    play(tmp_path, scene)


def test_a_flood_of_questions_of_one_member_is_refused_and_the_others_go_on(tmp_path):
    async def scene(run):
        await run.join()
        beat = m.Progress("waiting", 0)
        with pytest.raises(ValueError, match="too many questions"):  # noqa: PT012
            for _ in range(10_000):
                await run.it.handle(PEERS[0].id, beat, b"")
        assert await run.ask(PEERS[1], m.Progress("waiting", 0)) == m.Ack(1.0)
        await asyncio.sleep(0)

    play(tmp_path, scene)


def test_the_status_of_a_large_run_fits_into_a_message():
    many = m.PeerStatus(10**6, "ab" * 32, True, "training", 10**6, 1.0, 1.0, 10**6)
    standing = m.Status(
        "ab" * 32, 1, 1, 2000, [many] * 2000, 1.0, 1.0, 1.0, "x" * 300, {"control": [1, 2]}, {}
    )
    assert len(m.encode(standing)) < m.HEAD_LIMIT
    assert msgspec.msgpack.decode(m.encode(standing))["is"] == "standing"
