"""What machines know of the paths of a family whose organiser is gone."""

import asyncio
import contextlib

import msgspec
from fixtures.coordinated import KEY, SPEC, Run
from msgspec.structs import replace

from duckweed.net.identity import Identity
from duckweed.net.rate_limits import RateLimits
from duckweed.net.transport import Endpoint
from duckweed.run import toml
from duckweed.run.folder import RunFolder
from duckweed.run.sections import Branch
from duckweed.run.spec import override
from duckweed.swarm.coordinator.guest_book import GuestBook
from duckweed.swarm.node.replica import Known
from duckweed.swarm.peer import keeper
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol import offers
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.volunteer.peer_home import PeerHome

GONE = Identity(b"g" * 32)
BRANCH = Branch(0, "ab" * 32, 2, 8)
PATH = replace(override(SPEC, {"paths.count": 2, "paths.prefix": 8}), branch=BRANCH)


def offer(run, secret):
    return m.PathOffer(run, GONE.id, ["127.0.0.1:9"], secret, 1)


def test_a_peer_asks_the_voters_of_a_path_that_it_has_trained(tmp_path):
    async def scene():
        run = Run(tmp_path / "successor", PATH)
        with contextlib.closing(GuestBook(run.folder.guests)) as guests:
            secret = guests.unlimited("family")
        told = [offer(PATH.identity, secret), offer("ef" * 32, "other")]
        offers.note(RunFolder(run.folder.path.parent), told)
        endpoint = await Endpoint.bind(KEY, m.HEAD_LIMIT, "127.0.0.1:0")
        serving = asyncio.create_task(endpoint.serve(run.it.accept, RateLimits(lambda key: False)))
        home = tmp_path / "peer" / "path-0"
        PeerHome.of(str(Invitation(PATH.identity, GONE.id, ("127.0.0.1:9",), secret)), home)
        known = Known(1, KEY.id, {KEY.id: endpoint.offered})
        (home / "voters.json").write_bytes(msgspec.json.encode(known))
        try:
            assert await keeper.ask_voters([home]) == told
        finally:
            serving.cancel()
            await endpoint.close()
        assert await keeper.ask_voters([tmp_path / "nowhere"]) == []

    asyncio.run(scene())


def test_a_successor_knows_who_leads_a_path_who_votes_in_it_and_how_far_it_is(tmp_path):
    around, me = RunFolder(tmp_path), Identity(b"m" * 32).id
    run = Run(tmp_path, PATH)  # its folder becomes that of path 0
    run.it.history.ledger.close()
    run.folder.path.rename(tmp_path / "path-0")
    folder = RunFolder(tmp_path / "path-0")
    offers.note(around, [offer(PATH.identity, "s"), offer("ef" * 32, "other")])
    assert keeper.noted(around) == offers.read(around)  # no copies are here yet
    both = {KEY.id: ["127.0.0.1:7"], me: ["127.0.0.1:8"]}
    for leader in both:
        known = Known(1, leader, both)
        (folder.path / "voters.json").write_bytes(msgspec.json.encode(known))
        folder.spec.write_text(toml.write(PATH))
        first, second = keeper.noted(around)
        assert (first.coordinator, first.addresses) == (leader, both[leader])
        assert {x.key: x.addresses for x in first.voters} == both
        assert (first.secret, first.over) == ("s", False)
        assert second == offer("ef" * 32, "other")


def test_a_path_whose_leader_nobody_has_met_is_offered_as_led_by_nobody(tmp_path):
    run = Run(tmp_path, PATH)
    run.it.history.ledger.close()
    run.folder.spec.write_text(toml.write(PATH))
    mine = {KEY.id: ["127.0.0.1:8"]}
    known = Known(0, GONE.id, mine)
    (run.folder.path / "voters.json").write_bytes(msgspec.json.encode(known))
    unled = replace(offer(PATH.identity, "s"), addresses=[])
    found = keeper.present(run.folder, unled)
    assert (found.coordinator, found.addresses) == (GONE.id, [])
    assert found.voters == [m.PeerAddress(KEY.id, ["127.0.0.1:8"])]
