"""Peers that only write, as the coordinator sees them; nobody trains, and what is handed in is made up."""

import asyncio

import pytest
from fixtures import pretended
from fixtures.coordinated import SPEC, play
from fixtures.pretended import PEERS, contribution, origin, state
from msgspec.structs import replace

from duckweed.ledger.entries import Writing
from duckweed.merge.round import blob_hash
from duckweed.round.signed import writing_part
from duckweed.run.events import ContributionRefused, Said
from duckweed.run.spec import override
from duckweed.run.task.rollouts import blob_limit
from duckweed.run.task.written import Written
from duckweed.swarm.coordinator.fetch_groups import PIECES_FROM
from duckweed.swarm.protocol import messages as m

REINFORCE = override(SPEC, {
    "task.kind": "reinforce", "task.samples": 2, "task.tokens": 8, "task.writers": 1,
    "model.sequence": 32, "rounds.count": 4,
})  # fmt: skip
WRITER, BODY = 2, b"answers"
SUMS = Written(problems=4, answers=8, tokens=32, reward=4.0)


async def begin(run):
    """Rewards are believed: nobody here can make problems."""
    run.it.rounds.rewards._unable = "there are no problems in this test"
    secret = run.folder.read_secret()
    for number, peer in enumerate(PEERS):
        await run.ask(peer, m.Join(m.PROTOCOL, secret, writes=number == WRITER))
    run.task = asyncio.create_task(run.it.rounds.run())
    await asyncio.sleep(0)


async def trained(run, number, round_):
    """A trainer's work for a round is taken; the answers that it was given."""
    task = await run.task_of(PEERS[number], round_)
    rollouts = f"{number} {round_}".encode()
    changes = {"tokens": 32, "rollouts": blob_hash(rollouts)}
    question, blob = contribution(run.spec, number, task, **changes)
    asked = replace(question, written=SUMS), blob + rollouts
    assert await run.ask(PEERS[number], *asked) == m.Ack()
    return task.answers


async def task_of_writer(run, round_):
    answer = await run.ask(PEERS[WRITER], m.Next(round_, state(round_), False))
    assert isinstance(answer, m.Write), answer
    return answer


def wrote(run, task, **changes):
    said = Writing(task.round, WRITER, task.block, task.first, task.steps, 32, 0.5, blob_hash(BODY))
    said = replace(said, **changes)
    signature = PEERS[WRITER].sign(writing_part(origin(run.spec), said))
    return m.Wrote(said, signature, SUMS)


def test_a_round_waits_for_answers_and_the_next_one_learns_from_them_after_a_restart_too(tmp_path):
    async def scene(run):
        await begin(run)
        assert [await trained(run, number, 0) for number in (0, 1)] == [(), ()]
        task = await task_of_writer(run, 0)
        await asyncio.sleep(0.1)  # of virtual time
        assert run.it.rounds.number == 0
        assert "write answers" in run.it.rounds.waiting_for()
        assert await run.ask(PEERS[WRITER], wrote(run, task), BODY) == m.Ack()
        assert (await run.closed(0)).accepted == [0, 1]
        given = [await trained(run, number, 1) for number in (0, 1)]
        ((said,),) = [x for x in given if x]
        assert (said.peer, said.rollouts, said.block) == (WRITER, blob_hash(BODY), task.block)

        again = await task_of_writer(run, 1)  # handed in, and then the coordinator is killed
        body = BODY + b" again"
        question = wrote(run, again, rollouts=blob_hash(body))
        assert await run.ask(PEERS[WRITER], question, body) == m.Ack()
        run.restart()
        await begin(run)
        assert run.it.rounds.number == 1
        assert await task_of_writer(run, 1) == again  # the same span: it has its answers still
        assert await run.ask(PEERS[WRITER], question, body) == m.Ack()
        await run.closed(1)
        assert [x.rollouts for x in run.it.history.writings] == [blob_hash(body)]
        assert run.it.history.wrote[WRITER] == 64

    play(tmp_path, scene, REINFORCE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peer": 0}, "another peer's name"),
        ({"first": 1, "steps": 3}, "not assigned"),
        ({"block": 77}, "not assigned"),
        ({"rollouts": "ab" * 32}, "not those announced"),
        ({"tokens": 10**6}, "tokens"),
        ({"signature": "00"}, "signature"),
    ],
)
def test_answers_that_are_not_what_was_asked_for_are_refused_and_hold_nobody_up(
    tmp_path, changes, words
):
    async def scene(run):
        await begin(run)
        task = await task_of_writer(run, 0)
        refused = await run.ask(PEERS[WRITER], wrote(run, task, **changes), BODY)
        assert words in refused.reason
        for number in (0, 1):
            await trained(run, number, 0)
        closed = await run.closed(0)
        assert words in closed.rejected[WRITER]
        assert not run.it.history.writings
        assert any(isinstance(event, ContributionRefused) for event in run.events)

    play(tmp_path, scene, REINFORCE)


