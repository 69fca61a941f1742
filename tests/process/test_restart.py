"""A coordinator that is killed, and another that goes on with what it left on disk."""

import asyncio

import pytest
from fixtures.coordinated import OVERLAP, SPEC, play
from fixtures.pretended import PEERS, state

from duckweed.ledger.ledger import LedgerError
from duckweed.net.identity import Identity
from duckweed.run.layout import Layout
from duckweed.run.spec import override
from duckweed.swarm.coordinator import rounds as room
from duckweed.swarm.protocol import messages as m


def test_a_restarted_coordinator_knows_everything_that_was_closed(tmp_path):
    async def scene(run):
        await run.start()
        closed = await run.round(peers=[0, 2])
        before, after = run.it, run.restart()
        assert after.history.closed == {0: closed}
        assert after.history.shared == before.history.shared == closed.shared
        assert {key: x.index for key, x in after.admission.members.items()} == {
            key: x.index for key, x in before.admission.members.items()
        }
        assert after.history.agreed == before.history.agreed
        # Block 1 came back. What was handed out for round 1 before the crash is handed out again.
        assert [after.history.blocks.take().block for _ in range(3)] == [1, 3, 4]

    play(tmp_path, scene)


def test_a_run_that_had_begun_goes_on_without_a_peer_that_does_not_come_back(tmp_path, monkeypatch):
    async def scene(run):
        await run.start()
        await run.round()
        run.restart()
        run.task = asyncio.create_task(run.it.rounds.run())
        await run.join(PEERS[:2])
        # All are waited for; nobody is given work while it is not clear who is there.
        assert isinstance(await run.ask(PEERS[0], m.Next(1, state(1), False)), m.Wait)
        monkeypatch.setattr(room, "GATHER", 0.1)
        await run.it.rounds.notify()
        for number in range(2):
            while not isinstance(await run.hand_in_if_open(number), m.Ack):
                await asyncio.sleep(0.02)
        assert (await run.closed(1)).accepted == [0, 1]

    play(tmp_path, scene)


def test_who_worked_before_a_restart_is_told_that_all_is_done_though_it_comes_late(
    tmp_path, monkeypatch
):
    async def scene(run):
        await run.start()
        await run.round()
        run.restart()
        rounds = run.it.rounds
        run.task = asyncio.create_task(rounds.run())
        await run.join(PEERS[:2])
        monkeypatch.setattr(room, "GATHER", 0.1)
        await rounds.notify()
        for number in range(2):
            while not isinstance(await run.hand_in_if_open(number), m.Ack):
                await asyncio.sleep(0.02)
        monkeypatch.setattr(room, "GATHER", 30.0)
        await run.closed(1)
        for peer in PEERS[:2]:
            await run.ask(peer, m.Next(2, state(2), True))
        await asyncio.wait_for(run.task, 5)
        for peer in PEERS[:2]:
            await run.ask(peer, m.Leave("all rounds are done"))
        assert rounds.attended()
        await run.join([PEERS[2]])
        assert isinstance(await run.ask(PEERS[2], m.Next(1, state(1), True)), m.Apply)
        assert isinstance(await run.ask(PEERS[2], m.Next(2, state(2), True)), m.Stop)
        await run.ask(PEERS[2], m.Leave("all rounds are done"))
        assert not rounds.attended()

    play(tmp_path, scene)


def test_a_newcomer_cannot_decide_alone_which_state_is_right(tmp_path):
    """After a restart a liar may be the first to come back; nobody must be put out by its word."""
    liar = Identity(b"l" * 32)

    async def scene(run):
        await run.start()
        await run.join([liar])
        await run.round()
        run.restart()
        await run.join([liar])
        assert isinstance(await run.ask(liar, m.Next(1, "ff" * 32, False)), m.Wait)
        await run.join([PEERS[0]])
        assert isinstance(await run.ask(PEERS[0], m.Next(1, state(1), False)), m.Wait)
        assert 1 not in run.it.history.agreed  # one of the three who worked is no majority
        await run.join([PEERS[1]])
        await run.ask(PEERS[1], m.Next(1, state(1), False))
        assert run.it.history.agreed[1] == "01" * 32
        assert isinstance(await run.ask(liar, m.Next(1, "ff" * 32, False)), m.Stop)

    play(tmp_path, scene)


def test_a_ledger_of_another_run_is_refused(tmp_path):
    async def scene(run):
        with pytest.raises(LedgerError, match="not the specification"):
            run.open(override(SPEC, {"seed": 9}))
        with pytest.raises(LedgerError, match=r"layout\.json was changed"):
            run.open(layout=Layout.of({"a": (3,)}))
        run.folder.state(3).touch()
        with pytest.raises(LedgerError, match="entries were cut off"):
            run.open()

    play(tmp_path, scene)


def test_a_restarted_coordinator_gives_the_last_round_when_the_next_is_open(tmp_path):
    """Peers then hold the state before, from which the next round is to be begun."""

    async def scene(run):
        await run.start()
        await run.round()
        run.restart()
        await run.join(PEERS[:2])
        run.task = asyncio.create_task(run.it.rounds.run())
        await asyncio.sleep(0)
        waits = await run.ask(PEERS[0], m.Next(0, state(0), True))
        assert isinstance(waits, m.Wait)
        assert "2 of 3 are here" in waits.reason
        asked = asyncio.create_task(run.ask(PEERS[0], m.Next(0, state(0), True)))
        await run.join(PEERS[2:])
        answer = await asked
        while isinstance(answer, m.Wait):
            answer = await run.ask(PEERS[0], m.Next(0, state(0), True))
        assert answer.closed.round == 0
        assert (await run.ask(PEERS[0], m.Ahead(0))).round == 1
        run.task.cancel()

    play(tmp_path, scene, OVERLAP)


def test_who_comes_back_is_told_whether_its_work_is_in_hand(tmp_path):
    async def scene(run):
        await run.start()
        join = m.Join(m.PROTOCOL, run.folder.read_secret())
        assert (await run.ask(PEERS[0], join)).handed == -1
        await run.hand_in(0)
        assert (await run.ask(PEERS[0], join)).handed == 0
        assert (await run.ask(PEERS[1], join)).handed == -1
        run.task.cancel()

    play(tmp_path, scene, OVERLAP)


def test_a_coordinator_of_a_run_whose_rounds_are_all_closed_waits_for_no_peer_that_has_ended(
    tmp_path,
):
    """Stopped in its last moment, a run is gone on with by those who still agree on the state."""

    async def scene(run):
        await run.start()
        for number in range(SPEC.rounds.count):
            await run.round(number)
            for peer in PEERS:
                run.asked = asyncio.ensure_future(
                    run.ask(peer, m.Next(number + 1, state(number + 1), False))
                )
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
        await asyncio.wait_for(run.task, 60)
        after = run.restart()
        assert after.rounds.number == SPEC.rounds.count
        await asyncio.wait_for(after.rounds.run(), 60)

    play(tmp_path, scene)


def test_what_was_handed_in_before_a_restart_counts_after_it(tmp_path, monkeypatch):
    async def scene(run):
        await run.start()
        await run.round()
        while not isinstance(await run.hand_in_if_open(0), m.Ack):
            await asyncio.sleep(0.02)
        run.restart()
        monkeypatch.setattr(room, "GATHER", 0.1)
        run.task = asyncio.create_task(run.it.rounds.run())
        await run.join(PEERS[:2])
        await run.it.rounds.notify()
        while not isinstance(await run.hand_in_if_open(1), m.Ack):
            await asyncio.sleep(0.02)
        assert (await run.closed(1)).accepted == [0, 1]

    play(tmp_path, scene)
