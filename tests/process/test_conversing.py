"""Runs of conversations and of reinforcement learning: peers that claim what they did not earn, the audit of
what was written, and processes that end where the simulation does."""

import json

import msgspec
import numpy as np
import pytest
from fixtures import commands, talk, tiny

from duckweed.audit.claims import Claims, States
from duckweed.audit.contributions import Contributions, handed_in
from duckweed.audit.findings import Outcome
from duckweed.audit.learner import learner_of
from duckweed.ledger.entries import RoundEntry
from duckweed.ledger.ledger import Ledger
from duckweed.merge.round import blob_hash
from duckweed.process.local_run import LocalRun
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import plugins
from duckweed.run import state as states
from duckweed.run.events import ContributionRefused, RoundClosed, Said
from duckweed.run.spec import override
from duckweed.run.task import rollouts as packing

DEADLY = """
import os
import signal
from pathlib import Path

from duckweed.learn.tasks.environments import register_environment


class Deadly:
    def __init__(self, settings):
        self.armed = Path(settings["armed"])

    def question(self, number):
        return f"{number % 1000}"

    def answer(self, number):
        return "a"

    def score(self, number, answer):
        if self.armed.exists():
            self.armed.unlink()
            os.kill(os.getppid(), signal.SIGKILL)
        return float(answer[:1] in "abcdefghijklm")


register_environment("deadly", Deadly)
"""
PATIENT = {"rounds.patience": 600.0, "rounds.count": 2}


