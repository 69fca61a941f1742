"""The audits of a run as its leader drives them: peers only pretend to train, time is virtual."""

import asyncio

import msgspec
import pytest
from fixtures import pretended
from fixtures.auditing import EVERYBODY, SPEC, SUBJECT, Members, carried, scene
from fixtures.coordinated import play
from fixtures.pretended import MANY

from duckweed.audit import draw
from duckweed.audit.draw import LONGEST
from duckweed.ledger.entries import AuditEntry, PeerEntry
from duckweed.merge.round import blob_hash
from duckweed.round.signed import verdict_part
from duckweed.run.spec import override
from duckweed.swarm.coordinator import audits as room
from duckweed.swarm.coordinator.guest_book import PUT_OUT
from duckweed.swarm.protocol import messages as m


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Round -> whose contributions are drawn; round 0: the subject's."""
    chosen = {0: [SUBJECT]}
    monkeypatch.setattr(
        "duckweed.round.history.RunHistory.beacon", lambda self, round_: f"{round_}"
    )
    monkeypatch.setattr(
        draw,
        "drawn",
        lambda beacon, accepted, share: [x for x in chosen.get(int(beacon), []) if x in accepted],
    )
    monkeypatch.setattr(room, "SLOW_LINE", 1e12)
    return chosen


def test_work_that_is_drawn_is_shown_done_again_by_one_peer_and_paid_for(tmp_path):
    async def act(members):
        keepers = members.case.keepers
        told = members.told
        assert told[SUBJECT].show == (blob_hash(carried(SUBJECT, 0)),)
        assert all(told[x].show == () for x in EVERYBODY if x != SUBJECT)
        assert {x for x in told if told[x].keep == (0,)} == set(keepers)
        assert len(keepers) == 5
        assert SUBJECT not in keepers
        await members.show(SUBJECT, 0)
        auditor = keepers[0]
        before = members.run.it.history.memory.get(auditor)
        assert await members.round(1) == [auditor]
        ended = members.ended[0, SUBJECT]
        assert (ended.outcome, set(ended.verdicts), ended.out, ended.at) == (
            "passed",
            {auditor},
            [],
            1,
        )
        work = members.run.it.history.memory[auditor].work - (before.work if before else 0)
        assert work == ended.tokens == SPEC.tokens_per_block
        closed = members.run.it.history.closed[1]
        assert auditor not in closed.accepted
        assert auditor not in closed.rejected
        assert auditor in members.run.it.history.spans(1)
        assert list(members.run.folder.shown.iterdir()) == []
        assert members.told[auditor].keep == ()

    scene(tmp_path, act)


@pytest.mark.parametrize("asked", [True, False])
def test_large_models_are_audited_only_where_the_specification_asks_for_it(
    tmp_path, monkeypatch, asked
):
    monkeypatch.setattr(room, "UNASKED", 0)
    open_run = {"members.join": "open"}
    spec = override(pretended.SPEC, open_run | {"rounds.patience": 1.0, "rounds.peers": 7})
    spec = override(spec, {"members.audits": spec.audits}) if asked else spec
    assert spec.audits > 0

    async def act(members):
        assert len(members.run.it.audits.cases) == asked

    scene(tmp_path, act, spec)


def test_a_peer_that_does_not_show_its_work_trains_on_and_loses_its_standing_after_three_rounds(
    tmp_path,
):
    async def act(members):
        for number in (1, 2, 3):
            assert members.ended == {}
            assert await members.round(number) == []  # the subject trains like all others
        assert members.ended[0, SUBJECT].outcome == "unshown"
        assert members.ended[0, SUBJECT].out == []
        assert members.run.it.history.memory[SUBJECT].work == 0
        await members.round(4)
        assert SUBJECT in members.run.it.history.closed[4].accepted

    scene(tmp_path, act)


