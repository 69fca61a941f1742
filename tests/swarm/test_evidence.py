"""What a peer keeps to be able to show its work, and shows."""

import asyncio

import pytest

from duckweed.audit.draw import LONGEST
from duckweed.merge.round import blob_hash
from duckweed.net.framing import LinkError
from duckweed.swarm.peer.evidence import Evidence
from duckweed.swarm.protocol import messages as m


class Coordinator:
    """Takes what it is shown, unless the line is cut."""

    def __init__(self):
        self.seen, self.cut = {}, False

    async def ask_once(self, question, body_limit=0, body=b""):
        if self.cut:
            raise LinkError("cut")
        self.seen[question.blob] = body
        return m.Ack(), b""


@pytest.fixture
def it(tmp_path):
    said = []
    found = Evidence(tmp_path, Coordinator(), said.append)
    return found, found.client, said


def after(home, round_):
    """What the peer carries after a round is on disk; its hash."""
    data = f"carried after round {round_}".encode()
    (home / f"residual-{round_:08d}.safetensors").write_bytes(data)
    return blob_hash(data)


def forget(home, round_):
    (home / f"residual-{round_:08d}.safetensors").unlink()


async def shown(evidence, round_, wanted):
    await evidence.show(round_, wanted)
    if evidence._sending:
        await evidence._sending


def test_what_is_asked_for_is_shown_also_after_the_next_round_has_replaced_it(it, tmp_path):
    evidence, coordinator, said = it

    async def rounds():
        before, now = after(tmp_path, 3), after(tmp_path, 4)
        evidence.keep(4, blob_hash(b"contribution"), b"contribution")
        coordinator.cut = True
        await shown(evidence, 4, {before, now})
        forget(tmp_path, 3)
        forget(tmp_path, 4)
        assert coordinator.seen == {}
        coordinator.cut = False
        wanted = {before, now, blob_hash(b"contribution")}  # a new leader asks for that too
        await shown(evidence, 5, wanted)
        assert coordinator.seen.keys() == wanted
        assert all(blob_hash(data) == digest for digest, data in coordinator.seen.items())

    asyncio.run(rounds())
    assert said == []


def test_what_is_lost_is_said_once_and_the_rest_is_shown(it, tmp_path):
    evidence, coordinator, said = it

    async def rounds():
        now = after(tmp_path, 4)
        for number in (4, 5, 6):
            await shown(evidence, number, {now, "ab" * 32})
        assert coordinator.seen.keys() == {now}

    asyncio.run(rounds())
    (words,) = said
    assert "a file that they need is gone" in words


def test_nothing_is_kept_longer_than_an_audit_can_last(it, tmp_path):
    evidence, _, _ = it

    async def rounds():
        for number in range(30):
            evidence.keep(number, blob_hash(f"{number}".encode()), f"{number}".encode())
            carried = after(tmp_path, number)
            await shown(evidence, number, {carried} if number == 20 else set())
            forget(tmp_path, number)

    asyncio.run(rounds())
    kept = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("shown-*"))
    assert kept == [*range(29 - LONGEST, 20), 20, *range(20, 30)]