def puzzles(base, changes=None):
    """Reinforcement learning from random weights on rows of one's own: which letter is it that has no number."""
    spec = tiny.specification(base)
    rows = [{"question": f"{n}", "answer": "[a-m].*" if n % 2 else "[n-z].*"} for n in range(400)]
    (base / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {
        "task.kind": "reinforce", "data.path": "rows.jsonl", "task.verifier": "regex",
        "task.marker": "", "task.tokens": 3, "task.samples": 16, "task.seconds": 60.0,
        "inner.batch": 64, "inner.steps": 2, "inner.warmup": 0, "data.tokenizer": "bytes", "rounds.peers": 2,
        "rounds.evaluate_tokens": 256, "data.held_out": 0.1, "model.sequence": 24,
    }  # fmt: skip
    return override(spec, facts | PATIENT | (changes or {}))


def simulated(base, name, spec, prepare=lambda simulation: None):
    folder, ground, state = tiny.found(base, name, spec)
    simulation = Simulation(folder, spec, founding.layout(folder), ground, state, "cpu")
    prepare(simulation)
    return folder, list(simulation.events()), simulation.state


def rounds(folder):
    ledger = Ledger(folder.ledger)
    try:
        return [entry.body for entry in ledger.entries(RoundEntry)]
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("conversing")


@pytest.fixture(scope="module")
def honest(base):
    return simulated(base, "honest", puzzles(base))


def test_what_was_written_lies_beside_the_contributions_and_is_named_in_the_ledger(honest):
    folder, events, _ = honest
    spec = Claims(folder).spec
    told = [event.written for event in events if isinstance(event, RoundClosed)]
    for body, all_of_it in zip(rounds(folder), told, strict=True):
        found = [
            packing.decode(folder.blob(one.rollouts).read_bytes(), spec, spec.inner.steps)
            for one in body.contributions.values()
        ]
        assert sum(int(x.lengths.sum()) for x in found) == all_of_it.tokens
        assert sum(len(x.rewards) for x in found) == all_of_it.answers
        assert sum(float(x.rewards.sum()) for x in found) == all_of_it.reward > 0


def test_an_audit_writes_the_same_answers_again_and_trains_to_the_same_bits(honest):
    folder, _, _ = honest
    claims = Claims(folder)
    learner = learner_of(claims, None, "cpu", lambda text: None)
    for peer in (0, 1):
        one = Contributions(claims, States(claims), learner, peer)
        findings = [one.audit(number) for number in handed_in(claims, peer)]
        assert [x.outcome for x in findings] == [Outcome.SAME] * 2


def changing(peer, change):
    """Has a peer change what it hands in, rollouts and all that it says of them."""

    def prepare(simulation):
        worker = simulation.workers[peer]
        compress, spec = worker.compress, simulation.spec

        def changed(state, index, trained):
            made = compress(state, index, trained)
            rollouts = change(packing.decode(made.rollouts, spec, spec.inner.steps))
            blob = packing.encode(rollouts)
            ends = [True] * (len(rollouts.lengths) - made.written.cut) + [False] * made.written.cut
            written = packing.written(rollouts, spec.task.samples, ends, made.written)
            said = msgspec.structs.replace(
                made.announcement, rollouts=blob_hash(blob), tokens=written.tokens,
                loss=1 - written.reward / written.answers,
            )  # fmt: skip
            return msgspec.structs.replace(made, announcement=said, rollouts=blob, written=written)

        worker.compress = changed

    return prepare


def test_rewards_that_were_not_earned_are_refused_with_the_reason_and_move_nothing(base):
    spec = puzzles(base, {"rounds.peers": 3, "rounds.count": 1})

    def greedy(rollouts):
        return rollouts._replace(rewards=np.ones_like(rollouts.rewards))

    folder, events, _ = simulated(base, "greedy", spec, changing(2, greedy))
    (closed,) = [body.closed for body in rounds(folder)]
    assert closed.accepted == [0, 1]
    assert "a reward of 1 is claimed for" in closed.rejected[2]
    assert any(isinstance(e, ContributionRefused) and e.peer == 2 for e in events)


def test_rollouts_of_another_peer_earn_nothing(base):
    """The very same bytes are known by their hash; with other costs they still answer other questions."""
    spec = puzzles(base, {"rounds.peers": 3, "rounds.count": 3})
    seen, stolen = [], []

    def watched(rollouts):
        seen.append(rollouts)
        return rollouts

    def stealing(own):
        if not seen:
            return own
        stolen.append(seen[0]._replace(nats=seen[0].nats + len(stolen)))
        return stolen[-1]

    def copied(simulation):
        changing(0, watched)(simulation)
        changing(2, stealing)(simulation)

    folder, events, _ = simulated(base, "thief", spec, copied)
    closed = [body.closed for body in rounds(folder)][-2:]
    assert len(stolen) >= 2
    assert [one.accepted for one in closed] == [[0, 1]] * 2
    reasons = [event.reason for event in events if isinstance(event, ContributionRefused)]
    assert any("these rollouts were handed in before" in reason for reason in reasons)
    assert "is claimed for" in closed[1].rejected[2]


def ends_where_the_simulation_does(base, name, spec, expected):
    folder, _, _ = tiny.found(base, name, spec)
    forks = commands.forks()
    with LocalRun(folder, spec, "cpu", 1, spec.rounds.peers, forks=forks) as run:
        run.start()
        said = [event.text for event in run.events() if isinstance(event, Said)]
    assert not [text for text in said if "are believed" in text]  # rewards were checked
    last = folder.state(folder.saved_rounds()[-1])
    assert states.load(last, founding.layout(folder)).hash() == expected.hash()


@pytest.mark.slow
def test_a_peer_that_is_killed_when_it_has_written_and_not_yet_trained_loses_its_block_only(base):
    plugin, armed = base / "deadly_plugin.py", base / "armed"
    plugin.write_text(DEADLY)
    loaded = plugins.load([plugin])
    spec = puzzles(base, {
        "task.environments": {"deadly": {"settings": {"armed": str(armed)}}},
        "rounds.peers": 3, "rounds.count": 3,
    })  # fmt: skip
    folder, _, _ = tiny.found(base, "killed", spec)
    plugins.remember(folder, loaded)
    with LocalRun(folder, spec, "cpu", 1, 3, forks=commands.forks()) as run:
        run.start()
        for event in run.events():
            if isinstance(event, RoundClosed) and event.round == 0:
                armed.touch()  # who checks an answer next is a peer that has just written
    first, second, third = rounds(folder)
    assert first.closed.accepted == [0, 1, 2]
    (victim,) = second.closed.rejected
    assert "nothing handed in" in second.closed.rejected[victim]
    assert third.closed.accepted == second.closed.accepted
    assert second.blocks[victim] in third.blocks.values()  # what was lost comes first


@pytest.mark.slow
def test_processes_end_in_the_state_of_the_simulation_with_reinforcement_learning(base, honest):
    ends_where_the_simulation_does(base, "processes", puzzles(base), honest[2])


@pytest.mark.slow
def test_processes_end_in_the_state_of_the_simulation_with_conversations(base):
    spec = talk.specification(base, PATIENT | {"rounds.peers": 2})
    _, _, state = simulated(base, "talk", spec)
    ends_where_the_simulation_does(base, "talk-processes", spec, state)
