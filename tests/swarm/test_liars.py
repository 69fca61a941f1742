"""What a member that lies, is silent, or comes under ever new names can do to a coordinator: nothing that
others notice for longer than one deadline."""

import asyncio
import json
import math

import msgspec
import pytest
from fixtures.coordinated import SPEC, play
from fixtures.pretended import PEERS, state

from duckweed.ledger.entries import PeerEntry, Standing
from duckweed.net import clock
from duckweed.net.identity import Identity
from duckweed.round.open_round import Timings
from duckweed.run import events
from duckweed.run.events import ContributionRefused, PeerLeft, RoundClosed
from duckweed.run.spec import override
from duckweed.swarm.coordinator import admission
from duckweed.swarm.coordinator import coordinator as room
from duckweed.swarm.protocol import messages as m

KEYS = [Identity(bytes([n]) * 32) for n in range(4, 200)]  # of others than PEERS
LONG = override(SPEC, {"rounds.count": 12, "rounds.patience": 1.0, "rounds.evaluate": 1})


async def with_timings(run, number, round_, **said):
    """A peer's work with other timings or held-out figures than it has measured."""
    task = await run.task_of(PEERS[number], round_)
    question, blob = run.work(number, task)
    return await run.ask(PEERS[number], msgspec.structs.replace(question, **said), blob)


@pytest.mark.parametrize(
    "times",
    [
        Timings(train=math.nan),
        Timings(train=math.inf),
        Timings(train=1e300),
        Timings(wait=-1.0),
        Timings(train=1e7, wall=1e-300),
    ],
)
def test_no_timing_of_a_peer_ends_the_coordinator_or_spoils_its_metrics(tmp_path, times):
    async def scene(run):
        await run.start()
        await run.hand_in(0)
        await with_timings(run, 1, 0, timings=times)
        await run.hand_in(2)
        await run.closed(0)
        while not any(isinstance(e, RoundClosed) for e in run.events):
            await run.ask(PEERS[0], m.Next(0, state(0), True))
        for event in run.events:
            json.loads(events.encode(event))
            if isinstance(event, RoundClosed):
                assert all(0 <= share <= 1 for share in event.utilisation.values())
        assert not run.task.done()

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("nats", "tokens"),
    [(-1e9, 4), (1e-9, 4), (3e4, 4), (1e-9, 1 << 40), (1e15, 256), (math.inf, 4)],
)
def test_one_peer_cannot_tell_the_loss_of_a_run(tmp_path, nats, tokens):
    async def scene(run):
        await run.start()
        await run.hand_in(0)
        await with_timings(run, 1, 0, nats=nats, tokens=tokens)
        await run.hand_in(2)
        await run.closed(0)
        secret = run.folder.read_secret()
        for number in (0, 2):
            await run.ask(PEERS[number], m.Next(0, state(0), True))
        seen = await run.ask(PEERS[0], m.GetStatus(m.PROTOCOL, secret))
        assert (seen.held_out, seen.loss) == (2.0, 3.0)

    play(tmp_path, scene)


def test_no_counter_of_a_peer_breaks_the_status(tmp_path):
    async def scene(run):
        await run.start()
        secret = run.folder.read_secret()
        for given in (1 << 63, (1 << 64) - 1, -1):
            lie = m.Next(0, state(0), False, given, given)
            assert isinstance(await run.ask(PEERS[0], lie), m.Refused)
        most = 1 << 48
        for peer in PEERS:
            await run.ask(peer, m.Next(0, state(0), False, most, most))
        seen = await run.ask(PEERS[0], m.GetStatus(m.PROTOCOL, secret))
        assert seen.traffic["between peers"] == [3 * most, 3 * most]

    play(tmp_path, scene)


def test_votes_are_kept_of_rounds_that_can_be_voted_on_and_one_of_each_key(tmp_path):
    async def scene(run):
        await run.start()
        votes = run.it.agreement._votes
        for number in range(-300, 0):
            question = m.Next(number, f"{-number:064x}", False)
            assert isinstance(await run.ask(PEERS[0], question), m.Refused)
        for number in (1, 7, 1 << 20):
            answer = await run.ask(PEERS[0], m.Next(number, state(1), False))
            assert isinstance(answer, m.Stop)
        await run.round()
        for n in range(50):
            await run.ask(PEERS[0], m.Next(1, f"{n:064x}", True))
        assert {round_: len(of_round) for round_, of_round in votes.items()} == {1: 1}

    play(tmp_path, scene)


def test_keys_that_have_done_little_do_not_decide_which_state_is_right(tmp_path):
    async def scene(run):
        await run.start()
        await run.round()
        run.it.history.memory = {0: Standing(100_000), 1: Standing(900), 2: Standing(900)}
        for liar in PEERS[1:3]:
            await run.task_of(liar, 1, "bb" * 32)
        assert 1 not in run.it.history.agreed
        await run.task_of(PEERS[0], 1, "aa" * 32)
        assert run.it.history.agreed[1] == "aa" * 32
        assert (await run.ask(PEERS[1], m.Next(1, "bb" * 32, False))).fault

    play(tmp_path, scene)


def test_a_farewell_is_short_and_plain_and_a_peer_causes_few_events(tmp_path):
    async def scene(run):
        await run.start()
        secret = run.folder.read_secret()
        bad = m.Leave("x")
        bad.reason = "y" * 1_000_000
        assert isinstance(await run.ask(PEERS[0], bad), m.Refused)
        bad.reason = "[/x]\x1b]52;c;AAAA\x07\x1b[2J\u202e\nbye"
        assert await run.ask(PEERS[0], bad) == m.Ack()
        for _ in range(60):
            await run.ask(PEERS[0], m.Join(m.PROTOCOL, secret))
            await run.ask(PEERS[0], m.Leave("gone again"))
        await run.join([PEERS[0]])
        for _ in range(60):
            await run.hand_in(1, tokens=1)

    run = play(tmp_path, scene)
    left = [e for e in run.events if isinstance(e, PeerLeft)]
    assert left[0].reason == "[/x] ]52;c;AAAA  [2J  bye"
    assert len(left) == room.TOLD
    assert sum(isinstance(e, ContributionRefused) for e in run.events) == room.TOLD