def test_the_third_loss_puts_a_peer_out_and_what_is_lost_at_once_is_one_loss(tmp_path, drawn):
    # Rounds 0 to 2 are handed in before the first loss is known; each later one is a loss of its own.
    drawn |= {1: [SUBJECT], 2: [SUBJECT], 5: [SUBJECT], 10: [SUBJECT]}

    async def act(members):
        await members.rounds(1, 13)
        assert [one.out for one in members.ended.values()] == [[], [], [], []]
        await members.round(13)
        assert [one.out for one in members.ended.values()] == [[], [], [], [], [SUBJECT]]
        assert members.gone == {SUBJECT}
        assert members.run.it.rounds.attended()
        await members.round(14)

    scene(tmp_path, act)


def test_a_peer_that_is_gone_has_until_the_audit_is_given_up_to_come_back_and_show(tmp_path):
    async def act(members):
        await members.run.ask(MANY[SUBJECT], m.Leave("night"))
        members.gone.add(SUBJECT)
        await members.rounds(1, 8)
        assert members.ended == {}
        members.gone.clear()
        await members.run.join([MANY[SUBJECT]])
        await members.round(8)
        await members.show(SUBJECT, 0)
        await members.round(9)
        assert members.ended[0, SUBJECT].outcome == "passed"

    scene(tmp_path, act)


def test_a_peer_that_stays_away_loses_its_standing_and_is_not_put_out(tmp_path):
    async def act(members):
        await members.run.ask(MANY[SUBJECT], m.Leave("night"))
        members.gone.add(SUBJECT)
        await members.rounds(1, LONGEST)
        assert members.ended == {}
        await members.round(LONGEST)
        assert members.ended[0, SUBJECT].outcome == "absent"
        assert members.run.it.history.out == set()

    scene(tmp_path, act)


def test_only_what_was_asked_for_can_be_shown(tmp_path):
    async def act(members):
        run, wanted = members.run, m.Shown(blob_hash(carried(SUBJECT, 0)))
        assert run.it.body_limit(MANY[SUBJECT].id, wanted) > 0
        assert run.it.body_limit(MANY[2].id, wanted) == 0
        assert run.it.body_limit("ab" * 32, wanted) == 0
        assert run.it.body_limit(MANY[SUBJECT].id, m.Shown("ab" * 32)) == 0
        answer = await run.ask(MANY[SUBJECT], wanted, b"something else")
        assert "not what the announcement names" in answer.reason
        assert members.told[SUBJECT].show
        assert not run.folder.shown.exists()

    scene(tmp_path, act)


def test_a_verdict_counts_only_from_the_auditor_that_was_asked_and_with_its_signature(tmp_path):
    async def act(members):
        await members.show(SUBJECT, 0)
        first, second = members.case.keepers[:2]
        members.silent = {first}
        await members.round(1)
        task = members.asked[first]
        refused = await members.verdict(second, task, False)
        assert "not asked of this peer" in refused.reason
        refused = await members.verdict(SUBJECT, task, True)
        assert "not asked of this peer" in refused.reason
        refused = await members.verdict(first, task, True, signer=MANY[second])
        assert "signature" in refused.reason
        # A signature of another verdict: that of another round.
        other = msgspec.structs.replace(task, round=1)
        part = verdict_part(
            members.run.it.history.genesis_hash, other.round, task.peer, True, "seen"
        )
        question = m.Audited(0, task.peer, True, True, "seen", MANY[first].sign(part))
        assert "signature" in (await members.run.ask(MANY[first], question)).reason
        assert members.ended == {}
        assert await members.verdict(first, task, True) == m.Ack()
        assert members.ended[0, SUBJECT].outcome == "passed"
        assert "not asked" in (await members.verdict(first, task, True)).reason

    scene(tmp_path, act)


