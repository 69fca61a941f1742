"""The coordinator, asked without network by peers that only pretend to train."""

import asyncio
import gc
import math
import threading

import msgspec
import pytest
from blake3 import blake3
from fixtures.coordinated import SPEC, play
from fixtures.golden import LAYOUT
from fixtures.pretended import PEERS, contribution, origin, state
from msgspec.structs import replace

from duckweed.ledger.entries import RUN, StateEntry
from duckweed.net.rate_limits import ASKED
from duckweed.round.open_round import Timings
from duckweed.round.run_log import run_log
from duckweed.round.signed import signed_part
from duckweed.run.events import ContributionRefused, RoundClosed, Said, StateDiffers
from duckweed.run.sections import Branch
from duckweed.run.spec import override
from duckweed.session import is_trained
from duckweed.swarm.coordinator import rounds as room
from duckweed.swarm.protocol import messages as m


def test_a_whole_run(tmp_path):
    async def scene(run):
        await run.start()
        for round_ in range(2):
            closed = await run.round(round_)
            assert closed.accepted == [0, 1, 2]
            for peer in PEERS:
                answer = await run.ask(peer, m.Next(round_, state(round_), True))
                assert answer == m.Apply(closed)
        answers = [await run.ask(peer, m.Next(2, state(2), False)) for peer in PEERS]
        # Whoever asks first is told to wait for the others: one voice is no majority.
        assert isinstance(answers[0], m.Wait)
        assert answers[1:] == [m.Stop("all rounds are done")] * 2
        await asyncio.wait_for(run.task, 5)

    run = play(tmp_path, scene)
    kinds = [entry.kind for entry in run.it.history.ledger.entries(*RUN)]
    assert kinds == ["genesis", "peer", "peer", "peer", "round", "state", "round", "state"]
    events = [e for e in run.events if isinstance(e, RoundClosed)]
    assert [e.held_out for e in events] == [2.0, 2.0]
    assert [e.tokens for e in events] == [3 * 1024] * 2


def test_strangers_and_wrong_words_are_refused_and_leave_no_trace(tmp_path):
    async def scene(run):
        secret = run.folder.read_secret()
        for join in (
            m.Join(m.PROTOCOL + 1, secret),
            m.Join(m.PROTOCOL, ""),
            m.Join(m.PROTOCOL, "x"),
        ):
            assert isinstance(await run.ask(PEERS[0], join), m.Refused)
        assert await run.ask(PEERS[0], m.Next(0, state(0), False)) == m.Refused("join first")
        contribute, _ = run.work(0, m.Train(0, 0, 0, 1, False))
        with pytest.raises(ValueError, match="stranger"):
            run.it.body_limit(PEERS[0].id, contribute)
        await run.join([PEERS[0]])
        assert run.it.body_limit(PEERS[0].id, contribute) >= 4 * LAYOUT.total
        assert run.it.body_limit(PEERS[0].id, m.Fetch("ab" * 32)) == 0

    run = play(tmp_path, scene)
    assert [entry.kind for entry in run.it.history.ledger.entries(*RUN)] == ["genesis", "peer"]


def test_a_peer_keeps_its_index_for_as_long_as_it_keeps_its_key(tmp_path):
    async def scene(run):
        assert await run.join() == [0, 1, 2]
        assert await run.join([PEERS[2], PEERS[0]]) == [2, 0]

    play(tmp_path, scene)


def test_who_had_nothing_to_learn_from_has_copied_nobody(tmp_path):
    """Contributions of zeros are equal to each other, in a round and from one to the next."""

    async def scene(run):
        await run.start()
        for round_ in range(2):
            for number in (0, 1, 2):
                assert await run.hand_in(number, round_, empty=number > 0) == m.Ack()
            assert (await run.closed(round_)).accepted == [0, 1, 2]

    play(tmp_path, scene)


