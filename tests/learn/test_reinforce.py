"""Reinforcement learning: blocks that are written and trained on, batches, whole runs."""

import numpy as np
import pytest
import torch
from fixtures import puzzle, resumed, tiny

from duckweed.learn.data.reading import DataError
from duckweed.learn.learner import Part
from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import ModelError
from duckweed.learn.tasks import pace as paces
from duckweed.learn.tasks.reinforce import GAIN, IDS, START, THEN, WRITTEN
from duckweed.learn.tasks.rewards import UNDONE
from duckweed.process.simulation import Simulation
from duckweed.round import export, founding
from duckweed.run.events import RoundClosed, Said
from duckweed.run.spec import SpecError, override
from duckweed.run.task import rollouts as packing
from duckweed.run.task import work
from duckweed.run.task.written import Written


def test_a_block_is_written_and_counted_the_same_way_twice(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    one = founding.learner(spec, ground, "cpu")
    weights = models.read_weights(founding.first_model(spec, ground))
    made = [one.train(weights, Part(4, 1, 2)) for _ in range(2)]
    assert np.array_equal(made[0].delta, made[1].delta)
    assert made[0].written == made[1].written
    told = made[0].written
    assert told.answers == 2 * spec.inner.batch
    assert told.problems == told.answers / spec.task.samples
    assert made[0].tokens == told.tokens
    assert work.objection(spec, 2, told.tokens) is None
    assert work.objection(spec, 2, 2 * spec.inner.batch * 4 + 1) is not None
    assert made[0].loss == pytest.approx(1 - told.reward / told.answers)


def test_answers_of_another_peer_are_trained_on_with_the_costs_that_they_had_there(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    one = founding.learner(spec, ground, "cpu")
    weights = models.read_weights(founding.first_model(spec, ground))
    made = one.write(weights, Part(4, 1, 2))
    own = one.train(weights, Part(4, 1, 2))
    assert (
        made.rollouts.ids.tobytes() == own.rollouts.ids.tobytes()
    )  # what it would have trained on
    parts = packing.split(made.rollouts, 2)
    assert sum(len(part.ids) for part in parts) == made.tokens
    given = {1: parts[0], 2: parts[1]}
    same = one.train(weights, Part(4, 1, 2, given=given))
    assert np.array_equal(same.delta, own.delta)
    dearer = {1: parts[0]._replace(nats=parts[0].nats + np.float32(0.5)), 2: parts[1]}
    moved = one.train(weights, Part(4, 1, 2, given=dearer))
    assert not np.array_equal(moved.delta, own.delta)  # the ratio of its tokens begins above 1
    first = next(one.task.batches(Part(4, 1, 2, given=dearer), one.model))
    costs = first[THEN][first[WRITTEN] == 1]
    assert np.isin(costs, np.concatenate([dearer[1].nats, dearer[2].nats])).all()


def test_answers_that_fit_no_question_of_the_step_are_written_anew(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    one = founding.learner(spec, ground, "cpu")
    weights = models.read_weights(founding.first_model(spec, ground))
    own = one.train(weights, Part(4, 1, 1))
    (part,) = packing.split(own.rollouts, 1)
    strange = part._replace(ids=part.ids + 100_000)
    again = one.train(weights, Part(4, 1, 1, given={1: strange}))
    assert np.array_equal(again.rollouts.ids, own.rollouts.ids)


def test_answers_of_another_peer_that_make_checks_hang_do_so_a_few_times_alone(tmp_path):
    """The coordinator has checked them, those that are called right first."""
    spec, ground = puzzle.prepared(tmp_path)
    one = founding.learner(spec, ground, "cpu")
    weights = models.read_weights(founding.first_model(spec, ground))
    (part,) = packing.split(one.write(weights, Part(4, 1, 1)).rollouts, 1)
    problems, hung = one.task.problems, []

    def hang(problem, text):
        problems.failed += 1
        hung.append(text)
        return 0.0

    problems.score = hang
    learnt = one.train(weights, Part(4, 1, 1, given={1: part})).rollouts
    samples = spec.task.samples
    assert UNDONE < len(hung) <= UNDONE + samples < len(part.rewards)
    assert np.array_equal(learnt.rewards[len(hung) :], part.rewards[len(hung) :])
    assert np.array_equal(learnt.ids, part.ids)


def test_a_batch_marks_what_was_written_and_its_costs(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    one = founding.learner(spec, ground, "cpu")
    batch = next(one.task.batches(Part(0, 0, 1), one.model))
    rows = bytes(batch[IDS][0].astype(np.uint8)).decode(errors="replace")
    assert rows.startswith("User: ")
    assert "Assistant:\n" in rows
    assert (batch[WRITTEN].sum(1) <= spec.task.tokens).all()
    tokens = torch.from_numpy(batch[IDS])
    nats = one.network.nats(tokens[:, 1:], input_ids=tokens[:, :-1]).detach().numpy()
    marked = batch[WRITTEN][:, 1:] > 0
    np.testing.assert_allclose(nats[marked], batch[THEN][:, 1:][marked], atol=1e-4)
    assert batch[GAIN].reshape(-1, spec.task.samples).sum(1) == pytest.approx(0, abs=1e-5)


def test_the_second_form_of_the_loss_learns_too_and_in_another_way(tmp_path):
    made = []
    for facts in ({}, {"task.ratio": "cispo"}):
        # In bf16 the few letters that are written here may be the same, and then no step is made.
        spec, ground = puzzle.prepared(tmp_path, facts | {"inner.precision": "fp32"})
        one = founding.learner(spec, ground, "cpu")
        weights = models.read_weights(founding.first_model(spec, ground))
        # The first step from the weights that wrote has ratios of one, where the forms agree.
        made += [one.train(weights, Part(4, 1, steps)).delta for steps in (1, 3)]
    np.testing.assert_allclose(made[0], made[2], atol=1e-5)
    assert not np.array_equal(made[1], made[3])
    with pytest.raises(SpecError, match=r"task\.bound"):
        puzzle.prepared(tmp_path, {"task.bound": 0.5})


def test_a_batch_has_what_its_tokens_cost_by_the_weights_that_the_run_began_from(tmp_path):
    spec = puzzle.specification(tmp_path, {"task.kl": 0.1})
    folder, ground, state = tiny.found(tmp_path, "rl", spec)
    one = founding.learner(spec, founding.reopen(folder, spec), "cpu")
    begun = one.train(state.weights, Part(0, 0, 2))
    batch = next(one.task.batches(Part(0, 0, 1), one.model))  # by the weights that were reached
    marked = batch[WRITTEN] > 0
    models.write_weights(one.model, state.weights)
    tokens = torch.from_numpy(batch[IDS])
    nats = one.network.nats(tokens[:, 1:], input_ids=tokens[:, :-1]).detach().numpy()
    np.testing.assert_allclose(batch[START][:, 1:], nats, atol=1e-4)
    assert np.abs(batch[START] - batch[THEN])[marked].max() > 0.01
    free = override(spec, {"task.kl": 0.0})
    other = founding.learner(free, ground, "cpu").train(state.weights, Part(0, 0, 2))
    assert np.array_equal(begun.rollouts.ids, other.rollouts.ids)
    assert not np.array_equal(begun.delta, other.delta)


def test_a_run_held_near_its_start_ends_in_the_same_state_after_a_stop(tmp_path):
    changes = {"task.kl": 0.05, "task.ratio": "cispo", "rounds.peers": 2, "rounds.patience": 300.0}
    spec = puzzle.specification(tmp_path, changes | {"inner.steps": 2, "inner.batch": 32})
    _, ends = resumed.whole_and_stopped(tmp_path, spec, stop=1)
    assert ends[0] == ends[1]


def test_other_weights_than_those_that_the_run_began_from_are_refused(tmp_path):
    first = puzzle.specification(tmp_path, {"rounds.peers": 1, "inner.steps": 1})
    before, ground, _ = tiny.found(tmp_path, "first", first)
    export.harvest(before, first, ground, "cpu")
    spec = override(
        first, {"task.kl": 0.1, "model.source": "runs/first", "model.weights": "given",
                "data.tokenizer": "runs/first/model"},
    )  # fmt: skip
    folder, ground, state = tiny.found(tmp_path, "rl", spec)
    founding.learner(spec, founding.reopen(folder, spec), "cpu").train(state.weights, Part(0, 0, 1))
    other = founding.first_model(override(first, {"seed": 5}), ground)
    models.export(other, before.model, ground.dataset.tokenizer.end)
    changed = founding.learner(spec, founding.reopen(folder, spec), "cpu")
    with pytest.raises(
        ModelError, match=r"runs/first.*not those that the run began from.*task\.kl"
    ):
        changed.train(state.weights, Part(0, 0, 1))


def test_the_pace_of_a_machine_is_measured_without_a_trace_and_says_what_answers_are_like(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    one = founding.learner(spec, ground, "cpu")
    models.write_weights(one.model, models.read_weights(founding.first_model(spec, ground)))
    before = one.weights()
    found = paces.measure(one)
    assert np.array_equal(before, one.weights())
    assert all(parameter.grad is None for parameter in one.model.parameters())
    asked = [len(one.task.prompt_of(place)) for place in range(paces.GROUPS)]
    assert found.question == pytest.approx(sum(asked) / len(asked))
    assert 0 < found.filled <= 1
    assert 0 < found.spread <= 1
    assert min(found.train, found.check) > 0
    assert one.task.written is None  # what was written to measure is not the peer's work


def test_several_peers_learn_from_rewards_and_a_run_that_was_stopped_ends_in_the_same_state(
    tmp_path,
):
    changes = {"rounds.count": 7, "rounds.peers": 2, "rounds.patience": 300.0}
    spec = puzzle.specification(tmp_path, changes)
    folder, ends = resumed.whole_and_stopped(tmp_path, spec, stop=2)
    assert ends[0] == ends[1]
    told = [event.written for event in folder.records(RoundClosed)]
    assert told[-1].reward / told[-1].answers > told[0].reward / told[0].answers + 0.2
    assert told[0].answers == 2 * spec.inner.steps * spec.inner.batch


def test_a_task_that_gives_no_reward_is_refused_before_the_first_round(tmp_path):
    spec = puzzle.specification(tmp_path, {"task.environments": {"never": {}}})
    with pytest.raises(DataError, match=r"groups had no spread.*too hard.*task\.samples"):
        tiny.found(tmp_path, "never", spec)


def test_rounds_without_spread_are_said_with_what_to_change(tmp_path):
    facts = {"task.environments": {"never": {}}, "wire.kind": "dense", "wire.dtype": "fp32",
             "wire.feedback": 0.0, "rounds.peers": 1, "inner.steps": 1}  # fmt: skip
    spec = puzzle.specification(tmp_path, facts)
    folder, ground, state = tiny.found(tmp_path, "never", spec)
    events = list(Simulation(folder, spec, founding.layout(folder), ground, state, "cpu").events())
    said = [event.text for event in events if isinstance(event, Said)]
    assert any("of the last 3 rounds" in text and "too hard" in text for text in said)


def test_what_was_written_adds_up_and_easy_problems_are_told_from_hard_ones():
    easy = Written(problems=10, answers=80, right=80, flat=10, reward=80.0, tokens=400)
    hard = Written(problems=10, answers=80, flat=10, tokens=400)
    assert "too easy" in easy.advice()
    assert "too hard" in hard.advice()
    assert (easy + hard).pass_at_1 == 0.5
    assert Written(problems=10, flat=5).advice() == ""
