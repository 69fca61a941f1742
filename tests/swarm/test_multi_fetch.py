"""Pieces from several holders: each gives its share, the slow are helped out, the dead replaced."""

import asyncio
import errno
import random
import time

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from duckweed.net.transport import LinkError
from duckweed.net.virtual import VirtualLoop
from duckweed.swarm.blobs import multi_fetch as room
from duckweed.swarm.blobs import pieces
from duckweed.swarm.blobs.multi_fetch import MultiFetch
from duckweed.swarm.blobs.pieces import Parts
from duckweed.swarm.peer.newest_state import tell

DATA = random.Random(0).randbytes(20 * pieces.LEAST + 77)


def part(number):
    return DATA[number * pieces.LEAST : (number + 1) * pieces.LEAST]


HASHES = [blake3(part(number)).digest() for number in range(21)]


def run(parts, holders, first=None):
    first = first or [n % len(holders) for n in range(len(HASHES))]
    work = MultiFetch(parts, holders, first)
    asyncio.run(asyncio.wait_for(work.run(), 20))
    return work


async def honest(number):
    await asyncio.sleep(0)
    return part(number)


async def liar(number):
    return b"x" * len(part(number))


async def dead(number):
    raise LinkError("gone")


async def empty(number):
    return None


async def stuck(number):
    await asyncio.sleep(1000)


