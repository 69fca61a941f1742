"""Peers that only write: what they write others learn from a round later, to the same bits everywhere."""

import itertools
import time

import msgspec
import numpy as np
import pytest
from fixtures import commands, tiny

from duckweed.audit.claims import Claims, States
from duckweed.audit.contributions import Contributions, handed_in
from duckweed.audit.findings import Outcome
from duckweed.audit.learner import learner_of
from duckweed.merge.round import blob_hash
from duckweed.process.local_run import LocalRun
from duckweed.process.simulation import Simulation
from duckweed.round import export, founding
from duckweed.run import plugins
from duckweed.run.events import ContributionRefused, Progress, RoundClosed
from duckweed.run.task import rollouts as packing
from duckweed.swarm.protocol.invitation import Invitation

from .test_conversing import changing as of_a_trainer
from .test_conversing import ends_where_the_simulation_does, puzzles, rounds, simulated

HELD = """
import os
import time
from pathlib import Path

from duckweed.learn.tasks.environments import register_environment


class Held:
    def __init__(self, settings):
        self.held = Path(settings["held"])

    def question(self, number):
        return f"{number % 1000}"

    def answer(self, number):
        return "a"

    def score(self, number, answer):
        if self.held.exists() and self.held.read_text() == str(os.getppid()):
            time.sleep(50)
        return float(answer[:1] in "abcdefghijklm")


register_environment("held", Held)
"""
WRITER = 2  # the last of three peers


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("writing")


def written(base, changes=None):
    return puzzles(
        base, {"rounds.peers": 3, "task.writers": 1, "rounds.count": 3} | (changes or {})
    )


@pytest.fixture(scope="module")
def run(base):
    return simulated(base, "written", written(base))


def answers_of(folder, spec, digest, steps):
    return packing.split(packing.decode(folder.blob(digest).read_bytes(), spec, steps), steps)


