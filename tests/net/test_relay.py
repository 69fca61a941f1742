"""A relay over loopback: two ends that know no address of each other but its URL."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect

from duckweed.net import relay as relays
from duckweed.net.framing import Accepted
from duckweed.net.identity import Identity
from duckweed.net.relay import Relay
from duckweed.net.transport import Endpoint, LinkError

LIMIT = 10_000
SERVER, CLIENT = Identity(b"s" * 32), Identity(b"c" * 32)


def echo(key, head):
    async def answer(body):
        return b"re: " + head, body[::-1]

    return Accepted(1 << 20, answer)


@asynccontextmanager
async def relayed(relay):
    _, url = await relay.start("127.0.0.1", 0)
    here = await Endpoint.bind(SERVER, LIMIT, "127.0.0.1:0", [url])
    there = await Endpoint.bind(CLIENT, LIMIT, "127.0.0.1:0", [url])
    serving = [asyncio.create_task(end.serve(echo)) for end in (here, there)]
    try:
        yield here, there, url
    finally:
        for task in serving:
            task.cancel()
        await there.close()
        await here.close()
        await relay.close()


def play(relay, scene):
    async def all_of_it():
        async with relayed(relay) as ends:
            await asyncio.wait_for(scene(*ends), 60)

    asyncio.run(all_of_it())
    return relay


def test_ends_that_know_only_the_relay_find_each_other_and_then_the_direct_way():
    async def scene(here, there, url):
        link = await there.connect(here.id, [url], patience=30)
        body = os.urandom(1 << 18)
        assert await link.ask(b"hello", body, body_limit=1 << 18) == (b"re: hello", body[::-1])
        while not link.direct():  # loopback has no NAT: the relay only introduces them
            await asyncio.sleep(0.05)
        link.close()

    assert play(Relay(), scene).packets > 0


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_the_relay_beside_a_coordinator_that_listens_at_an_ipv6_address():
    async def scene():
        relay = Relay(lambda key: True)
        try:
            port, url = await relay.start("[::1]", 0)
        except LinkError as error:
            pytest.skip(f"this machine has no IPv6 loopback: {error}")
        assert url == f"http://[::1]:{port}"
        _, writer = await asyncio.open_connection("::1", port)
        writer.close()
        await relay.close()

    asyncio.run(scene())


def test_strangers_reach_the_run_and_not_each_other():
    async def scene(here, there, url):
        stranger = await Endpoint.bind(Identity(b"x" * 32), LIMIT, "127.0.0.1:0", [url])
        link = await stranger.connect(here.id, [url], patience=30)
        assert (await link.ask(b"hello"))[0] == b"re: hello"
        link.close()
        with pytest.raises(LinkError, match="does not answer"):
            await stranger.connect(there.id, [url], patience=3)
        await stranger.close()

    assert play(Relay(lambda key: key == SERVER.id), scene).dropped > 0


def test_nobody_comes_in_with_a_key_that_is_not_theirs_and_noise_ends_nothing():
    async def scene(here, there, url):
        at = url.replace("http", "ws") + "/relay"
        key = bytes.fromhex(SERVER.id)
        for answer in (b"\x01" + key + b"\x40" + os.urandom(64), os.urandom(98), b"", b"\x01"):
            async with connect(at, subprotocols=["iroh-relay-v1"], proxy=None) as socket:
                assert len(await socket.recv()) == 17
                await socket.send(answer)
                assert (await socket.recv())[0] == relays.DENIED
        async with connect(at, proxy=None) as socket:
            await socket.send(bytes(1 << 20))  # more than any frame: hung up
            await asyncio.wait_for(socket.wait_closed(), 30)
        link = await there.connect(here.id, [url], patience=30)
        assert (await link.ask(b"hello"))[0] == b"re: hello"
        link.close()

    assert play(Relay(), scene).refused == 4


def test_a_client_that_does_not_read_costs_a_queue_and_no_more():
    relay = Relay()
    queue = asyncio.Queue(relays.QUEUE)
    relay._queues[b"k" * 32] = queue
    for _ in range(relays.QUEUE + 100):
        relay._take(bytes([relays.SEND]) + b"k" * 32 + b"packet", b"f" * 32, asyncio.Queue())
    assert queue.full()
    assert relay.dropped == 100


def test_the_port_beside_a_coordinator():
    assert relays.port_beside("0.0.0.0:7000") == 7001
    assert relays.port_beside("127.0.0.1:0") == 0
    assert relays.url_for(["[2001:db8::1]:9", "192.0.2.1:7000"], 7001) == "http://192.0.2.1:7001"


def test_a_run_that_goes_on_listens_where_it_did():
    """Behind a router that forwards another port, at home, on loopback, without a relay."""
    named = ["203.0.113.1:9000", "192.168.1.2:7000", "http://203.0.113.1:7001"]
    assert relays.ports(named) == ("0.0.0.0:7000", 7001)
    assert relays.ports([*named[:2], "http://elsewhere:4433"]) == ("0.0.0.0:7000", 0)
    assert relays.ports(["127.0.0.1:7000", "http://127.0.0.1:7005"]) == ("127.0.0.1:7000", 7005)


def test_commands_say_what_is_wrong(tmp_path):
    def relay(*words):
        command = [sys.executable, "-m", "duckweed", "relay", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = relay("--listen", "somewhere")
    assert done.returncode == 1
    assert "ADDRESS:PORT" in done.stderr
