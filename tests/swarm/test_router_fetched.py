"""The router of a path, as a newcomer fetches it from a coordinator that need not be honest."""

import asyncio

import pytest
from blake3 import blake3
from msgspec.structs import replace

from duckweed.round import founding
from duckweed.run import folder as folders
from duckweed.run.sections import Branch
from duckweed.run.spec import RunSpec, override
from duckweed.swarm.peer.preparation import ROUTER_LIMIT, fetch_router
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.errors import PeerStopped

ROUTER = b"a router"
FAMILY = override(RunSpec(), {"paths.count": 2})


class Coordinator:
    """Gives one answer to whoever asks for the router."""

    def __init__(self, data):
        self.data, self.asked = data, 0

    async def ask(self, question, body_limit=0):
        assert isinstance(question, m.GetRouter)
        assert question.secret == "secret"
        assert body_limit == 2 * ROUTER_LIMIT
        self.asked += 1
        return m.Blob(), self.data


@pytest.fixture
def spec():
    branch = Branch(0, blake3(ROUTER).hexdigest(), 10, 100)
    return replace(FAMILY, branch=branch)


def test_it_is_fetched_once_and_kept(tmp_path, spec):
    folder, there = folders.create(tmp_path, "path"), Coordinator(ROUTER)
    for _ in range(2):
        asyncio.run(fetch_router(there, spec, "secret", folder))
    assert there.asked == 1
    assert founding.router_of(folder, spec).read_bytes() == ROUTER


def test_another_router_than_the_run_has_stops_the_newcomer_and_is_not_kept(tmp_path, spec):
    folder = folders.create(tmp_path, "path")
    with pytest.raises(PeerStopped, match=r"another router than the run's.*ask the organiser"):
        asyncio.run(fetch_router(Coordinator(b"another"), spec, "secret", folder))
    assert not founding.router_of(folder, spec).exists()


def test_a_run_that_trains_no_path_needs_none(tmp_path):
    there = Coordinator(ROUTER)
    asyncio.run(fetch_router(there, RunSpec(), "secret", folders.create(tmp_path, "run")))
    assert there.asked == 0
