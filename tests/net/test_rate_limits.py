"""What one key or one address may cost, on a clock that the test moves."""

import asyncio
import itertools

import pytest

from duckweed.net import rate_limits, token_bucket
from duckweed.net.rate_limits import HERE, KNOWN, RELAYED, STRANGER_HEAD, RateLimits, origin
from duckweed.net.token_bucket import Bucket, Pace
from duckweed.swarm.coordinator.admission import crowded


@pytest.fixture
def clock(monkeypatch):
    """now[0] is the time."""
    now = [1000.0]
    monkeypatch.setattr(token_bucket.clock, "now", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("192.0.2.7:4433", "192.0.2.7"),
        ("[2001:db8:1:2:3::4]:4433", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:ffff::1]:9", "2001:db8:1:2::/64"),
        ("[::ffff:192.0.2.7]:1", "192.0.2.7"),
        ("127.0.0.1:5", HERE),
        ("[::1]:5", HERE),
        ("", RELAYED),
        ("https://relay.example/:1", RELAYED),
    ],
)
def test_what_counts_as_one_address(address, where):
    assert origin(address) == where


def test_a_bucket_gives_what_flowed_in_and_no_more(clock):
    bucket = Bucket(2.0, 5.0)
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    clock[0] += 1.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock[0] += 1000
    assert bucket.full
    assert sum(bucket.take() for _ in range(100)) == 5


def test_a_pace_makes_bodies_wait_for_their_bytes(clock, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(token_bucket.asyncio, "sleep", sleep)
    link = Pace()

    async def send(count):
        for _ in range(count):
            await link.sent(1000)

    asyncio.run(send(10))
    assert slept == []
    link.limit(up=2000.0, down=None)
    asyncio.run(send(10))  # 500 bytes at once, the other 9500 at 2000 a second
    assert sum(slept) == pytest.approx(4.75)
    assert link.piece <= 4096
    link.limit(None, None)
    slept.clear()
    asyncio.run(send(10))
    assert slept == []


def test_connections_of_one_address_are_limited_and_those_of_others_are_not(clock):
    limits = RateLimits(lambda key: False)
    assert sum(limits.greet("192.0.2.1:1") for _ in range(100)) == rate_limits.NEW[1]
    assert limits.greet("192.0.2.2:1")
    assert all(limits.greet("127.0.0.1:9") for _ in range(100))
    clock[0] += 60
    assert limits.greet("192.0.2.1:1")
    assert limits.refused["connections: too many from one address"] == 70


def test_a_key_that_goes_on_with_nonsense_is_cut_off_for_a_minute(clock):
    limits = RateLimits(lambda key: True)
    assert limits.met("k", "192.0.2.1:1")
    cut = [limits.fault("k", "malformed") for _ in range(21)]
    assert cut == [False] * 20 + [True]
    assert limits.cut_off("k")
    assert not limits.met("k", "192.0.2.1:1")
    assert not limits.cut_off("other")
    clock[0] += 59
    assert limits.cut_off("k")
    clock[0] += 2
    assert not limits.cut_off("k")
    assert limits.met("k", "192.0.2.1:1")
    assert limits.refused["malformed"] == 21


def test_a_flood_of_questions_of_one_key_is_refused_and_others_are_heard(clock):
    limits = RateLimits(lambda key: True)
    for _ in range(int(rate_limits.ASKED[1])):
        limits.asks("k")
    with pytest.raises(ValueError, match="too many questions"):
        limits.asks("k")
    limits.asks("other")


def test_a_member_that_fetches_a_large_file_waits_and_is_not_refused(clock, monkeypatch):
    async def sleep(seconds):
        clock[0] += seconds

    async def fetch(key, pieces):
        for _ in range(pieces):
            await limits.asks_for_piece(key)

    monkeypatch.setattr(token_bucket.asyncio, "sleep", sleep)
    limits, began = RateLimits(lambda key: key == "member"), clock[0]
    rate, at_once = rate_limits.PIECES
    asyncio.run(fetch("member", int(at_once) + 7000))  # 7,000 pieces are a gigabyte
    assert clock[0] - began == pytest.approx(7000 / rate)
    limits.asks("member")  # other questions are counted apart
    with pytest.raises(ValueError, match="too many questions"):
        asyncio.run(fetch("stranger", int(at_once)))


def test_what_strangers_say_is_short_and_what_is_remembered_of_them_bounded():
    limits = RateLimits({"member"}.__contains__)
    assert limits.head_limit("member", 1 << 20) == 1 << 20
    assert limits.head_limit("stranger", 1 << 20) == STRANGER_HEAD
    for number in range(3 * KNOWN):
        limits.met(str(number), f"[2001:db8:{number:x}::1]:1")
        limits.greet(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1")
        limits.asks(str(number))
        for _ in range(25):
            limits.fault(str(number), "malformed")
    tables = (limits._origins, limits._cut, limits.by_key, limits._new._of, limits._asked._of)
    assert all(len(table) <= KNOWN for table in (*tables, limits._nonsense._of))


A, B = "192.0.2.1", "192.0.2.2"


def test_one_address_weighs_no_more_than_its_share():
    tokens = dict.fromkeys(range(6), 100)
    origins = {0: A, 1: B, 2: A, 3: A, 4: A, 5: B}
    out = crowded(tokens, origins, set(), 0.5)
    assert set(out) == {3, 4}
    assert "50% of the round came from one address" in out[4]


def test_newcomers_together_weigh_no_more_than_their_share():
    tokens = dict.fromkeys(range(10), 100)
    origins = {n: f"192.0.2.{n}" for n in range(10)}
    assert set(crowded(tokens, origins, {6, 7, 8, 9}, 0.25)) == {8, 9}
    assert crowded(tokens, origins, set(), 0.25) == {}


def test_who_is_alone_or_at_home_is_not_limited():
    tokens = dict.fromkeys(range(4), 100)
    assert crowded(tokens, dict.fromkeys(range(4), A), set(range(4)), 0.1) == {}
    assert crowded(tokens, {0: HERE, 1: HERE, 2: HERE, 3: A}, set(), 0.5) == {}


def test_somebody_always_counts():
    for count, new in itertools.product(range(1, 7), range(7)):
        tokens = dict.fromkeys(range(count), 100)
        for pattern in ((A,), (A, B), (A, A, B)):
            origins = {n: pattern[n % len(pattern)] for n in range(count)}
            out = crowded(tokens, origins, set(range(min(new, count))), 0.01)
            assert len(out) < count