def test_an_auditor_that_says_nothing_stops_no_round_and_the_next_one_is_asked(tmp_path):
    async def act(members):
        await members.show(SUBJECT, 0)
        first, second = members.case.keepers[:2]
        members.silent = {first}
        assert [await members.round(n) for n in (1, 2, 3)] == [[first]] * 3
        assert await members.round(4) == [second]
        assert members.ended[0, SUBJECT].outcome == "passed"

    scene(tmp_path, act)


def test_who_cannot_audit_hands_the_duty_on_and_it_ends_undone_where_nobody_can(tmp_path):
    async def act(members):
        await members.show(SUBJECT, 0)
        keepers = list(members.case.keepers)
        members.silent = set(EVERYBODY)
        for number, auditor in enumerate(keepers, 1):
            assert await members.round(number) == [auditor]
            assert (
                await members.verdict(auditor, members.asked[auditor], False, done=False) == m.Ack()
            )
        assert members.ended[0, SUBJECT].outcome == "undone"
        assert members.run.it.history.out == set()

    scene(tmp_path, act)


def test_four_auditors_who_agree_put_out_a_peer_and_its_contribution_counts_no_more(tmp_path):
    async def act(members):
        await members.show(SUBJECT, 0)
        members.lied = dict.fromkeys(EVERYBODY, False)
        await members.rounds(1, 5)
        ended = members.ended[0, SUBJECT]
        assert (ended.outcome, ended.out, len(ended.verdicts)) == ("failed", [SUBJECT], 4)
        assert members.gone == {SUBJECT}
        assert SUBJECT not in members.run.it.history.closed[ended.at].accepted
        answer = await members.run.ask(
            MANY[SUBJECT], m.Join(m.PROTOCOL, members.run.folder.read_secret())
        )
        assert answer == m.Refused(PUT_OUT)
        await members.round(5)

    scene(tmp_path, act)


def test_an_auditor_that_alone_finds_fault_is_put_out(tmp_path):
    async def act(members):
        await members.show(SUBJECT, 0)
        liar = members.case.keepers[0]
        members.lied = {liar: False}
        await members.rounds(1, 6)
        ended = members.ended[0, SUBJECT]
        assert (ended.outcome, ended.out, len(ended.verdicts)) == ("passed", [liar], 5)
        assert members.gone == {liar}

    scene(tmp_path, act)


def test_auditors_who_do_not_agree_put_out_nobody(tmp_path):
    async def act(members):
        await members.show(SUBJECT, 0)
        members.lied = dict.fromkeys(members.case.keepers[:2], False)
        await members.rounds(1, 6)
        ended = members.ended[0, SUBJECT]
        assert (ended.outcome, ended.out) == ("disputed", [])

    scene(tmp_path, act)


def test_no_more_than_a_third_of_the_peers_audit_in_a_round(tmp_path, drawn):
    drawn |= {1: list(EVERYBODY)}

    async def act(members):
        await members.show(SUBJECT, 0)
        await members.round(1)
        for number in EVERYBODY:
            await members.show(number, 1)
        assert len(await members.round(2)) == 2

    scene(tmp_path, act)


def test_a_coordinator_that_is_killed_goes_on_with_the_audits_from_the_ledger(tmp_path):
    async def act(members):
        run = members.run
        await members.show(SUBJECT, 0)
        keepers = members.case.keepers
        run.restart()
        assert (members.case.keepers, members.case.missing) == (keepers, set())
        await members.start()
        assert await members.round(1) == [keepers[0]]
        assert members.ended[0, SUBJECT].outcome == "passed"
        run.restart()
        assert run.it.audits.cases == {}  # it is in the ledger
        assert set(members.ended) == {(0, SUBJECT)}
        await members.start()
        await members.round(2)

    scene(tmp_path, act)