def test_where_all_were_refused_they_are_given_their_work_again(tmp_path):
    """As after a change of leaders: the new one has given out other blocks."""

    async def scene(run):
        await run.start()
        for number in range(3):
            assert isinstance(await run.hand_in(number, block=77), m.Refused)
        answer = await run.ask(PEERS[0], m.Next(0, state(0), True))
        assert isinstance(answer, m.Train)
        assert await run.ask(PEERS[0], *run.work(0, answer)) == m.Ack()
        assert (await run.closed(0)).accepted == [0]

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peer": 0}, "another peer's name"),
        ({"round": 1}, "round 1 is not open"),
        ({"block": 77}, "block 77 is not assigned"),
        ({"size": 5}, "not the one announced"),
        ({"blob": "00" * 32}, "not the one announced"),
        ({"loss": math.nan}, "Expected `float` >= 0.0 - at `$.announcement.loss`"),
        ({"tokens": 10**9}, "1024 tokens"),
        ({"steps": 1}, "steps 0 to 4 of the block"),
        ({"first": 1}, "steps 0 to 4 of the block"),
    ],
)
def test_an_improper_contribution_is_refused_and_holds_nobody_up(tmp_path, changes, reason):
    """In the very first round, when nobody knows yet how long a peer may take."""

    async def scene(run):
        await run.start()
        await run.hand_in(0)
        answer = await run.hand_in(1, **changes)
        assert isinstance(answer, m.Refused)
        assert reason in answer.reason
        await run.hand_in(2)
        closed = await run.closed(0)
        assert closed.accepted == [0, 2]
        assert 1 in closed.rejected
        # Its block is trained by somebody in the next round.
        for peer in (PEERS[0], PEERS[2]):
            await run.task_of(peer, 1)
        assert 1 in [span.block for span in run.it.rounds.open.assigned.values()]

    play(tmp_path, scene)


def test_a_signature_must_be_that_of_the_peer_over_what_it_says(tmp_path):
    async def scene(run):
        await run.start()
        question, blob = run.work(1, await run.task_of(PEERS[1]))
        for signature in (
            b"x" * 64,
            PEERS[0].sign(signed_part(origin(run.spec), question.announcement)),
            PEERS[1].sign(signed_part("ab" * 32, question.announcement)),  # said in another run
        ):
            forged = msgspec.structs.replace(question, signature=signature)
            answer = await run.ask(PEERS[1], forged, blob)
            assert answer == m.Refused(
                "the signature does not fit the announcement, or was made for another run"
            )

    play(tmp_path, scene)


def test_a_contribution_to_another_path_of_the_family_does_not_count(tmp_path):
    family = override(SPEC, {"paths.count": 2, "paths.prefix": 8})
    paths = [replace(family, branch=Branch(n, "ab" * 32, 2, 8)) for n in range(2)]

    async def scene(run):
        await run.start()
        task = await run.task_of(PEERS[1])
        answer = await run.ask(PEERS[1], *contribution(paths[0], 1, task))
        assert "made for another path" in answer.reason
        assert isinstance(await run.ask(PEERS[1], *run.work(1, task)), m.Ack)

    play(tmp_path, scene, paths[1])


def test_a_contribution_counts_once_however_often_it_is_sent(tmp_path):
    async def scene(run):
        await run.start()
        question, blob = run.work(0, await run.task_of(PEERS[0]))
        for _ in range(3):
            assert await run.ask(PEERS[0], question, blob) == m.Ack()
        await run.hand_in(1)
        await run.hand_in(2)
        assert (await run.closed(0)).accepted == [0, 1, 2]
        assert isinstance(await run.ask(PEERS[0], question, blob), m.Refused)

    play(tmp_path, scene)


def test_a_round_is_not_closed_before_something_counts(tmp_path):
    """Whoever is alone with a run cannot use up its rounds with work that does not count."""

    async def scene(run):
        await run.start()
        for number in range(3):
            assert await run.hand_in(number, rms=[]) == m.Ack()
        while run.it.admission.rate_limits.refused["contributions"] < 3:
            await asyncio.sleep(0.02)
        answer = await run.ask(PEERS[1], m.Next(0, state(0), True))
        assert answer == m.Wait("round 0: waiting for work that counts")
        assert run.it.rounds.number == 0
        # The next work that counts closes it, of whomever: a newcomer, or one that begins again.
        blocks = [span.block for span in run.it.rounds.open.assigned.values()]
        assert await run.hand_in(2) == m.Ack()
        closed = await run.closed(0)
        assert (closed.accepted, [*closed.rejected]) == ([2], [0, 1])
        assert blocks == [0, 1, 2]
        assert [(await run.task_of(PEERS[n], 1)).block for n in (0, 1)] == [0, 1]

    run = play(tmp_path, scene)
    refused = [(e.peer, e.reason) for e in run.events if isinstance(e, ContributionRefused)]
    tensors = len(LAYOUT.names)
    reason = f"announced 0 tensor sizes, the model has {tensors} tensors"
    assert refused == [(0, reason), (1, reason), (2, reason)]
    said = [e.text for e in run.events if isinstance(e, Said)]
    assert said == ["round 0: nothing that was handed in counts; it stays open"]
    assert [e.accepted for e in run.events if isinstance(e, RoundClosed)] == [[2]]


