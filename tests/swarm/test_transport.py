"""Links over loopback, both ends in one process."""

import asyncio
import os
import time
from contextlib import asynccontextmanager

import pytest
from iroh import IrohError

from duckweed.swarm.identity import Identity
from duckweed.swarm.transport import Endpoint, LinkError

LIMIT = 10_000
SERVER, CLIENT = Identity(b"s" * 32), Identity(b"c" * 32)


class Server:
    """Answers with what it was asked; remembers it."""

    def __init__(self, body_limit=LIMIT):
        self.heard, self.body_limit = [], body_limit

    def sizes(self, peer, head):
        if head == b"stranger":
            raise ValueError("not you")
        return self.body_limit

    async def handle(self, peer, head, body):
        self.heard.append((peer, head, len(body)))
        if head == b"raise":
            raise ValueError("bad question")
        if head == b"disk":
            raise OSError(28, "No space left on device")
        if head == b"sleep":
            await asyncio.sleep(60)
        return b"re: " + head, body[::-1]


@asynccontextmanager
async def linked(server):
    here = await Endpoint.bind(SERVER, LIMIT, "127.0.0.1:0")
    serving = asyncio.create_task(here.serve(server.handle, server.sizes))
    there = await Endpoint.bind(CLIENT, LIMIT, "127.0.0.1:0")
    link = await there.connect(here.id, here.addresses)
    try:
        yield link, here, there
    finally:
        link.close()
        serving.cancel()
        await there.close()
        await here.close()


def play(scene, server=None):
    """Run an async scene(link, here, there) against a server; returns the server."""
    server = server or Server()

    async def all_of_it():
        async with linked(server) as ends:
            await asyncio.wait_for(scene(*ends), 30)

    asyncio.run(all_of_it())
    return server


async def still_answers(link):
    assert await link.ask(b"hello", b"abc", body_limit=LIMIT) == (b"re: hello", b"cba")


def test_question_and_answer_with_the_key_of_the_asker():
    async def scene(link, here, there):
        await still_answers(link)
        assert await link.ask(b"") == (b"re: ", b"")
        answers = await asyncio.gather(*(link.ask(str(n).encode()) for n in range(20)))
        assert [head for head, _ in answers] == [f"re: {n}".encode() for n in range(20)]
        sent, received = link.datagram_bytes()
        assert sent > 100
        assert received > 100

    server = play(scene)
    assert {peer for peer, _, _ in server.heard} == {CLIENT.id}


def test_bodies_of_several_pieces_arrive_whole():
    body = os.urandom((2 << 20) + 12345)

    async def scene(link, here, there):
        _, back = await link.ask(b"big", body, body_limit=len(body))
        assert back == body[::-1]

    play(scene, Server(len(body)))


def test_a_body_above_the_limit_is_refused_without_being_read():
    async def scene(link, here, there):
        with pytest.raises(LinkError):
            await link.ask(b"much", bytes(LIMIT + 1), body_limit=LIMIT)
        # Announced only, a terabyte: the answer comes at once, not when it has arrived.
        stream = await link._connection.open_bi()
        head = b"more"
        await stream.send().write_all(
            len(head).to_bytes(4, "big") + head + (1 << 40).to_bytes(8, "big")
        )
        began = time.monotonic()
        with pytest.raises(IrohError):
            await asyncio.wait_for(stream.recv().read_exact(4), 8)
        assert time.monotonic() - began < 5
        await still_answers(link)

    server = play(scene)
    assert [head for _, head, _ in server.heard] == [b"hello"]


def test_a_head_above_the_limit_is_refused():
    async def scene(link, here, there):
        with pytest.raises(LinkError):
            await link.ask(bytes(LIMIT + 1))
        await still_answers(link)

    assert len(play(scene).heard) == 1


def test_an_answer_above_what_the_asker_allows_is_refused():
    async def scene(link, here, there):
        with pytest.raises(LinkError, match="at most 10 allowed"):
            await link.ask(b"q", b"x" * 11, body_limit=10)
        await still_answers(link)

    play(scene)


@pytest.mark.parametrize("question", [b"raise", b"stranger", b"disk"])
def test_a_question_that_cannot_be_answered_ends_nothing_else(question):
    async def scene(link, here, there):
        with pytest.raises(LinkError):
            await link.ask(question)
        await still_answers(link)

    play(scene)


def test_garbage_does_not_end_the_server():
    async def scene(link, here, there):
        for noise in (
            b"",
            b"\x00",
            b"\x00\x00",
            b"\xff" * 4,
            os.urandom(500),
            bytes(4) + b"\xff" * 8,
        ):
            stream = await link._connection.open_bi()
            if noise:
                await stream.send().write_all(noise)
            await stream.send().finish()
        stream = await link._connection.open_bi()
        await stream.send().write_all(b"\x00\x00\x00\x05he")
        await stream.send().reset(7)
        await still_answers(link)
        other = await there.connect(here.id, here.addresses)
        other.close()

    server = play(scene)
    assert all(len(head) <= LIMIT for _, head, _ in server.heard)


def test_a_silent_server_is_given_up_in_time():
    async def scene(link, here, there):
        began = time.monotonic()
        with pytest.raises(LinkError, match="no answer in time"):
            await link.ask(b"sleep", patience=0.5)
        assert 0.4 < time.monotonic() - began < 5
        await still_answers(link)

    play(scene)


def test_a_server_that_went_away_raises_and_can_be_dialled_when_it_is_back():
    async def all_of_it():
        server = Server()
        async with linked(server) as (link, here, there):
            await still_answers(link)
            await here.close()
            with pytest.raises(LinkError):
                await link.ask(b"hello", patience=3)
            link.close()
            again = await Endpoint.bind(SERVER, LIMIT, "127.0.0.1:0")
            serving = asyncio.create_task(again.serve(server.handle, server.sizes))
            link = await there.connect(again.id, again.addresses)
            await still_answers(link)
            link.close()
            serving.cancel()
            await again.close()

    asyncio.run(asyncio.wait_for(all_of_it(), 40))


def test_somebody_else_at_the_address_is_not_taken_for_the_coordinator():
    async def scene(link, here, there):
        with pytest.raises(LinkError, match="does not answer"):
            await there.connect(Identity(b"x" * 32).id, here.addresses)

    play(scene)


def test_a_port_that_is_taken_is_said():
    async def scene(link, here, there):
        with pytest.raises(LinkError, match=r"cannot listen on 127\.0\.0\.1.*--port"):
            await Endpoint.bind(Identity(b"y" * 32), LIMIT, here.addresses[0])

    play(scene)
