"""What is wrong, whose side it is on, what to do: on real endpoints, and for cases that none has here."""

import asyncio

import pytest

from duckweed.net.identity import Identity
from duckweed.net.relay import Relay
from duckweed.net.transport import Endpoint
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.swarm.protocol.server import accepting
from duckweed.volunteer import doctor
from duckweed.volunteer.doctor import Facts, examine, findings

HUB, GUEST = Identity(b"h" * 32), Identity(b"g" * 32)
TERMS = m.RunInfo("", "", "", 3, 2)


async def handle(key, asked, body):
    assert isinstance(asked, m.GetRunInfo)
    return TERMS if asked.secret == "right" else m.Refused("the secret is wrong"), b""


answer = accepting(m.question, lambda key, asked: 0, handle)


def examined(scene, secret="right", relay=True):
    """Findings by name. scene(endpoint, addresses) -> the addresses of the invitation."""

    async def all_of_it():
        passing = Relay()
        _, url = await passing.start("127.0.0.1", 0)
        urls = [url] if relay else []
        endpoint = await Endpoint.bind(HUB, m.HEAD_LIMIT, "127.0.0.1:0", urls)
        serving = asyncio.create_task(endpoint.serve(answer))
        while await doctor._port(f"http://{endpoint.addresses[0]}") != "open":
            await asyncio.sleep(0.05)
        try:
            addresses = await scene(endpoint, endpoint.addresses)
            there = Invitation("ab" * 32, HUB.id, tuple(addresses), secret)
            return {x.what: x for x in findings(there, await examine(there, GUEST))}
        finally:
            serving.cancel()
            await endpoint.close()
            await passing.close()

    return asyncio.run(asyncio.wait_for(all_of_it(), 60))


async def as_it_is(endpoint, addresses):
    return addresses


def test_all_is_well():
    found = examined(as_it_is)
    assert {x.state for x in found.values()} == {"good"}
    assert list(found) == ["coordinator", "UDP", "TCP", "relay", "NAT", "clock", "admission"]
    assert "round 3, 2 peers" in found["admission"].words


def test_a_wrong_secret_is_the_coordinators_word():
    found = examined(as_it_is, secret="wrong")["admission"]
    assert (found.state, found.words) == ("bad", "the coordinator says: the secret is wrong")


def test_only_the_relay_gets_through():
    async def scene(endpoint, addresses):
        return [x for x in addresses if x.startswith("http")]

    found = examined(scene)
    assert "through a relay" in found["coordinator"].words
    assert found["UDP"].state == "poor"
    assert found["admission"].state == "good"


def test_each_relay_is_tried_by_itself(monkeypatch):
    """The last one is there, but the coordinator is not at it."""
    monkeypatch.setattr(doctor, "DOCTOR_TRY", 3.0)
    other = Relay()

    async def scene(endpoint, addresses):
        _, url = await other.start("127.0.0.1", 0)
        return [*addresses, url]

    found = examined(scene)
    assert found["coordinator"].state == "good"
    assert found["relay"].state == "poor"
    assert "passes nothing on" in found["relay"].words


def test_nobody_serves(monkeypatch):
    monkeypatch.setattr(doctor, "DOCTOR_TRY", 1.0)

    async def scene(endpoint, addresses):
        await endpoint.close()
        return ["127.0.0.1:9", *addresses[:1]]

    (found,) = examined(scene, relay=False).values()
    assert found.state == "bad"
    assert "nobody serves the run on this machine" in found.words


def verdict(addresses, **facts):
    there = Invitation("ab" * 32, HUB.id, tuple(addresses), "")
    return {x.what: x for x in findings(there, Facts(**facts))}


@pytest.mark.parametrize(
    ("address", "outcome", "words"),
    [
        ("192.0.2.1:7000", "refused", "nobody serves the run"),
        ("192.0.2.1:7000", "no network", "on your side"),
        ("192.0.2.1:7000", "somebody else", "ask for a new invitation"),
        ("192.0.2.1:7000", "open", "drops UDP"),
        ("10.1.1.1:7000", "silent", "--public"),
        ("127.0.0.1:7000", "refused", "duckweed serve RUN goes on"),
        ("9.9.9.9:7000", "silent", "router or firewall does not let 9.9.9.9:7000"),
    ],
)
def test_no_way_at_all_says_whose_side(address, outcome, words):
    (found,) = verdict([address], tcp={address: outcome}).values()
    assert found.state == "bad"
    assert words in found.words


def test_nats_and_clocks():
    well = {"udp": True, "own": ["192.168.1.2:5000"], "port": "5000", "info": TERMS}
    assert verdict([], **well, seen="203.0.113.9:5000")["NAT"].state == "good"
    assert "may need a relay" in verdict([], **well, seen="203.0.113.9:41234")["NAT"].words
    assert "3,600 s behind" in verdict([], **well, clock=3600.0)["clock"].words
    assert "ahead of" in verdict([], **well, clock=-120.0)["clock"].words


def test_ports_that_are_closed_are_poor_and_not_bad():
    url = "http://192.0.2.1:7001"
    found = verdict(
        ["192.0.2.1:7000", url],
        udp=True, info=TERMS, tcp={"192.0.2.1:7000": "silent"}, relays={url: "refused"},
    )  # fmt: skip
    assert {x.what for x in found.values() if x.state == "poor"} >= {"TCP", "relay"}
    assert not any(x.state == "bad" for x in found.values())


def test_an_address_where_nothing_listens_refuses_and_is_not_waited_for():
    assert asyncio.run(doctor._port("http://127.0.0.1:9")) == "refused"