def test_a_new_leader_that_has_the_ledger_alone_asks_for_the_contribution_too(tmp_path):
    async def act(members):
        run = members.run
        first = members.case
        await members.show(SUBJECT, 0)
        run.task.cancel()
        for path in [*run.folder.blobs.iterdir(), *run.folder.shown.iterdir()]:
            path.unlink()  # the new leader has taken none of it
        run.it.history.ledger.close()
        run.open()
        assert members.case.keepers == first.keepers
        assert members.case.missing == {first.blob, first.after}
        await members.start()
        await members.round(1)
        assert set(members.told[SUBJECT].show) == {first.blob, first.after}
        await members.show(SUBJECT, 0)
        assert await members.round(2) == [first.keepers[0]]
        assert members.ended[0, SUBJECT].outcome == "passed"

    scene(tmp_path, act)


def test_what_is_announced_as_carried_must_follow_on_the_last_contribution_that_counted(tmp_path):
    async def act(members):
        run = members.run

        async def hand_in(**said):
            task = await members.next(SUBJECT, 1)
            return await run.ask(
                MANY[SUBJECT], *pretended.contribution(SPEC, SUBJECT, task, **said)
            )

        after = blob_hash(b"next")
        answer = await hand_in(before=blob_hash(b"made up"), after=after)
        assert "carries something else" in answer.reason

    scene(tmp_path, act)
    lacking = {}

    async def without(run):
        members = Members(run)
        await members.start()
        task = await members.next(0, 0)
        lacking["answer"] = await run.ask(MANY[0], *pretended.contribution(SPEC, 0, task))

    play(tmp_path / "other", without, SPEC)
    assert "the hash of what this peer carries is missing" in lacking["answer"].reason


def test_the_audits_that_are_open_when_the_last_round_closes_end_undone(tmp_path):
    spec = override(SPEC, {"rounds.count": 2})

    async def all_of_it(run):
        members = Members(run)
        await members.start()
        await members.rounds(0, 2)
        assert [one.outcome for one in members.ended.values()] == ["undone"]

    play(tmp_path, all_of_it, spec, seconds=100.0)


def test_the_end_of_a_run_waits_until_a_peer_that_was_put_out_has_heard_it(tmp_path):
    async def all_of_it(run):
        members = Members(run)
        await members.start()
        await members.rounds(0, 2)
        for number in EVERYBODY:
            if number != SUBJECT:
                await run.ask(MANY[number], m.Leave("done"))
        run.it.history.audit(0, AuditEntry(SUBJECT, "failed", 0, 2, out=[SUBJECT]))
        await asyncio.sleep(1.0)
        assert run.it.rounds.attended()
        await run.ask(
            MANY[SUBJECT], m.Progress("training", 1, 2, 3.0)
        )  # it takes no notice of the answer
        assert run.it.rounds.attended()
        assert await members.next(SUBJECT, 1) == m.Refused(PUT_OUT)
        assert not run.it.rounds.attended()

    play(tmp_path / "hears", all_of_it, override(SPEC, {"rounds.count": 2}), seconds=100.0)


def test_the_end_of_a_run_does_not_wait_for_ever_for_a_peer_that_was_put_out(tmp_path):
    async def all_of_it(run):
        members = Members(run)
        await members.start()
        await members.round(0)
        for number in EVERYBODY:
            if number != SUBJECT:
                await run.ask(MANY[number], m.Leave("done"))
        run.it.history.audit(0, AuditEntry(SUBJECT, "failed", 0, 1, out=[SUBJECT]))
        for _ in range(100):
            await asyncio.sleep(1.0)
            await run.ask(MANY[SUBJECT], m.Progress("training", 1, 2, 3.0))
            if not run.it.rounds.attended():
                return
        raise AssertionError("it is still waited for")

    play(tmp_path, all_of_it, SPEC, seconds=1000.0)


def test_the_ledger_names_every_peer_and_the_audits_are_read_back_as_they_were_written(tmp_path):
    async def act(members):
        await members.rounds(1, 4)
        entries = list(members.run.it.history.ledger.entries(PeerEntry, AuditEntry))
        assert [e.body for e in entries if isinstance(e.body, AuditEntry)] == list(
            members.ended.values()
        )

    scene(tmp_path, act)
