"""The coordinator of a path that holds something in common with another, of which there are only the offers."""

import asyncio

import msgspec
import pytest
from fixtures.coordinated import SPEC, play
from fixtures.golden import LAYOUT, announce, numbers
from fixtures.pretended import PEERS, SCALES, state

from duckweed.merge import trunk
from duckweed.merge.round import blob_hash
from duckweed.net import clock
from duckweed.net.timeouts import GATHER
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.round.open_round import Timings
from duckweed.run import family
from duckweed.run.events import RoundClosed, Said
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.spec import override
from duckweed.swarm.coordinator.handed_in import Handed
from duckweed.swarm.coordinator.siblings import Siblings, waiting_for
from duckweed.swarm.protocol import messages as m
from duckweed.wire import codec_of

WHOLE = override(
    SPEC,
    {
        "wire.kind": "integer", "paths.count": 2, "paths.prefix": 8, "rounds.peers": 4,
        "paths.shared": ["embedding", "gain"], "rounds.count": 4, "rounds.patience": 20.0,
    },
)  # fmt: skip
PATH, OTHER = (family.of_path(WHOLE, path, "ab" * 32) for path in (0, 1))
SPLIT = trunk.divided(WHOLE.paths, LAYOUT)
TWO = PEERS[:2]


def scene_of(tmp_path, scene, seconds=100_000.0):
    return play(tmp_path, scene, PATH, seconds=seconds)


async def start(run):
    await run.join(TWO)
    run.task = asyncio.create_task(run.it.rounds.run())
    await asyncio.sleep(0)


async def hand_in_both(run):
    for number in (0, 1):
        assert await run.hand_in(number) == m.Ack()


def offer(run, round_, after=5.0):
    """What the other path has for a round, of one contribution, so many seconds after it has opened there."""
    folder = RunFolder(run.folder.path.parent / "path-1")
    folder.blobs.mkdir(parents=True, exist_ok=True)
    wanted = numbers(900 + round_, LAYOUT.total)
    blob = codec_of(PATH.wire, LAYOUT).encode(wanted, SCALES).blob
    said = announce(round_, 0, blob, wanted, PATH.tokens_per_block)
    write_atomically(folder.blob(blob_hash(blob)), blob)
    shared = run.it.history.shared
    closed = Engine(OTHER, LAYOUT, FolderBlobs(folder)).close(shared, [said])
    handed = [Handed(said, b"", Timings(), (0.0, 0))]
    Siblings(folder, OTHER).offer(closed, handed, {}, SPLIT.trunk, after, [0.0])


async def closes(run, number, within):
    """How a round closes, and after how many seconds of virtual time."""
    began = clock.now()
    while run.it.rounds.number <= number:
        assert clock.now() - began < within, run.it.rounds.waiting_for()
        await asyncio.sleep(0.05)
    return run.it.history.closed[number], clock.now() - began


async def restart(run, peers=TWO):
    run.restart()
    await run.join(peers)
    run.task = asyncio.create_task(run.it.rounds.run())
    await asyncio.sleep(0)


def test_a_round_closes_once_the_other_path_has_offered_its_own(tmp_path):
    async def scene(run):
        await start(run)
        await hand_in_both(run)
        await asyncio.sleep(60)
        assert run.it.rounds.number == 0
        assert run.it.rounds.waiting_for() == "round 0: waiting for path-1"
        answer = await run.ask(PEERS[0], m.Next(0, state(0), True))
        assert answer == m.Wait("round 0: waiting for path-1")
        offer(run, 0)
        assert waiting_for(run.it.rounds.siblings, 0) == "round 0: the trunk is added up"
        closed, _ = await closes(run, 0, 1.0)
        assert closed.accepted == [0, 1]
        assert {path: one.weights for path, one in closed.trunk.paths.items()} == {
            0: [1, 1],
            1: [1],
        }
        assert len(closed.needed()) == 2
        assert all(run.folder.blob(digest).is_file() for digest in closed.needed())

    scene_of(tmp_path, scene)


@pytest.mark.parametrize("peers", [TWO, TWO[:1], []])
def test_what_was_offered_is_closed_with_after_a_restart_though_all_else_is_lost(tmp_path, peers):
    async def scene(run):
        await start(run)
        await hand_in_both(run)
        await asyncio.sleep(1)
        given = run.it.rounds.siblings.own(0).given
        run.folder.handed_in.write_bytes(b"")  # the power failed, and it was not on disk
        await restart(run, peers)
        offer(run, 0)
        closed, _ = await closes(run, 0, 2.0)
        assert closed.accepted == [0, 1]
        assert closed.trunk.paths[0] == given
        assert sorted(run.it.history.handed[0]) == [0, 1]

    scene_of(tmp_path, scene)