def test_a_peer_that_only_writes_is_no_peer_to_a_run_that_has_nothing_to_write(tmp_path):
    async def scene(run):
        join = m.Join(m.PROTOCOL, run.folder.read_secret(), writes=True)
        assert "reinforcement learning" in (await run.ask(PEERS[0], join)).reason
        assert not run.it.admission.members

    play(tmp_path, scene, pretended.SPEC)


def test_what_is_too_large_to_be_answers_is_not_read(tmp_path):
    async def scene(run):
        await begin(run)
        question = wrote(run, await task_of_writer(run, 0))
        assert run.it.body_limit(PEERS[WRITER].id, question) == blob_limit(REINFORCE)
        with pytest.raises(ValueError, match="stranger"):
            run.it.body_limit("ab" * 32, question)

    play(tmp_path, scene, REINFORCE)


def test_a_writer_that_is_late_is_not_waited_for_and_its_span_is_trained_by_others(tmp_path):
    async def scene(run):
        await begin(run)
        task = await task_of_writer(run, 0)
        for number in (0, 1):
            await trained(run, number, 0)
        closed = await run.closed(0)
        assert "no answers were handed in, and checked" in closed.rejected[WRITER]
        late = await run.ask(PEERS[WRITER], wrote(run, task), BODY)
        assert "too late" in late.reason
        blocks = [(await run.task_of(PEERS[number], 1)).block for number in (0, 1)]
        assert task.block in blocks

    play(tmp_path, scene, REINFORCE)


def test_a_writer_that_was_late_once_gets_as_much_as_others_again_when_it_is_in_time(tmp_path):
    async def scene(run):
        await begin(run)
        await task_of_writer(run, 0)
        await run.ask(PEERS[WRITER], m.Progress("writing", 0, step=1))
        for number in (0, 1):
            await trained(run, number, 0)
        await run.closed(0)
        writer = run.it.admission.by_index[WRITER]
        assert (late := writer.pace) > 0
        await asyncio.sleep(0.1)
        task = await task_of_writer(run, 1)
        assert await run.ask(PEERS[WRITER], wrote(run, task), BODY) == m.Ack()
        assert writer.pace < late / 2

    play(tmp_path, scene, REINFORCE)


def test_work_that_counts_is_not_refused_too_where_its_peer_only_writes_from_then_on(tmp_path):
    async def scene(run):
        await begin(run)
        await trained(run, 0, 0)
        join = m.Join(m.PROTOCOL, run.folder.read_secret(), writes=True)
        await run.ask(PEERS[0], join)
        answer = await run.ask(PEERS[0], m.Next(0, state(0), True))
        assert isinstance(answer, m.Write)
        await trained(run, 1, 0)
        closed = await run.closed(0)
        assert closed.accepted == [0, 1]
        assert list(closed.rejected) == [WRITER]

    play(tmp_path, scene, REINFORCE)


def test_answers_that_a_new_leader_lacks_are_written_anew_and_nobody_is_sent_for_them(tmp_path):
    async def scene(run):
        await begin(run)
        task = await task_of_writer(run, 0)
        assert await run.ask(PEERS[WRITER], wrote(run, task), BODY) == m.Ack()
        for number in (0, 1):
            await trained(run, number, 0)
        await run.closed(0)
        run.folder.blob(blob_hash(BODY)).unlink()
        run.restart()
        await begin(run)
        assert [await trained(run, number, 1) for number in (0, 1)] == [(), ()]
        assert any(isinstance(x, Said) and "answers" in x.text for x in run.events)

    play(tmp_path, scene, REINFORCE)


def test_answers_are_fetched_whole_since_no_other_peer_has_pieces_of_them(tmp_path):
    async def scene(run):
        await begin(run)
        for number, peer in enumerate(PEERS):
            where = [f"192.0.2.{number}:7"]
            run.it.admission.members[peer.id].addresses = where
        task, body = await task_of_writer(run, 0), bytes(2 * PIECES_FROM)
        question = wrote(run, task, rollouts=blob_hash(body))
        assert await run.ask(PEERS[WRITER], question, body) == m.Ack()
        for number in (0, 1):
            await trained(run, number, 0)
        await run.closed(0)
        assert await run.ask(PEERS[0], m.Fetch(blob_hash(body))) == m.Blob()

    play(tmp_path, scene, REINFORCE)


def test_no_entry_lists_answers_beside_the_contribution_of_the_same_peer(tmp_path):
    """Else it would be audited for one of them alone."""

    async def scene(run):
        await begin(run)
        await run.ask(PEERS[WRITER], m.Join(m.PROTOCOL, run.folder.read_secret()))
        await trained(run, WRITER, 0)
        await run.ask(PEERS[WRITER], m.Join(m.PROTOCOL, run.folder.read_secret(), writes=True))
        task = await task_of_writer(run, 0)
        assert await run.ask(PEERS[WRITER], wrote(run, task), BODY) == m.Ack()
        for number in (0, 1):
            await trained(run, number, 0)
        closed = await run.closed(0)
        assert closed.accepted == [0, 1, 2]
        assert not run.it.history.writings

    play(tmp_path, scene, REINFORCE)