def test_what_one_peer_wrote_another_learns_from_in_the_next_round(run):
    folder, events, _ = run
    spec, entries = Claims(folder).spec, rounds(folder)
    assert [list(entry.writings) for entry in entries] == [[WRITER], [WRITER], []]
    for entry, after in itertools.pairwise(entries):
        said = entry.writings[WRITER]
        assert entry.closed.accepted == [0, 1]
        assert WRITER not in entry.blocks  # it was given no work to train
        assert said.round == entry.closed.round
        (learner,) = [peer for peer, block in after.blocks.items() if block == said.block]
        mine = answers_of(folder, spec, said.rollouts, said.steps)
        learnt = answers_of(folder, spec, after.contributions[learner].rollouts, said.steps)
        for one, other in zip(mine, learnt, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    told = [event.writers for event in events if isinstance(event, RoundClosed)]
    assert told[:2] == [{WRITER: entry.writings[WRITER].tokens} for entry in entries[:2]]
    assert told[2] is msgspec.UNSET


def test_an_audit_does_the_answers_and_what_was_learnt_from_them_again_to_the_same_bits(run):
    folder, _, _ = run
    claims = Claims(folder)
    assert claims.said.signed == 3 * 2 + 2  # the writer signs too
    assert not claims.said.wrong
    learner = learner_of(claims, None, "cpu", lambda text: None)
    for peer in (0, 1, WRITER):
        one = Contributions(claims, States(claims), learner, peer)
        findings = [one.audit(number) for number in handed_in(claims, peer)]
        assert [x.outcome for x in findings] == [Outcome.SAME] * (2 if peer == WRITER else 3)


def test_a_run_that_was_stopped_goes_on_to_the_same_state(base, run):
    folder, ground, state = tiny.found(base, "stopped", written(base))
    layout, spec = founding.layout(folder), written(base)
    events = Simulation(folder, spec, layout, ground, state, "cpu").events()
    for event in events:
        if isinstance(event, RoundClosed) and event.round == 1:
            break
    events.close()
    state = export.latest_state(folder, spec)
    assert state.round == 2
    again = Simulation(folder, spec, layout, ground, state, "cpu")
    assert again.run().hash() == run[2].hash()
    assert rounds(folder)[2].blocks == rounds(run[0])[2].blocks


def test_with_more_staleness_a_peer_writes_less_often_and_others_learn_later(base):
    changes = {"rounds.peers": 4, "task.writers": 2, "task.staleness": 2, "rounds.count": 4}
    folder, _, _ = simulated(base, "stale", written(base, changes))
    entries = rounds(folder)
    told = [{peer: said.round for peer, said in entry.writings.items()} for entry in entries]
    assert told == [{}, {2: 0}, {3: 1}, {}]
    for number in (1, 2):
        (said,) = entries[number].writings.values()
        for entry in entries[said.round : number + 1]:  # nobody else has its span meanwhile
            assert said.block not in entry.blocks.values()
        assert said.block in entries[number + 1].blocks.values()


def changing(change):
    """Has the writer change its rollouts, and all that it says of them."""

    def prepare(simulation):
        worker, spec = simulation.workers[WRITER], simulation.spec
        write = worker.write

        def changed(*given):
            made = write(*given)
            rollouts = change(packing.decode(made.blob, spec, made.writing.steps))
            blob = packing.encode(rollouts)
            ends = [True] * (len(rollouts.lengths) - made.written.cut) + [False] * made.written.cut
            told = packing.written(rollouts, spec.task.samples, ends, made.written)
            said = msgspec.structs.replace(
                made.writing, rollouts=blob_hash(blob), tokens=told.tokens,
                loss=1 - told.reward / told.answers,
            )  # fmt: skip
            return made._replace(writing=said, written=told, blob=blob)

        worker.write = changed

    return prepare


def test_answers_with_rewards_that_were_not_earned_are_refused_and_nobody_learns_from_them(base):
    def greedy(rollouts):
        return rollouts._replace(rewards=np.ones_like(rollouts.rewards))

    spec = written(base, {"rounds.count": 2})
    folder, events, _ = simulated(base, "greedy", spec, changing(greedy))
    first, second = rounds(folder)
    assert not first.writings
    assert "a reward of 1 is claimed for" in first.closed.rejected[WRITER]
    assert first.closed.accepted == second.closed.accepted == [0, 1]
    assert any(isinstance(e, ContributionRefused) and e.peer == WRITER for e in events)
    assert sorted(second.blocks.values()) == [2, 3]  # its block comes first, and is written anew


def test_the_span_of_a_trainer_whose_work_does_not_count_is_given_to_others_with_its_answers_gone(
    base,
):
    calls = []

    def greedy_once(rollouts):
        calls.append(rollouts)
        wrong = rollouts._replace(rewards=np.ones_like(rollouts.rewards))
        return wrong if len(calls) == 2 else rollouts

    folder, _, _ = simulated(base, "lost", written(base), of_a_trainer(0, greedy_once))
    first, second, third = rounds(folder)
    assert second.blocks[0] == first.writings[WRITER].block
    assert second.closed.accepted == [1]
    assert second.blocks[0] in third.blocks.values()  # nothing is skipped
    mine = first.writings[WRITER].rollouts
    assert mine not in [one.rollouts for one in third.contributions.values()]


@pytest.mark.slow
def test_processes_end_in_the_state_of_the_simulation_with_a_peer_that_only_writes(base, run):
    ends_where_the_simulation_does(base, "written-processes", written(base), run[2])


@pytest.mark.slow
def test_a_volunteer_that_only_writes_loses_its_span_alone_when_it_is_killed(base):
    plugin, held = base / "held_plugin.py", base / "held"
    plugin.write_text(HELD)
    loaded = plugins.load([plugin])
    spec = puzzles(base, {
        "task.environments": {"held": {"settings": {"held": str(held)}}},
        "rounds.count": 400, "rounds.patience": 2.0,
    })  # fmt: skip
    folder, _, _ = tiny.found(base, "killed", spec)
    plugins.remember(folder, loaded)
    with LocalRun(folder, spec, "cpu", 1, 2, forks=commands.forks()) as local:
        serving = local.start()
        at = next(a for a in serving.bound if a.startswith("127."))
        line = str(Invitation(spec.identity, serving.id, (at,), folder.read_secret()))
        words = [
            "join", line, "--answers-only", "--data", "rows.jsonl", "--config", "config.json",
            "--home", base / "home", "--plugin", plugin,
        ]  # fmt: skip
        volunteer = commands.Command(words, base, base / "volunteer.log")
        closes, killed, at_it, after = time.monotonic() + 240, None, 0, 0
        for event in local.events():
            assert time.monotonic() < closes, (base / "volunteer.log").read_text()
            wrote = isinstance(event, RoundClosed) and event.writers is not msgspec.UNSET
            if wrote and not held.exists():
                held.write_text(str(volunteer.pid))  # from here on its answers take for ever
            elif isinstance(event, Progress) and held.exists() and killed is None:
                at_it += any(x.doing == "writing" for x in event.peers)
                if at_it == 3:  # the first may be of answers that were checked before
                    volunteer.kill()
                    killed = event.round
            elif isinstance(event, RoundClosed) and killed is not None and event.round > killed:
                after += 1
                if after == 2:
                    break
    entries = rounds(folder)
    (writer,) = {peer for entry in entries for peer in entry.writings}
    assert "no answers were handed in" in entries[killed].closed.rejected.get(writer, "")
    assert all(entry.closed.accepted == [0, 1] for entry in entries)
    blocks = sorted(block for entry in entries for block in entry.blocks.values())
    assert blocks == list(range(len(blocks)))  # all that was lost was given to others
    said = (base / "volunteer.log").read_text()
    assert "will write answers with config.json" in " ".join(said.split())
