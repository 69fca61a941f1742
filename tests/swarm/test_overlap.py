"""Work for the next round while one is open (rounds.overlap), as the coordinator gives it."""

import pytest
from fixtures.coordinated import OVERLAP, play
from fixtures.pretended import PEERS

from duckweed.ledger.entries import RoundEntry
from duckweed.swarm.protocol import messages as m


def test_work_for_the_next_round_is_given_while_one_is_open(tmp_path):
    async def scene(run):
        await run.start()
        for number in (0, 1):
            await run.hand_in(number)
        early = [await run.ask(PEERS[n], m.Ahead(0)) for n in (0, 1)]
        assert [(task.round, task.block) for task in early] == [(1, 3), (1, 4)]
        assert await run.ask(PEERS[0], m.Ahead(0)) == early[0]  # asked again, told the same
        assert isinstance(await run.ask(PEERS[0], m.Ahead(1)), m.Wait)  # one round ahead, not two
        assert run.it.rounds.number == 0
        await run.hand_in(2)
        closed = await run.closed(0)
        assert closed.accepted == [0, 1, 2]
        # Who was told early has the same task now; who was not is given the block kept for it.
        tasks = [await run.task_of(peer, 1) for peer in PEERS]
        assert [(t.block, t.round) for t in tasks] == [(3, 1), (4, 1), (5, 1)]
        # A peer that still holds the state before may begin with the open round as well.
        late = await run.ask(PEERS[2], m.Ahead(0))
        assert (late.round, late.block) == (1, 5)
        run.task.cancel()

    play(tmp_path, scene, OVERLAP)


def test_without_overlap_nobody_is_given_work_early(tmp_path):
    async def scene(run):
        await run.start()
        await run.hand_in(0)
        assert isinstance(await run.ask(PEERS[0], m.Ahead(0)), m.Wait)
        assert run.it.rounds.next is None
        run.task.cancel()

    play(tmp_path, scene)


@pytest.mark.parametrize("round_", [0, 1])
def test_steps_ahead_are_those_of_the_specification_or_none(tmp_path, round_):
    async def scene(run):
        await run.start()
        if round_:
            await run.round()
        allowed = {0, 2} if round_ else {0}
        for number, ahead in enumerate((2, 0, 1)):
            answer = await run.hand_in(number, round_, ahead=ahead)
            assert isinstance(answer, m.Ack) == (ahead in allowed), (ahead, answer)
        assert (await run.closed(round_)).accepted == ([0, 1] if round_ else [1])
        run.task.cancel()

    run = play(tmp_path, scene, OVERLAP)
    contributions = [e.body.contributions for e in run.it.history.ledger.entries(RoundEntry)][
        round_
    ]
    assert [c.ahead for c in contributions.values()] == ([2, 0] if round_ else [0])