def test_a_path_whose_peers_die_in_its_first_round_lets_it_pass(tmp_path):
    async def scene(run):
        await start(run)
        await run.task_of(PEERS[0])
        await asyncio.sleep(120)
        assert run.it.rounds.number == 0  # nobody else has any work either
        offer(run, 0)
        closed, _ = await closes(run, 0, 2 * GATHER)
        assert closed.accepted == []
        assert closed.update is None
        assert closed.needed() == [closed.trunk.update]
        assert set(closed.rejected.values()) == {"nothing handed in before the round closed"}
        # The blocks that they had are handed out again.
        await run.join(TWO)
        offer(run, 1)
        assert (await run.task_of(PEERS[0], 1)).block == 0

    run = scene_of(tmp_path, scene)
    (event,) = [e for e in run.events if isinstance(e, RoundClosed)]
    assert (event.tokens, event.accepted) == (0, [])


def test_a_path_that_has_not_begun_waits_for_its_peers_whatever_the_others_have(tmp_path):
    async def scene(run):
        await run.join(PEERS[:1])
        run.task = asyncio.create_task(run.it.rounds.run())
        offer(run, 0)
        await asyncio.sleep(500)
        assert run.it.rounds.number == 0
        await run.join(PEERS[1:2])
        for number in (0, 1):
            await run.hand_in(number)
        closed, _ = await closes(run, 0, 2.0)
        assert closed.accepted == [0, 1]

    scene_of(tmp_path, scene)


@pytest.mark.parametrize("restarted", [False, True])
def test_peers_have_twice_the_time_of_the_other_path_and_patience_for_their_first_work(
    tmp_path, restarted
):
    async def beating(run):
        while True:
            for peer in TWO:
                await run.ask(peer, m.Progress("training", run.it.rounds.number, 1, 3.0))
            await asyncio.sleep(1)

    async def scene(run):
        await start(run)
        await hand_in_both(run)
        offer(run, 0)
        await closes(run, 0, 2.0)
        for peer in TWO:
            await run.task_of(peer, 1)
        offer(run, 1, after=100.0)
        if restarted:
            await restart(run)
            for peer in TWO:
                await run.task_of(peer, 1)
        beat = asyncio.create_task(beating(run))
        closed, seconds = await closes(run, 1, 500.0)
        beat.cancel()
        assert closed.accepted == []
        assert seconds == pytest.approx(2 * 100 + 20, abs=3)

    scene_of(tmp_path, scene)


def test_a_lone_peer_whose_work_does_not_count_holds_the_others_up_no_longer_than_that(tmp_path):
    async def scene(run):
        await start(run)
        offer(run, 0)
        await run.ask(PEERS[1], m.Leave("power cut"))
        await run.hand_in(0, rms=[])
        closed, _ = await closes(run, 0, 2.0)
        assert closed.accepted == []
        assert "tensor sizes" in closed.rejected[0]

    scene_of(tmp_path, scene)


def test_who_dies_while_the_other_path_is_waited_for_is_missed(tmp_path):
    async def scene(run):
        await start(run)
        await hand_in_both(run)
        await asyncio.sleep(60)
        assert [x.here for x in run.it.admission.by_index.values()] == [False, False]

    scene_of(tmp_path, scene)


def test_a_sum_that_was_damaged_on_disk_is_not_added(tmp_path):
    async def scene(run):
        await start(run)
        await hand_in_both(run)
        offer(run, 0)
        siblings = run.it.rounds.siblings
        (other,) = siblings.others(0)
        digest = other.given.update
        path = RunFolder(run.folder.path.parent / "path-1").blob(digest)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FileNotFoundError, match="what a path gave to the trunk"):
            siblings.read(digest)

    scene_of(tmp_path, scene)


def test_work_of_peers_that_are_put_out_alone_leaves_the_round_open_and_is_told_once(tmp_path):
    """In a run that has nothing in common with others, too."""

    async def scene(run):
        await run.start()
        for number in range(3):
            await run.task_of(PEERS[number])
        run.it.history.out.update({0, 1, 2})
        for number in range(3):
            open_ = run.it.rounds.open
            task = m.Train(0, open_.assigned[number].block, number, 3, False, 0, 4)
            question, blob = run.work(number, task)
            run.it.engine.blobs.write(question.announcement.blob, blob)
            open_.take(
                run.it.admission.by_index[number], question.announcement, question.signature,
                question.timings, (0.0, 0), clock.now(),
            )  # fmt: skip
        await run.it.rounds.notify()
        await asyncio.sleep(5)
        assert run.it.rounds.number == 0

    run = play(tmp_path, scene)
    said = [e.text for e in run.events if isinstance(e, Said)]
    assert said == ["round 0: nothing that was handed in counts; it stays open"]


def test_an_offer_is_read_as_it_was_written(tmp_path):
    async def scene(run):
        await start(run)
        await hand_in_both(run)
        await asyncio.sleep(1)
        siblings = run.it.rounds.siblings
        first = siblings.own(0)
        again = Siblings(run.folder, PATH).own(0)
        assert msgspec.json.encode(first) == msgspec.json.encode(again)
        assert [x.announcement.peer for x in again.handed] == [0, 1]
        assert again.sizes == [SPLIT.trunk.pick(x.announcement.rms) for x in again.handed]

    scene_of(tmp_path, scene)