def test_work_that_comes_while_a_vain_round_is_judged_is_taken_afterwards(tmp_path, monkeypatch):
    async def scene(run):
        judging, go_on = threading.Event(), threading.Event()
        really = run.it.engine.close

        def close(*words):
            judging.set()
            go_on.wait(10)
            return really(*words)

        monkeypatch.setattr(run.it.engine, "close", close)
        await run.start()
        tasks = [await run.task_of(peer) for peer in PEERS]
        await run.ask(PEERS[1], m.Leave("power cut"))
        await run.ask(PEERS[2], m.Leave("power cut"))
        await run.ask(PEERS[0], *run.work(0, tasks[0], rms=[]))
        await asyncio.to_thread(judging.wait, 10)
        await run.join(PEERS[1:2])
        question, blob = run.work(1, tasks[1])
        assert await run.ask(PEERS[1], question, blob) == m.Refused("round 0 is not open")
        asked = asyncio.create_task(run.ask(PEERS[1], m.Next(0, state(0), True)))
        go_on.set()
        while isinstance(answer := await asked, m.Wait):
            asked = asyncio.create_task(run.ask(PEERS[1], m.Next(0, state(0), True)))
        assert answer == tasks[1]
        assert await run.ask(PEERS[1], question, blob) == m.Ack()
        assert (await run.closed(0)).accepted == [1]

    play(tmp_path, scene, loop=None)


def test_a_straggler_is_not_waited_for_beyond_the_patience(tmp_path):
    async def scene(run):
        await run.start()
        closed = await run.round(peers=[0, 2])
        assert closed.accepted == [0, 2]
        assert closed.rejected == {1: "nothing handed in before the round closed"}
        assert isinstance(await run.ask(PEERS[1], m.Next(0, state(0), True)), m.Apply)

    play(tmp_path, scene)


def test_who_was_late_for_one_round_is_waited_for_in_the_next(tmp_path):
    async def scene(run):
        await run.start()
        late = run.work(1, await run.task_of(PEERS[1]))
        await run.ask(PEERS[1], m.Progress("training", 0, 2))
        await run.round(peers=[0, 2])
        await run.hand_in(0, 1)
        await run.hand_in(2, 1)
        answer = await run.ask(PEERS[1], *late)
        assert answer == m.Refused("round 0 is not open")
        await asyncio.sleep(0.3)  # some looks at whether the round is complete
        assert run.it.rounds.number == 1
        assert await run.hand_in(1, 1) == m.Ack()
        assert (await run.closed(1)).accepted == [0, 1, 2]

    play(tmp_path, scene, override(SPEC, {"rounds.patience": 2.0}))