@given(st.integers(1, 1 << 40))
def test_pieces_are_few_enough_to_be_named_in_one_answer(size):
    step = pieces.length(size)
    assert step >= pieces.LEAST
    assert -(-size // step) <= pieces.MOST
    assert step == pieces.LEAST or -(-size // (step // 2)) > pieces.MOST


def test_hashes_of_a_file_are_those_of_its_bytes(tmp_path):
    (tmp_path / "f").write_bytes(DATA)
    assert pieces.hashes_of(tmp_path / "f") == HASHES
    assert len(HASHES) == 21


def test_every_holder_gives_its_share():
    parts = Parts(len(DATA), HASHES)
    work = run(parts, [honest] * 3)
    assert parts.all() == DATA
    assert work.given == [7, 7, 7]


@pytest.mark.parametrize("bad", [liar, dead])
def test_who_lies_or_dies_is_replaced_at_once(bad):
    parts = Parts(len(DATA), HASHES)
    work = run(parts, [honest, bad, honest])
    assert parts.all() == DATA
    assert set(work.faults) == {1}
    assert work.given[1] == 0


@pytest.mark.parametrize("slow", [empty, stuck])
def test_who_has_nothing_or_hangs_is_helped_out(slow, monkeypatch):
    monkeypatch.setattr(room, "HOLDER_SILENT", 0.2)
    monkeypatch.setattr(room, "HOLDER_EMPTY", 0.4)
    parts = Parts(len(DATA), HASHES)
    work = run(parts, [honest, slow])
    assert parts.all() == DATA
    assert work.given == [21, 0]
    assert not work.faults


def test_who_has_nothing_yet_is_not_asked_without_end():
    """Many peers wait for each other's pieces at the same time: that must not become a storm."""
    parts, asked = Parts(len(DATA), HASHES), []

    async def later(number):
        asked.append(number)
        return part(number) if time.monotonic() - began > 1.5 else None

    async def trickle(number):
        await asyncio.sleep(0.1)
        return part(number)

    began = time.monotonic()
    run(parts, [trickle, later])
    assert parts.all() == DATA
    assert len(asked) < 30  # of which ten give a piece


@pytest.mark.parametrize(("holders", "most"), [(2, room.TOGETHER), (room.MANY, 1)])
def test_few_holders_are_asked_several_things_at_a_time_and_many_one(holders, most):
    going, seen = [0] * holders, []

    def one(holder):
        async def ask(number):
            going[holder] += 1
            seen.append(going[holder])
            await asyncio.sleep(0.01)
            going[holder] -= 1
            return part(number)

        return ask

    run(Parts(len(DATA), HASHES), [one(n) for n in range(holders)])
    assert max(seen) == most


def test_without_any_holder_it_says_why():
    with pytest.raises(LinkError, match=r"no holder of the file is left .*gone"):
        run(Parts(len(DATA), HASHES), [dead, dead])


def test_a_broken_transfer_goes_on_with_what_is_there(tmp_path):
    path = tmp_path / "part"

    async def half(number):
        if number < 10:
            return part(number)
        raise LinkError("gone")

    with pytest.raises(LinkError):
        run(Parts(len(DATA), HASHES, path), [half])
    content = bytearray(path.read_bytes())
    content[3] ^= 1  # damaged meanwhile
    path.write_bytes(content)
    parts = Parts(len(DATA), HASHES, path)
    assert 5 <= len(parts.here) < 10
    assert 0 not in parts.here
    before = len(parts.here)
    work = run(parts, [honest])
    assert path.read_bytes() == DATA
    assert sum(work.given) == 21 - before


def test_a_full_disk_ends_the_transfer_with_its_own_error():
    class Full(Parts):
        async def take(self, number, data):
            if number == 3:
                raise OSError(errno.ENOSPC, "no space left on device")
            return await super().take(number, data)

    with pytest.raises(OSError, match="no space left"):
        run(Full(len(DATA), HASHES), [honest, honest])


def test_sizes_that_do_not_belong_together_are_refused():
    for size, hashes in ((0, []), (10, []), (10, HASHES), (len(DATA) + pieces.LEAST, HASHES)):
        with pytest.raises(ValueError, match="do not make"):
            Parts(size, hashes)


def seconds(slow, holders=15, at=0.02, others_have=False):
    """Virtual seconds until a file is here from so many holders, each of whom takes `at` for a piece; the
    last one is `slow`, and of what it should have given only the first one has anything, as with a
    coordinator and peers that pass on what they have."""
    owner = [n % holders for n in range(len(HASHES))]

    def one(holder):
        async def ask(number):
            await asyncio.sleep(at)
            if owner[number] == holders - 1 and holder:
                await asyncio.sleep(2.0)  # held, in case it comes
                return None
            return part(number)

        return ask

    async def all_of_it():
        asks = [one(n) for n in range(holders)]
        if slow:
            asks[-1] = slow
        parts = Parts(len(DATA), HASHES)
        began = asyncio.get_running_loop().time()
        await MultiFetch(parts, asks, owner).run()
        assert parts.all() == DATA
        return asyncio.get_running_loop().time() - began

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(all_of_it())


def test_a_long_transfer_tells_how_far_it_is_and_how_long_the_rest_takes():
    """In virtual time: 21 pieces, one in three seconds, the first after half a minute."""
    said, parts = [], Parts(len(DATA), HASHES)

    async def all_of_it():
        telling = asyncio.create_task(tell(parts, said.append))
        await asyncio.sleep(27.0)
        for number in range(21):
            await asyncio.sleep(3.0)
            await parts.take(number, part(number))
        await telling  # ends by itself

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(all_of_it())
    assert said[:2] == ["fetching the state: 0% is here, nothing came so far"] * 2
    assert said[3] == "fetching the state: 19% is here, about 2.8 min left"
    assert [text.split("%")[0] for text in said[-2:]] == [
        "fetching the state: 95", "fetching the state: 100"
    ]  # fmt: skip


async def waits(number):
    await asyncio.sleep(2.0)  # it holds the question, in vain
    return None


async def waits_not(number):
    return None


def trickle_of(pause):
    async def trickle(number):
        await asyncio.sleep(pause)
        return part(number)

    return trickle


@pytest.mark.parametrize(
    "slow",
    [stuck, waits, waits_not, trickle_of(0.9), trickle_of(2.5), dead, liar],
    ids=["silent", "wait", "wait at once", "a piece a second", "slow", "gone", "liar"],
)
@pytest.mark.parametrize("holders", [2, 4, 15])
def test_one_slow_holder_delays_by_one_short_limit(slow, holders):
    assert seconds(slow, holders) < seconds(trickle_of(0.02), holders) + room.HOLDER_LEAST + 1.0


def test_the_limit_grows_with_what_the_others_take():
    """On slow links nobody is late after half a second, and nothing is fetched twice."""
    asked = []

    def one(holder, pause):
        async def ask(number):
            asked.append(number)
            await asyncio.sleep(pause)
            return part(number)

        return ask

    async def all_of_it():
        asks = [one(n, pause) for n, pause in enumerate((1.5, 1.7, 2.0, 2.2))]
        await MultiFetch(Parts(len(DATA), HASHES), asks, [n % 4 for n in range(21)]).run()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(all_of_it())
    assert sorted(asked) == list(range(21))
