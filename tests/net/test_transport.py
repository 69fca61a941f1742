"""LinkSpec over loopback, both ends in one process."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
from iroh import IrohError

from duckweed.net import framing, tcp, transport
from duckweed.net.framing import Accepted
from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint, LinkError

LIMIT = 10_000
SERVER, CLIENT = Identity(b"s" * 32), Identity(b"c" * 32)


class Server:
    """Answers with what it was asked; remembers it."""

    def __init__(self, body_limit=LIMIT):
        self.heard, self.body_limit = [], body_limit

    def accept(self, peer, head):
        if head == b"stranger":
            raise ValueError("not you")
        return Accepted(self.body_limit, lambda body: self.handle(peer, head, body))

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
    serving = asyncio.create_task(here.serve(server.accept))
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

    server = play(scene)
    assert {peer for peer, _, _ in server.heard} == {CLIENT.id}


BIG = os.urandom((2 << 20) + 12345)


@pytest.mark.parametrize("over_tcp", [True, False])
def test_bodies_of_several_pieces_arrive_whole(over_tcp, monkeypatch):
    monkeypatch.setattr(tcp, "TCP_HURRY", 20.0)  # however busy this machine is

    async def scene(link, here, there):
        used = await there.connect(here.id, here.addresses, over_tcp=over_tcp)
        heads = [f"{n}".encode() for n in range(3)]
        answers = await asyncio.gather(*(used.ask(x, BIG, body_limit=len(BIG)) for x in heads))
        assert answers == [(b"re: " + x, BIG[::-1]) for x in heads]
        if over_tcp:
            assert used.tcp_pool.used == 3
        used.close()

    server = play(scene, Server(len(BIG)))
    assert {peer for peer, _, _ in server.heard} == {CLIENT.id}


def test_a_closed_end_gives_its_port_back_though_its_links_are_still_held(monkeypatch):
    monkeypatch.setattr(tcp, "TCP_HURRY", 20.0)

    async def scene(link, here, there):
        await link.ask(b"big", BIG, body_limit=len(BIG))
        assert link.tcp_pool.used == 1  # and is kept open by a timer
        answering = asyncio.create_task(there.serve(Server().accept))
        back = await here.connect(there.id, there.addresses)
        await still_answers(back)
        port = int(there.addresses[0].rpartition(":")[2])
        await there.close()
        await answering
        again = await Endpoint.toward(CLIENT, LIMIT, here.addresses, port)
        assert again.addresses == [f"127.0.0.1:{port}"]
        await again.close()
        with pytest.raises(LinkError, match="closed"):
            await link.ask(b"hello")

    play(scene, Server(len(BIG)))


def test_any_port_is_one_that_tcp_has_free_too(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not tcp.is_free(f"127.0.0.1:{port}")
    assert tcp.is_free(f"127.0.0.1:{port}")
    seen = []

    def is_free(address):
        seen.append(address)
        return len(seen) == 3

    async def bind():
        found = await Endpoint.bind(SERVER, LIMIT, "127.0.0.1:0")
        assert seen[-1] in found.bound
        await found.close()

    monkeypatch.setattr(tcp, "is_free", is_free)
    asyncio.run(bind())
    assert len(seen) == 3


def test_where_tcp_is_closed_large_bodies_go_over_iroh():
    async def scene(link, here, there):
        here._listener.close()
        _, back = await link.ask(b"big", BIG, body_limit=len(BIG))
        assert back == BIG[::-1]
        assert link.tcp_pool.used == 0

    play(scene, Server(len(BIG)))


def test_who_is_dropped_by_a_crowded_listener_is_answered_over_iroh(monkeypatch):
    monkeypatch.setattr(tcp, "TCP_HURRY", 20.0)

    async def scene(link, here, there):
        async def crowded(key, *_):
            dropped.append(key)

        dropped, here._listener._questions = [], crowded
        _, back = await link.ask(b"big", BIG, body_limit=len(BIG))
        assert back == BIG[::-1]
        assert dropped == [CLIENT.id]

    play(scene, Server(len(BIG)))


def test_large_bodies_are_refused_over_tcp_as_well():
    async def scene(link, here, there):
        with pytest.raises(LinkError):
            await link.ask(b"much", BIG, body_limit=LIMIT)
        with pytest.raises(LinkError):
            await link.ask(b"stranger", BIG)
        await still_answers(link)

    play(scene)


def test_whoever_answers_over_tcp_without_the_key_is_not_talked_to():
    async def scene(link, here, there):
        thief = await Endpoint.bind(Identity(b"t" * 32), LIMIT, "127.0.0.1:0")
        stealing = asyncio.create_task(thief.serve(Server().accept))
        while thief._listener is None:
            await asyncio.sleep(0)
        pool = tcp.TcpPool(CLIENT, here.id, list(thief.addresses), LIMIT, there.pace, lambda: 3.0)
        with pytest.raises(tcp.Unreachable):
            await pool.ask(b"hello", b"", 0, 5)
        stealing.cancel()
        await thief.close()

    assert play(scene).heard == []


def test_a_peer_over_tcp_must_prove_its_key_and_noise_ends_nothing():
    async def scene(link, here, there):
        address = next(x for x in here.addresses if x.startswith("127."))
        host, port = address.split(":")
        for named in (bytes.fromhex(CLIENT.id) + bytes(64), os.urandom(96), b"short"):
            context = tcp._context(ssl.PROTOCOL_TLS_CLIENT)
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            await reader.readexactly(tcp.NONCE)
            writer.write(named + b"\x00\x00\x00\x05hello" + bytes(8))
            writer.write_eof() if writer.can_write_eof() else writer.close()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await asyncio.wait_for(reader.readexactly(1), 20)
            writer.close()
        _, plain = await asyncio.open_connection(host, int(port))
        plain.write(os.urandom(999))
        plain.close()
        assert await link.ask(b"big", BIG, body_limit=len(BIG)) == (b"re: big", BIG[::-1])
        assert link.tcp_pool.used == 1

    server = play(scene, Server(len(BIG)))
    assert [head for _, head, _ in server.heard] == [b"big"]


def test_a_ping_says_where_one_is_seen():
    async def scene(link, here, there):
        pong = await link.ping()
        assert pong.seen in there.bound
        assert abs(pong.clock - time.time()) < 20

    play(scene)


def test_a_dead_machine_is_noticed_while_its_answer_is_waited_for(monkeypatch):
    """It is stopped, not closed: no packet says so. The answer may take a minute; a ping may not."""
    monkeypatch.setattr(transport, "PING_AFTER", 1.0)
    monkeypatch.setattr(transport, "PING_ANSWER", 3.0)
    code = (
        "import asyncio; from tests.net.test_transport import *\n"
        "async def main():\n"
        "    here = await Endpoint.bind(SERVER, LIMIT, '127.0.0.1:0')\n"
        "    print(here.addresses[0], flush=True)\n"
        "    await here.serve(Server().accept)\n"
        "asyncio.run(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    async def all_of_it():
        address = process.stdout.readline().strip()
        there = await Endpoint.bind(CLIENT, LIMIT, "127.0.0.1:0")
        link = await there.connect(SERVER.id, [address])
        await still_answers(link)
        asking = asyncio.create_task(link.ask(b"sleep", patience=60))
        await link.ping()
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(LinkError, match="answered no ping"):
            await asyncio.wait_for(asking, 50)
        link.close()
        await there.close()

    try:
        asyncio.run(all_of_it())
    finally:
        process.kill()
        process.wait()


def test_a_body_above_the_limit_is_refused_without_being_read(monkeypatch):
    monkeypatch.setattr(framing, "STALL", 1000.0)  # nobody is given up for being slow

    async def scene(link, here, there):
        with pytest.raises(LinkError):
            await link.ask(b"much", bytes(LIMIT + 1), body_limit=LIMIT)
        # Announced only, a terabyte: the answer comes at once, not when it has arrived.
        stream = await link.connection.open_bi()
        head = b"more"
        await stream.send().write_all(
            len(head).to_bytes(4, "big") + head + (1 << 40).to_bytes(8, "big")
        )
        with pytest.raises(IrohError):
            await stream.recv().read_exact(4)
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
            stream = await link.connection.open_bi()
            if noise:
                await stream.send().write_all(noise)
            await stream.send().finish()
        stream = await link.connection.open_bi()
        await stream.send().write_all(b"\x00\x00\x00\x05he")
        await stream.send().reset(7)
        await still_answers(link)
        other = await there.connect(here.id, here.addresses)
        other.close()

    server = play(scene)
    assert all(len(head) <= LIMIT for _, head, _ in server.heard)


def test_a_silent_server_is_given_up_when_the_patience_of_the_question_ends(monkeypatch):
    monkeypatch.setattr(framing, "STALL", 1000.0)  # no other deadline is near
    monkeypatch.setattr(transport, "PING_AFTER", 1000.0)

    async def scene(link, here, there):
        with pytest.raises(LinkError, match="no answer in time"):
            await link.ask(b"sleep", patience=0.5)
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
            serving = asyncio.create_task(again.serve(server.accept))
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
        await still_answers(link)  # the failed handshake ended nothing on the other side

    play(scene)


def test_on_loopback_no_other_address_is_offered():
    """iroh binds every IPv6 address besides, whatever it is told."""

    async def scene(link, here, there):
        assert here.addresses
        assert all(map(transport.is_loopback, here.addresses))

    play(scene)


def test_a_port_that_is_taken_is_said():
    async def scene(link, here, there):
        with pytest.raises(LinkError, match=r"cannot listen on 127\.0\.0\.1.*--port"):
            await Endpoint.bind(Identity(b"y" * 32), LIMIT, here.addresses[0])

    play(scene)