def test_a_slow_peer_gets_fewer_steps_counts_by_its_tokens_and_skips_nothing(tmp_path):
    async def hand_in(run, number, round_, seconds):
        task = await run.task_of(PEERS[number], round_)
        question, _ = run.work(number, task)
        changes = {"steps": task.steps, "first": task.first, "tokens": 256 * task.steps}
        question, blob = run.work(number, task, **changes)
        question = msgspec.structs.replace(question, timings=Timings(train=seconds * task.steps))
        signature = PEERS[number].sign(signed_part(origin(run.spec), question.announcement))
        question = msgspec.structs.replace(question, signature=signature)
        assert await run.ask(PEERS[number], question, blob) == m.Ack()
        return task.block, task.first, task.steps

    async def scene(run):
        await run.start()
        given = []
        for round_ in range(3):
            given.append([await hand_in(run, n, round_, s) for n, s in enumerate((1, 10, 1))])
            closed = await run.closed(round_)
            assert closed.weights == ([1, 1, 1] if round_ == 0 else [4, 1, 4])
        assert given[0] == [(0, 0, 4), (1, 0, 4), (2, 0, 4)]
        # Of block 3 the slow peer does a step a round, and goes on with it.
        assert given[1] == [(4, 0, 4), (3, 0, 1), (5, 0, 4)]
        assert given[2] == [(6, 0, 4), (3, 1, 1), (7, 0, 4)]
        after = run.restart()
        assert msgspec.structs.astuple(after.history.blocks.take(2)) == (3, 2, 2)

    play(tmp_path, scene, override(SPEC, {"rounds.count": 4}))


def test_after_a_restart_a_peer_hears_that_its_contribution_is_here_before_the_round_opens(
    tmp_path,
):
    """Else it would carry nothing on from it, where the round closes at once."""

    async def scene(run):
        await run.start()
        await run.round()
        for number in (0, 2):
            assert await run.hand_in(number, 1) == m.Ack()
        run.restart()
        welcomes = [
            await run.ask(peer, m.Join(m.PROTOCOL, run.folder.read_secret())) for peer in PEERS
        ]
        assert [welcome.handed for welcome in welcomes] == [1, -1, 1]
        assert run.it.rounds.open is None

    play(tmp_path, scene)


def test_a_peer_whose_state_differs_is_told_and_the_others_agree(tmp_path):
    async def scene(run):
        await run.start()
        await run.round()
        await run.task_of(PEERS[0], 1, "aa" * 32)
        await run.task_of(PEERS[1], 1, "aa" * 32)
        answer = await run.ask(PEERS[2], m.Next(1, "bb" * 32, False))
        assert answer.fault
        assert "must not contribute" in answer.reason
        assert run.it.history.agreed[1] == "aa" * 32
        ahead = await run.ask(PEERS[0], m.Next(9, "cc" * 32, False))
        assert ahead.fault

    run = play(tmp_path, scene)
    assert StateDiffers(2, 1) in run.events


def test_the_run_ends_though_most_who_counted_in_the_last_round_are_gone(tmp_path):
    async def scene(run):
        await run.start()
        await run.round()
        await run.ask(PEERS[0], m.Leave("power cut"))
        await run.ask(PEERS[1], m.Leave("power cut"))
        assert await run.ask(PEERS[2], m.Next(1, "aa" * 32, False)) == m.Stop("all rounds are done")
        await asyncio.wait_for(run.task, 5)

    play(tmp_path, scene, override(SPEC, {"rounds.count": 1}))


def test_a_run_is_done_though_an_earlier_state_is_agreed_on_after_the_last(tmp_path):
    async def scene(run):
        await run.start()
        await run.round(
            0, peers=[1]
        )  # whose vote alone decides on the state after it, and who is slow
        await run.round(1, peers=[0])
        assert await run.ask(PEERS[0], m.Next(2, "ab" * 32, False)) == m.Stop("all rounds are done")
        assert isinstance(await run.ask(PEERS[1], m.Next(1, state(1), True)), m.Apply)

    run = play(tmp_path, scene)
    states = [entry.round for entry in run.it.history.ledger.entries(StateEntry)]
    assert states == [2, 1]
    assert is_trained(run.folder, run.spec)
    assert run_log(run.folder).state == "ab" * 32


