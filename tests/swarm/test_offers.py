"""Which path of a family a peer trains: a decision of its own, by what the paths have."""

import asyncio
import json
import stat

from fixtures.coordinated import SPEC, play
from msgspec.structs import replace

from duckweed import participation
from duckweed.net import timeouts
from duckweed.net.identity import Identity
from duckweed.run.folder import RunFolder
from duckweed.run.sections import Branch
from duckweed.run.spec import override
from duckweed.swarm.coordinator.guest_book import GuestBook
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol import offers
from duckweed.swarm.protocol.offers import choose, stay_or_go, urge

SOMEBODY = Identity(b"z" * 32)


AT = ["127.0.0.1:9"]


def offer(tokens=0, here=0, wanted=1, rounds=1, over=False, at=AT):
    return m.PathOffer("ab" * 32, "cd" * 32, at, "s", wanted, here, rounds, tokens, over)


def test_the_path_with_the_fewest_tokens_comes_first():
    assert choose([offer(30), offer(10), offer(20)]) == 1
    assert choose([offer(30), offer(10, over=True), offer(20)]) == 2
    assert choose([offer(over=True), offer(over=True)]) is None
    assert choose([]) is None


def test_a_path_that_nobody_leads_is_left_alone():
    led, alone = offer(50, here=4), offer(at=[])
    assert choose([alone, led]) == 1
    assert choose([alone, offer(over=True)]) is None
    assert offers.open_to([alone, led, offer(over=True)]) == [1]
    assert stay_or_go([led, alone], 0) == 0
    assert stay_or_go([offer(here=1, wanted=2, rounds=0), offer(50, at=[])], 0) == 0


def test_a_path_that_waits_for_its_last_peer_is_filled_before_another_is_begun():
    paths = [
        offer(wanted=2, rounds=0),
        offer(wanted=2, rounds=0, here=1),
        offer(wanted=2, rounds=0),
    ]
    assert choose(paths) == 1
    paths[1].here = 2
    assert choose(paths) == 0


def test_peers_that_come_at_once_spread_over_paths_that_are_alike():
    paths = [offer() for _ in range(4)]
    assert {choose(paths, own) for own in range(4)} == {0, 1, 2, 3}


def test_a_newcomer_does_not_go_where_it_would_not_stay():
    assert choose([offer(10, here=5), offer(20, here=0)]) == 1
    assert choose([offer(10, here=1), offer(20, here=1)]) == 0


def test_a_peer_keeps_its_path_unless_another_has_less_than_half_the_peers():
    assert stay_or_go([offer(here=4), offer(here=2)], 0) == 0
    assert stay_or_go([offer(here=4), offer(here=1)], 0) == 1
    assert stay_or_go([offer(here=2), offer(here=0)], 0) == 1
    assert stay_or_go([offer(900, here=1), offer(0, here=0)], 0) == 0  # it would leave it alone
    assert stay_or_go([offer(here=1, over=True), offer(here=3)], 0) == 0


def test_a_peer_that_waits_for_others_goes_where_there_is_work_and_nobody_goes_where_there_is_none():
    trained, waiting = offer(50, here=4, wanted=2), offer(here=1, wanted=2, rounds=0)
    assert stay_or_go([trained, waiting], 1) == 0
    assert stay_or_go([offer(here=1, wanted=2, rounds=0), waiting], 1) == 1
    assert stay_or_go([offer(over=True), waiting], 1) == 1
    assert stay_or_go([trained, waiting], 0) == 1  # the one that it waits for
    assert stay_or_go([trained, offer(here=0, wanted=2, rounds=0)], 0) == 0


def test_where_all_wait_for_a_path_one_of_too_many_peers_of_another_goes_there_soon():
    few, many = offer(here=1, wanted=2, rounds=0), offer(here=2, wanted=1, rounds=0)
    assert stay_or_go([few, many], 1, together=True) == 0
    assert stay_or_go([few, many], 1) == 1
    assert stay_or_go([few, many], 0, together=True) == 0
    assert stay_or_go([few, offer(here=1, wanted=1, rounds=0)], 1, together=True) == 1
    assert offers.look_after([few, many], together=True) == timeouts.PATHS_BEGIN
    assert offers.look_after([few, many], together=False) == timeouts.PATHS_LOOK
    assert offers.look_after([offer(), offer(over=True)], together=True) == timeouts.PATHS_LOOK


