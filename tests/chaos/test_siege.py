"""The hostile peers of a storm do what they are said to do, and what became of them is read as it was."""

import json

import msgspec
import numpy as np
import pytest
from fixtures import tiny

from bench.chaos.accounts import memory
from bench.chaos.attacker import CODES, LIES, Crew, HostileWorker, noted
from duckweed.merge.round import blob_hash
from duckweed.round import founding
from duckweed.round.worker import Worker
from duckweed.run.task import work
from duckweed.wire.codec import codec_of


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    base = tmp_path_factory.mktemp("work")
    spec = tiny.specification(base, {"wire.feedback": 1.0})
    folder, ground, state = tiny.found(base, "run", spec)
    layout = founding.layout(folder)
    return spec, layout, founding.learner(spec, ground, "cpu"), state


def hostile(ground, crew, attack):
    """A hostile peer whose work has counted, in a round in which this attack has its turn."""
    spec, layout, learner, state = ground
    one = HostileWorker(spec, layout, learner)
    one.crew, one.counted = crew, True
    return one, msgspec.structs.replace(state, round=LIES.index(attack))


def test_every_attack_has_its_turn_and_all_of_a_crew_do_the_same(tmp_path):
    a, b = Crew(tmp_path, "a", 3), Crew(tmp_path, "b", 3)
    turns = [a.attack(round_) for round_ in range(3 * len(LIES) + 1)]
    assert turns == [b.attack(round_) for round_ in range(len(turns))]
    assert [*dict.fromkeys(turns)] == LIES
    assert turns[-1] == turns[0]


@pytest.mark.parametrize("attack", CODES)
def test_what_is_altered_can_be_taken_and_is_not_what_was_trained(ground, tmp_path, attack):
    spec, layout, learner, state = ground
    crew = Crew(tmp_path, "a", 1)
    one, state = hostile(ground, crew, attack)
    honest = Worker(spec, layout, learner).contribute(state, 0, 3)
    codec = codec_of(spec.wire, layout)
    codes = codec.decode(honest.blob, state.shared).codes
    for number, other in enumerate("bcd"):
        sparser = codes * (np.random.default_rng(number).random(len(codes)) < 0.9)
        Crew(tmp_path, other, 1).share(
            state.round, sparser.astype(np.int8), honest.announcement.rms
        )
    made = one.contribute(state, 0, 3)
    said = made.announcement
    assert (said.blob, said.size) == (blob_hash(made.blob), len(made.blob))
    assert said.blob != honest.announcement.blob
    codec.decode(made.blob, state.shared)
    assert [x["attack"] for x in noted(tmp_path)] == [attack]


def test_it_is_honest_until_its_work_has_counted(ground, tmp_path):
    spec, layout, learner, _ = ground
    one, state = hostile(ground, Crew(tmp_path, "a", 1), "own-flip")
    one.counted = False
    honest = Worker(spec, layout, learner).contribute(state, 0, 3)
    assert one.contribute(state, 0, 3).blob == honest.blob
    assert [x["attack"] for x in noted(tmp_path)] == [""]


def test_other_text_false_tokens_and_false_losses(ground, tmp_path):
    spec, layout, learner, _ = ground
    one, state = hostile(ground, Crew(tmp_path, "a", 1), "label-flip")
    text = learner.task.dataset
    honest = Worker(spec, layout, learner).contribute(state, 0, 3)
    assert one.contribute(state, 0, 3).announcement.blob != honest.announcement.blob
    assert learner.task.dataset is text
    one, state = hostile(ground, Crew(tmp_path, "a", 1), "tokens")
    tokens = one.contribute(state, 0, 3).announcement.tokens
    assert work.objection(spec, spec.inner.steps, tokens)
    one, state = hostile(ground, Crew(tmp_path, "a", 1), "loss")
    assert one.contribute(state, 0, 3).announcement.loss < 1e-3
    assert one.evaluate(state, 0, 1)[0] < 1e-3


def test_memory_is_flat_or_grows():
    def samples(growth):
        return [
            {
                "time": 60.0 * n,
                "round": n,
                "files": 20,
                "coordinator": 300 + growth * n,
                "peer": 500,
            }
            for n in range(60)
        ]

    assert memory(samples(0.0))["coordinator"]["MB an hour"] == 0
    assert memory(samples(0.5))["coordinator"]["MB an hour"] == pytest.approx(30, abs=0.2)
    assert json.dumps(memory(samples(0.5)))