def test_new_keys_cost_a_run_a_bounded_number_of_entries_and_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(admission, "NEWCOMERS", (0.1, 20.0))

    async def scene(run):
        await run.start()
        secret = run.folder.read_secret()
        answers = [await run.ask(key, m.Join(m.PROTOCOL, secret)) for key in KEYS]
        assert sum(isinstance(x, m.Welcome) for x in answers) == 17  # and the three peers
        assert "too many new peers" in answers[-1].reason
        first = next(iter(KEYS))
        for key in KEYS[:17]:
            await run.ask(key, m.Leave("seen it"))
        # Members come back whenever they like; a newcomer gets in a moment later.
        assert isinstance(await run.ask(PEERS[0], m.Join(m.PROTOCOL, secret)), m.Welcome)
        await clock_to(10.0)
        assert isinstance(await run.ask(KEYS[100], m.Join(m.PROTOCOL, secret)), m.Welcome)
        await run.ask(KEYS[100], m.Leave("seen it"))
        await clock_to(admission.FORGET + 30)
        await run.join()
        await run.round()
        assert sorted(run.it.admission.by_index) == [0, 1, 2]
        assert set(run.it.admission.members) == {peer.id for peer in PEERS}
        # Who was forgotten comes back under the index that it had.
        assert (await run.ask(first, m.Join(m.PROTOCOL, secret))).index == 3
        assert sum(1 for _ in run.it.history.ledger.entries(PeerEntry)) == 21

    play(tmp_path, scene, seconds=2000.0)


async def clock_to(seconds):
    await asyncio.sleep(max(0.0, seconds - clock.now()))


@pytest.mark.parametrize(("honest", "silent"), [(2, 3), (3, 7)])
@pytest.mark.parametrize("pretends", [False, True], ids=["silent", "says that it works"])
def test_members_that_do_nothing_hold_the_others_up_for_a_deadline_at_most(
    tmp_path, honest, silent, pretends
):
    others = KEYS[:silent]
    spec = override(LONG, {"rounds.peers": honest if pretends else honest + silent})

    async def signs(run, round_):
        for key in others:
            await run.ask(
                key, m.Progress("training" if pretends else "waiting", round_, round_ + 1)
            )

    async def scene(run):
        await run.join(PEERS[:honest])
        if not pretends:
            await run.join(others)
        await run.start()
        if pretends:  # how long a round takes is known from one before they came
            await run.round(0, peers=range(honest))
            await run.join(others)
        took = []
        for round_ in range(int(pretends), 9):
            began = clock.now()
            for number in range(honest):
                assert await run.hand_in(number, round_) == m.Ack()
            while run.it.rounds.number == round_:
                await signs(run, round_)
                await clock_to(clock.now() + 0.1)
            took.append(clock.now() - began)
            assert run.it.history.closed[round_].accepted == list(range(honest))
        # Work takes no time, so that a deadline is the patience, 1 s; and the coordinator looks once a
        # second. Who only says that it works is believed for a second deadline, and three times.
        assert max(took[:4]) < (3.5 if pretends else 2.5)
        assert max(took[4 if pretends else 1 :]) < 0.5

    play(tmp_path, scene, spec)


def test_a_newcomer_is_not_waited_for_before_it_has_asked_for_work(tmp_path):
    async def scene(run):
        await run.start()
        await run.round()
        await run.join(KEYS[:2])
        await run.round(1)
        began = clock.now()
        await run.round(2)  # which opened while they were there
        assert clock.now() - began < 0.2
        task = await run.task_of(KEYS[0], 3)
        for number in range(3):
            await run.hand_in(number, 3)
        await asyncio.sleep(0.2)
        assert (
            run.it.rounds.number == 3
        )  # it waits for the newcomer that has asked, and for no other
        assert await run.ask(KEYS[0], *run.work(3, task)) == m.Ack()
        await run.closed(3)

    play(tmp_path, scene, LONG)


def test_who_hands_something_in_at_once_does_not_close_the_first_round_alone(tmp_path):
    async def scene(run):
        await run.start()
        for number in (0, 1):
            await run.task_of(PEERS[number])
        await run.hand_in(2)
        for step in range(12):
            for number in (0, 1):
                await run.ask(PEERS[number], m.Progress("training", 0, step))
            await clock_to(clock.now() + 1.0)
        assert run.it.rounds.number == 0
        await run.hand_in(0)
        await run.hand_in(1)
        assert (await run.closed(0)).accepted == [0, 1, 2]

    play(tmp_path, scene, LONG)


def test_who_was_silent_is_waited_for_once_it_works_again(tmp_path):
    async def scene(run):
        await run.start()
        await run.round(0, peers=[0, 1])
        assert not run.it.admission.by_index[2].expected
        await run.task_of(PEERS[2], 1)
        await run.ask(PEERS[2], m.Progress("training", 1, 1))
        for number in (0, 1):
            await run.hand_in(number, 1)
        await clock_to(clock.now() + 0.5)
        assert run.it.rounds.number == 1  # it says that it is at work: it has its time
        assert await run.hand_in(2, 1) == m.Ack()
        assert (await run.closed(1)).accepted == [0, 1, 2]

    play(tmp_path, scene, LONG)