def test_a_peer_that_asks_an_organiser_who_has_not_begun_the_paths_again_keeps_its_own(monkeypatch):
    """He was restarted a moment ago."""
    monkeypatch.setattr(timeouts, "PATHS_BEGIN", 0.01)
    monkeypatch.setattr(timeouts, "PATHS_LOOK", 0.01)
    told = [[], [], [offer(here=1, wanted=2, rounds=0), offer(here=4, wanted=1, rounds=0)]]

    async def look(identity):
        return told.pop(0) if len(told) > 1 else told[0]

    looking = participation._elsewhere(look, 1, [], True)
    assert asyncio.run(asyncio.wait_for(looking, 20)) == 0


def test_of_peers_that_see_the_same_no_more_go_than_would_leave_both_alike():
    for here, there in ((2, 0), (8, 0), (9, 2), (3, 1)):
        expected = here * urge([offer(here=here), offer(here=there)], 0, 1)
        assert expected == (here - there) // 2
    assert urge([offer(here=1, rounds=0, wanted=2), offer(here=3)], 0, 1) == 1.0


def test_moving_comes_to_rest():
    here = [7, 0, 1]
    for _ in range(20):
        for kept in range(3):
            if here[kept]:
                to = stay_or_go([offer(here=n) for n in here], kept)
                here[kept] -= 1
                here[to] += 1
    assert [stay_or_go([offer(here=n) for n in here], kept) for kept in range(3)] == [0, 1, 2]
    assert sum(here) == 8
    assert max(here) <= 2 * min(here) + 1


def test_what_is_noted_is_read_by_the_owner_alone(tmp_path):
    folder = RunFolder(tmp_path)
    assert offers.read(folder) == []
    offers.note(folder, [offer(5, 1)])
    assert offers.read(folder) == [offer(5, 1)]
    assert stat.S_IMODE((tmp_path / offers.FILE).stat().st_mode) == 0o600
    assert json.loads((tmp_path / offers.FILE).read_text())[0]["tokens"] == 5


def test_who_leads_a_path_tells_of_the_others_as_organiser_and_as_successor(tmp_path):
    common, path = RunFolder(tmp_path / "common"), RunFolder(tmp_path / "path-0")
    for folder in (common, path):
        folder.path.mkdir()
    assert offers.read_beside(path) == []
    offers.note(common, [offer(5, 1)])  # as the organiser lays it
    assert offers.read_beside(path) == [offer(5, 1)]
    offers.note(RunFolder(tmp_path), [offer(7, 1)])  # as a successor does
    assert offers.read_beside(path) == [offer(7, 1)]


def test_the_machines_that_vote_in_a_path_are_those_of_its_own_offer(tmp_path):
    path, other = RunFolder(tmp_path / "path-0"), replace(offer(), run="ef" * 32)
    ben = m.PeerAddress("be" * 32, ["127.0.0.1:8"])
    offers.note(RunFolder(tmp_path), [replace(offer(), voters=[ben]), other])
    assert offers.voters(path, "ab" * 32) == [m.PeerAddress("cd" * 32, AT), ben]
    assert offers.voters(path, "99" * 32) == []


def test_the_coordinator_tells_of_paths_to_who_has_the_secret_and_to_nobody_else(tmp_path):
    async def scene(run):
        offers.note(run.folder, [offer(5, 1)])
        refused, body = await run.it.handle(SOMEBODY.id, m.GetPaths(m.PROTOCOL, "guess"), b"")
        assert isinstance(refused, m.Refused)
        assert body == b""
        book = GuestBook(run.folder.guests)
        secret = book.issue()
        book.close()
        told = await run.ask(SOMEBODY, m.GetPaths(m.PROTOCOL, secret))
        assert told.paths == [offer(5, 1)]
        without = await run.ask(SOMEBODY, m.GetRouter(m.PROTOCOL, secret))
        assert without == m.Refused("this run has no router")

    play(tmp_path, scene, SPEC)


def test_the_coordinator_of_a_path_tells_of_the_others_to_the_family_and_not_to_guests_of_its_own(
    tmp_path,
):
    branch = Branch(0, "ab" * 32, 2, 8)
    spec = replace(override(SPEC, {"paths.count": 2, "paths.prefix": 8}), branch=branch)

    async def scene(run):
        book = GuestBook(run.folder.guests)
        family, guest = book.unlimited("serve"), book.issue("guest")
        book.close()
        mine = replace(offer(5, 1), run=spec.identity, secret=family)
        offers.note(RunFolder(run.folder.path.parent), [mine, offer(7, 2)])
        told = await run.ask(SOMEBODY, m.GetPaths(m.PROTOCOL, family))
        assert told.paths == [mine, offer(7, 2)]
        told = await run.ask(SOMEBODY, m.GetPaths(m.PROTOCOL, guest))
        assert told.paths == []

    play(tmp_path, scene, spec)
