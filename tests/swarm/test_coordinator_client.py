"""A client that finds the leader by itself, over real connections."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint, LinkError
from duckweed.swarm.peer import coordinator_client as room
from duckweed.swarm.peer.coordinator_client import CoordinatorClient, Invited
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import QuestionRefused
from duckweed.swarm.protocol.errors import PeerStopped
from duckweed.swarm.protocol.server import accepting

WELCOME = m.Welcome(4, "", -1, "", "")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(room, "RETRY", 0.1)


@asynccontextmanager
async def machine(seed, answers):
    """An endpoint that answers by the type of the question; what it was asked."""
    endpoint = await Endpoint.bind(Identity(seed * 32), m.HEAD_LIMIT, "127.0.0.1:0")
    endpoint.asked = []

    async def answer(key, question, body):
        endpoint.asked.append(type(question))
        return answers[type(question)], b""

    accept = accepting(m.question, lambda key, question: 0, answer)
    serving = asyncio.create_task(endpoint.serve(accept))
    try:
        yield endpoint
    finally:
        serving.cancel()
        await endpoint.close()


def client_of(endpoint, first, said, welcomed=lambda welcome: None):
    leaders = Invited(endpoint, (first.id, first.addresses))
    return CoordinatorClient(endpoint, leaders, "secret", said.append, welcomed, lambda: "")


def play(scene):
    async def all_of_it():
        endpoint = await Endpoint.bind(Identity(b"p" * 32), m.HEAD_LIMIT, "127.0.0.1:0")
        try:
            await asyncio.wait_for(scene(endpoint), 60)
        finally:
            await endpoint.close()

    asyncio.run(all_of_it())


def test_a_machine_that_no_longer_leads_refers_the_peer_to_the_one_that_does():
    async def scene(endpoint):
        async with machine(b"l", {m.Join: WELCOME, m.Next: m.Wait("for others")}) as leader:
            at = [m.PeerAddress(leader.id, leader.addresses)]
            elsewhere = m.Leader(2, leader.id, at)
            async with machine(b"f", {m.Join: WELCOME, m.Next: elsewhere}) as first:
                said, welcomes = [], []
                client = client_of(endpoint, first, said, welcomes.append)
                await client.join()
                answer, _ = await client.ask(m.Next(0, "ab" * 32, False))
                assert answer == m.Wait("for others")
                assert first.asked == [m.Join, m.Next]
                assert leader.asked == [m.Join, m.Next]  # it need not know this peer
                assert welcomes == [WELCOME] * 2
                assert said == [f"going on with {leader.id[:10]} as the leader"]
                client.close()

    play(scene)


def test_a_refusal_is_not_asked_again_and_ends_only_what_was_asked():
    answers = {m.Join: WELCOME, m.Contribute: m.Ack(), m.Fetch: m.Refused("no such blob")}

    async def scene(endpoint):
        async with machine(b"l", answers) as leader:
            client = client_of(endpoint, leader, [])
            await client.join()
            with pytest.raises(QuestionRefused, match="Fetch was refused: no such blob"):
                await client.ask(m.Fetch("ab" * 32))
            assert leader.asked == [m.Join, m.Fetch]
            await client.join()
            client.close()

    play(scene)


def test_a_peer_that_is_not_wanted_stops_and_says_why():
    async def scene(endpoint):
        async with machine(b"l", {m.Join: m.Refused("this run is private")}) as leader:
            with pytest.raises(PeerStopped, match="not admitted: this run is private"):
                await client_of(endpoint, leader, []).join()

    play(scene)


def test_who_wants_to_join_can_have_enough_of_waiting(monkeypatch):
    monkeypatch.setattr(room, "REMIND", 0.1)

    async def scene(endpoint):
        async with machine(b"l", {m.Join: WELCOME}) as leader:
            client = client_of(endpoint, leader, said := [])
        with pytest.raises(LinkError):  # it has ended meanwhile
            await client.join(limit=0.5)
        assert "does not answer" in said[0]

    play(scene)


@pytest.mark.parametrize(
    ("addresses", "cause"),
    [(["127.0.0.1:1"], "loopback interface is down"), (["127.0.0.1:1", "10.9.8.7:1"], "duckweed doctor")],
)  # fmt: skip
def test_when_nobody_answers_for_a_while_it_says_once_what_is_likely(monkeypatch, addresses, cause):
    monkeypatch.setattr(room, "HINT", 0.3)

    class Nowhere(Invited):
        async def connect_to(self, key, addresses):
            raise LinkError("nobody there")

    async def scene(endpoint):
        said = []
        leaders = Nowhere(endpoint, (Identity(b"l" * 32).id, addresses))
        client = CoordinatorClient(
            endpoint, leaders, "", said.append, lambda welcome: None, lambda: ""
        )
        asking = asyncio.create_task(client.join())
        while len(said) < 2:
            await asyncio.sleep(0.05)
        assert "does not answer (nobody there); trying again" in said[0]
        assert cause in said[1]
        await asyncio.sleep(0.5)
        assert len(said) == 2
        asking.cancel()

    play(scene)