def test_a_full_disk_ends_the_run_with_its_own_words(tmp_path, monkeypatch):
    async def scene(run):
        await run.start()
        await run.hand_in(0)

        def full(path, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(run.it.engine.blobs, "write", full)
        with pytest.raises(OSError, match="No space"):
            await run.hand_in(1)
        with pytest.raises(OSError, match="No space"):
            await asyncio.wait_for(run.task, 5)

    run = play(tmp_path, scene)
    assert run.it.rounds.number == 0


def test_a_run_does_not_begin_without_all_its_peers(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "GATHER", 0.0)

    async def scene(run):
        await run.join(PEERS[:2])
        run.task = asyncio.create_task(run.it.rounds.run())
        for _ in range(3):
            assert isinstance(await run.ask(PEERS[0], m.Next(0, state(0), False)), m.Wait)

    play(tmp_path, scene)


def test_only_blobs_and_states_are_given_away(tmp_path):
    async def scene(run):
        await run.join()
        run.folder.state(0).write_bytes(b"state of round zero")
        (run.folder.path / "precious").write_text("secret")
        for name in ("../precious", "x" * 64, "/" + "a" * 63, "A" * 64, "", "\x00" * 64):
            answer = await run.ask(PEERS[0], m.Fetch(name))
            assert answer.reason.endswith(r"regex '^[0-9a-f]{64}\\Z' - at `$.blob`")
        assert isinstance(await run.ask(PEERS[0], m.Fetch("a" * 64)), m.Refused)
        saved = await run.ask(PEERS[0], m.GetSavedState())
        assert saved == m.SavedState(0, 19, [blake3(b"state of round zero").digest()])
        for round_, number in ((-1, 0), (0, -1), (0, 1), (7, 0), (10**18, 0), (0, 2**63)):
            assert isinstance(await run.ask(PEERS[0], m.GetStatePiece(round_, number)), m.Refused)
        _, body = await run.it.handle(PEERS[0].id, m.GetStatePiece(0, 0), b"")
        assert body == b"state of round zero"

    play(tmp_path, scene)


def test_a_state_of_many_pieces_is_given_however_fast_a_peer_asks(tmp_path):
    async def scene(run):
        await run.join()
        size = 3 * int(ASKED[1]) << 16
        with run.folder.state(0).open("wb") as file:
            file.truncate(size)
        saved = await run.ask(PEERS[0], m.GetSavedState())
        assert saved.size == size
        for number in range(len(saved.pieces)):
            assert isinstance(await run.ask(PEERS[0], m.GetStatePiece(0, number)), m.Blob)

    play(tmp_path, scene)


def test_everything_that_is_begun_in_the_background_is_kept_until_it_is_done(tmp_path):
    """The event loop keeps no tasks: one that only `ensure_future` knows of may be collected."""

    async def scene(run):
        await run.join()
        for _ in range(3):
            run.it.rounds.step_down()
        assert len(run.it.rounds._background) == 3
        gc.collect()
        await asyncio.gather(*run.it.rounds._background)
        await asyncio.sleep(0)
        assert not run.it.rounds._background
        answer = await run.ask(PEERS[0], m.Next(0, state(0), False))
        assert answer == m.Wait("another machine leads the run now")

    play(tmp_path, scene)


def test_who_decides_on_the_last_state_decides_on_those_that_others_left_open(tmp_path):
    """Who should have decided on an earlier one hung as it was its turn, and may never come back."""

    async def scene(run):
        await run.start()
        await run.round(0, peers=[1])
        assert await run.hand_in(0, 1) == m.Ack()
        assert await run.hand_in(2, 1) == m.Ack()
        await run.closed(1)
        await run.ask(PEERS[0], m.Next(2, state(2), False))
        assert 1 not in run.it.history.agreed
        assert await run.ask(PEERS[2], m.Next(2, state(2), False)) == m.Stop("all rounds are done")

    agreed = play(tmp_path, scene).it.history.agreed
    assert (agreed[1], agreed[2]) == (state(1), state(2))


def test_contributions_are_added_up_while_others_are_still_awaited(tmp_path, monkeypatch):
    read = []

    async def scene(run):
        give = run.it.engine.blobs.read
        monkeypatch.setattr(
            run.it.engine.blobs, "read", lambda blob: read.append(blob) or give(blob)
        )
        await run.start()
        for number in (2, 0):
            await run.hand_in(number, 0)
        async with asyncio.timeout(20):
            while len(read) < 2:
                await asyncio.sleep(0.01)
        early = list(read)
        await run.hand_in(1, 0)
        closed = await run.closed(0)
        assert closed.accepted == [0, 1, 2]
        assert sorted(early) == sorted(closed.blobs[peer] for peer in (0, 2))
        assert sorted(read) == sorted(closed.blobs)

    play(tmp_path, scene)
