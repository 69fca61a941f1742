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


def test_a_sign_of_life_that_is_not_answered_gives_the_connection_up_and_others_dial_again(
    monkeypatch,
):
    """The coordinator is killed, as far as its peer can see, while it owes an answer; the next one has its address."""
    monkeypatch.setattr(room, "PING_ANSWER", 0.5)
    monkeypatch.setattr(room, "BEAT", 0.1)

    async def scene(endpoint):
        answers = {m.Join: WELCOME, m.Progress: m.Ack(), m.Next: m.Wait("for others")}
        async with machine(b"l", answers) as leader:
            said, silent = [], asyncio.Event()
            client = client_of(endpoint, leader, said)
            await client.join()
            first = client._client
            asked, hangs = first.ask, asyncio.get_running_loop().create_future()

            async def hung(question, *rest, **more):
                if silent.is_set():
                    await asyncio.wait({hangs}, timeout=more["patience"])
                    raise LinkError("no answer in time")
                return await asked(question, *rest, **more)

            first.ask, close = hung, first.close
            first.close = lambda: (hangs.done() or hangs.set_result(None), close())
            beating = asyncio.create_task(client.beat(lambda: m.Progress("training", 0)))
            await asyncio.sleep(0.3)
            assert m.Progress in leader.asked
            silent.set()
            began = asyncio.get_running_loop().time()
            answer, _ = await client.ask(m.Next(0, "ab" * 32, False))
            assert answer == m.Wait("for others")
            assert asyncio.get_running_loop().time() - began < 10  # its own patience is 20 seconds
            assert leader.asked.count(m.Join) == 2
            assert "does not answer (no answer in time); trying again" in said[0]
            beating.cancel()
            client.close()

    play(scene)


def test_while_a_large_body_is_on_its_way_a_late_sign_of_life_breaks_nothing(monkeypatch):
    monkeypatch.setattr(room, "PING_ANSWER", 0.1)
    monkeypatch.setattr(room, "BEAT", 0.05)

    async def scene(endpoint):
        async with machine(b"l", {m.Join: WELCOME, m.Contribute: m.Ack()}) as leader:
            client = client_of(endpoint, leader, said := [])
            await client.join()
            first = client._client

            async def slow(question, *rest, **more):
                if isinstance(question, m.Progress):
                    await asyncio.sleep(more["patience"])
                    raise LinkError("no answer in time")
                await asyncio.sleep(1.0)
                return m.Ack(), b""

            first.ask = slow
            beating = asyncio.create_task(client.beat(lambda: m.Progress("sending", 0)))
            await client.ask(m.Fetch("ab" * 32), b"x" * (room.LARGE + 1))
            assert client._client is first
            assert said == []
            await asyncio.sleep(
                0.5
            )  # and once it has come, the connection is given up as any other
            assert client._client is None
            beating.cancel()

    play(scene)
