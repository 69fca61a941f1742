"""Reinforcement learning: problems, answers, rewards, the policy gradient, whole runs."""

import json

import numpy as np
import pytest
import torch
from fixtures import puzzle, resumed, tiny

from duckweed.learn.data.chat import PLAIN
from duckweed.learn.data.reading import DataError
from duckweed.learn.learner import Part
from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import ModelError
from duckweed.learn.tasks import pace as paces
from duckweed.learn.tasks import problems as problems_of
from duckweed.learn.tasks.environments import Rows
from duckweed.learn.tasks.exam import Result
from duckweed.learn.tasks.policy import (
    advantages,
    cispo_loss,
    has_spread,
    policy_loss,
    start_divergence,
)
from duckweed.learn.tasks.problems import answer_of
from duckweed.learn.tasks.reinforce import GAIN, IDS, START, THEN, WRITTEN
from duckweed.learn.tasks.rewards import UNDONE
from duckweed.learn.tasks.rollout import gumbel, write
from duckweed.learn.tasks.verifier import Verifier
from duckweed.process.simulation import Simulation
from duckweed.round import export, founding
from duckweed.run import plugins
from duckweed.run.events import RoundClosed, Said
from duckweed.run.spec import SpecError, override
from duckweed.run.task import rollouts as packing
from duckweed.run.task import work
from duckweed.run.task.written import Written


def prepared(tmp_path, changes=None):
    spec = puzzle.specification(tmp_path, changes)
    return spec, founding.prepare(spec, tmp_path, lambda text: None)


# --- answers


def test_the_noise_is_that_of_a_draw_from_the_softmax():
    noise = gumbel(torch.arange(4) * 7919, 2, 100_000).double()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
    assert float(noise.var()) == pytest.approx(np.pi**2 / 6, abs=0.03)
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    drawn = (logits + gumbel(torch.arange(20_000), 0, 3)).argmax(-1).bincount() / 20_000
    assert drawn.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.015)


def test_an_answer_follows_from_weights_and_key_and_its_costs_are_those_of_the_whole_text(tmp_path):
    spec, ground = prepared(tmp_path)
    model = founding.first_model(spec, ground).eval()
    prompts, keys = [[65, 66, 67], [68]], [5, 6]
    one = write(model, prompts, keys, 6, 0.8, [0])
    again = write(model, prompts, keys, 6, 0.8, [0])
    assert np.array_equal(one.ids, again.ids)
    other = write(model, prompts, [5, 7], 6, 0.8, [0])
    assert np.array_equal(one.ids[0], other.ids[0])
    assert not np.array_equal(one.ids[1], other.ids[1])
    for row, prompt in enumerate(prompts):
        length = one.lengths[row]
        text = torch.tensor([[*prompt, *one.ids[row, :length]]])
        logs = torch.log_softmax(model(input_ids=text).logits[0].float() / 0.8, -1)
        told = [-logs[len(prompt) - 1 + n, one.ids[row, n]].item() for n in range(length)]
        assert one.nats[row, :length].tolist() == pytest.approx(told, abs=1e-4)


def test_an_answer_ends_with_a_stop_and_nothing_behind_it_counts(tmp_path):
    spec, ground = prepared(tmp_path)
    model = founding.first_model(spec, ground).eval()
    free = write(model, [[65]] * 3, [1, 2, 3], 8, 1.0, [0])
    stop = int(free.ids[0, 2])
    found = write(model, [[65]] * 3, [1, 2, 3], 8, 1.0, [0, stop])
    assert found.lengths[0] <= 3
    assert found.ended[0]
    assert not found.nats[0, found.lengths[0] :].any()


def test_an_answer_is_the_same_alone_and_among_others_that_end_earlier(tmp_path):
    spec, ground = prepared(tmp_path)
    model = founding.first_model(spec, ground).eval()
    prompts = [[65, 66, 67], [68]] * 16
    stops = [0, *range(100, 140)]  # about one token in six
    found = write(model, prompts, range(32), 24, 1.0, stops)
    assert found.lengths.min() < 5
    assert found.lengths.max() > 8
    for row, prompt in enumerate(prompts):
        alone = write(model, [prompt], [row], 24, 1.0, stops)
        length = int(alone.lengths[0])
        assert found.lengths[row] == length
        assert found.ended[row] == alone.ended[0]
        assert found.ids[row, :length].tolist() == alone.ids[0, :length].tolist()
        assert found.nats[row, :length] == pytest.approx(alone.nats[0, :length], abs=1e-4)
        assert not found.nats[row, length:].any()
        assert found.entropy[row] == pytest.approx(alone.entropy[0], abs=1e-4)


# --- rewards and loss


def test_groups_without_spread_teach_nothing_and_advantages_have_no_mean():
    rewards = np.array([[0, 1, 1, 0], [1, 1, 1, 1]], np.float32)
    assert has_spread(rewards).tolist() == [True, False]
    found = advantages(rewards)
    assert found.tolist() == [[-0.5, 0.5, 0.5, -0.5], [0, 0, 0, 0]]
    assert advantages(rewards, True)[0].tolist() == pytest.approx([-1, 1, 1, -1], abs=1e-4)


def test_the_gradient_at_ratio_one_is_that_of_the_advantage_times_the_log_probability():
    nats = torch.tensor([[1.0, 2.0], [0.5, 3.0]], requires_grad=True)
    written = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    gain = torch.tensor([0.5, -0.5])
    policy_loss(nats, nats.detach(), gain, written, 0.2, 0.001).backward()
    assert nats.grad.flatten().tolist() == pytest.approx([0.5 / 3, 0.5 / 3, -0.5 / 3, 0.0])


@pytest.mark.parametrize(
    ("gain", "now", "moves"), [(1, 0.9, 0), (1, 0.1, 1), (-1, 0.1, 0), (-1, 0.9, 1)]
)
def test_a_token_that_has_moved_far_enough_is_not_moved_further(gain, now, moves):
    then = torch.tensor([[-np.log(0.5)]]).float()
    nats = torch.tensor([[-np.log(now)]]).float().requires_grad_()
    policy_loss(nats, then, torch.tensor([float(gain)]), torch.ones(1, 1), 0.2, 0.0).backward()
    assert bool(nats.grad.abs().sum() > 0) == bool(moves)


def drawn(seed=3, vocabulary=5, rows=2):
    """Made-up next tokens, every token of the vocabulary at each of `rows` places: logits now, and the logarithms of
    what wrote them, of the start, f64[rows, vocabulary]."""
    source = torch.Generator().manual_seed(seed)
    now, then, start = torch.randn(3, rows, vocabulary, generator=source, dtype=torch.float64)
    return now.requires_grad_(), then.log_softmax(-1), start.log_softmax(-1)


OFTEN = torch.tensor([1, 4, 2, 1, 5], dtype=torch.float64)
"""How often some older weights wrote each token of a vocabulary, so that means over what they wrote are exact."""


def as_often(*values):
    """Of each token one value, as rows of one token each."""
    return [x.repeat_interleave(OFTEN.long())[:, None] for x in values]


def test_cispo_is_its_formula_and_bounds_what_a_token_weighs_without_leaving_any_out():
    now, then, _ = drawn(rows=4)
    gain = torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64)
    written = torch.ones(4, 5, dtype=torch.float64)
    written[1, 3:] = 0
    logs = now.log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    weights = []
    for row in range(4):
        for column in range(5):
            if written[row, column]:
                ratio = (logs[row, column] - then[row, column]).exp().item()
                weights.append(min(ratio, 1.5))
                total = total - weights[-1] * gain[row] * logs[row, column]
    (wanted,) = torch.autograd.grad(total / written.sum(), now, retain_graph=True)
    (found,) = torch.autograd.grad(cispo_loss(-logs, -then, gain, written, 1.5, 0.0), now)
    torch.testing.assert_close(found, wanted)
    assert max(weights) == 1.5  # of some token
    assert min(weights) < 0.5
    nats = (-logs).detach().requires_grad_()
    cispo_loss(nats, -then, gain, written, 1.5, 0.0).backward()
    assert bool((nats.grad != 0).eq(written > 0).all())


def test_cispo_without_its_bound_has_the_gradient_of_the_advantage_that_is_to_be_expected():
    now, _, _ = drawn(rows=1)
    gain = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    (wanted,) = torch.autograd.grad(-(now.softmax(-1) @ gain).sum(), now)
    then = OFTEN.log() - OFTEN.sum().log()
    rows = as_often(-now.log_softmax(-1)[0], -then, gain)
    loss = cispo_loss(rows[0], rows[1], rows[2][:, 0], torch.ones_like(rows[0]), 1e6, 0.0)
    (found,) = torch.autograd.grad(loss, now)
    torch.testing.assert_close(found, wanted)


def test_the_divergence_from_the_start_has_the_gradient_of_the_exact_one_whoever_wrote():
    now, _, start = drawn(rows=1)
    logs, then = now.log_softmax(-1), OFTEN.log() - OFTEN.sum().log()
    (wanted,) = torch.autograd.grad((logs.exp() * (logs - start)).sum(), now, retain_graph=True)
    rows = as_often(-logs[0], -then, -start[0])
    (found,) = torch.autograd.grad(start_divergence(*rows, torch.ones_like(rows[0])), now)
    torch.testing.assert_close(found, wanted)


def test_the_divergence_from_the_start_is_that_of_the_published_estimate_by_autograd():
    now, then, start = drawn(rows=3)
    logs, written = now.log_softmax(-1), torch.ones(3, 5, dtype=torch.float64)
    ratio, apart = (logs - then).exp(), start - logs
    (wanted,) = torch.autograd.grad(
        (ratio * (apart.exp() - apart - 1)).mean(), now, retain_graph=True
    )
    (found,) = torch.autograd.grad(start_divergence(-logs, -then, -start, written), now)
    torch.testing.assert_close(found, wanted)


def test_the_answer_stands_behind_the_last_marker():
    assert answer_of("Answer: 3\nAnswer: 4 ", "Answer:") == "4"
    assert answer_of("3", "Answer:") is None
    assert answer_of(" 3 ", "") == "3"


# --- problems


def test_problems_follow_from_seed_and_place_and_held_out_ones_are_the_same_in_every_run(tmp_path):
    spec, ground = prepared(tmp_path)
    one = problems_of.of(spec, ground.dataset)
    two = problems_of.Problems(spec.task, spec.seed + 1, spec.data.held_out)
    trained = {one.at(n, False).question for n in range(30)}
    held = {one.at(n, True).question for n in range(30)}
    assert not trained & held
    assert [one.at(n, True) for n in range(5)] == [two.at(n, True) for n in range(5)]
    assert one.at(3, False) != two.at(3, False)
    assert one.at(3, False) == problems_of.of(spec, ground.dataset).at(3, False)


def test_a_check_that_raises_or_hangs_counts_as_wrong_and_the_next_one_works(tmp_path):
    spec, ground = prepared(tmp_path, {"task.seconds": 0.5})
    found = problems_of.of(spec, ground.dataset)
    problem = found.at(0, False)
    assert found.score(problem, "raise") == 0
    assert found.score(problem, "hang") == 0
    assert found.failed == 2
    assert found.score(problem, "abcd") == 1


def test_too_few_different_problems_are_said(tmp_path):
    with pytest.raises(DataError, match="too few different ones"):
        prepared(tmp_path, {"task.environments": {"letters": {"settings": {"few": True}}},
                            "data.held_out": 1e-6})  # fmt: skip


def test_an_environment_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(DataError, match="did you mean 'chain_sum'"):
        prepared(tmp_path, {"task.environments": {"chainsum": {}}})
    with pytest.raises(DataError, match="it has min_terms, max_terms"):
        prepared(tmp_path, {"task.environments": {"chain_sum": {"settings": {"terms": 3}}}})
    with pytest.raises(DataError, match="of its own instead"):
        prepared(tmp_path, {"task.environments": {"composite": {}}})


def test_the_same_number_is_the_same_problem_in_every_process():
    """Also where an environment draws from a set."""
    pytest.importorskip("reasoning_gym")
    several = [Verifier([("isomorphic_strings", {}), ("word_ladder", {})]) for _ in range(2)]
    drawn = [[one.draw(which, 7, False) for which in (0, 1)] for one in several]
    for one in several:
        one.close()
    assert drawn[0] == drawn[1]


def test_an_environment_of_a_library_that_is_not_installed_names_the_extra(tmp_path):
    blocker = tmp_path / "blocker.py"
    blocker.write_text("import sys\nsys.modules['reasoning_gym'] = None\n")
    with pytest.raises(DataError, match=r"pip install 'duckweed\[reason\]'"):
        Verifier([("chain_sum", {})], plugins=[str(blocker)]).draw(0, 0, False)


def test_questions_that_leave_no_room_for_an_answer_are_said_at_the_start(tmp_path):
    with pytest.raises(DataError, match=r"raise model\.sequence, lower task\.tokens"):
        prepared(tmp_path, {"task.tokens": 20})


def test_rows_of_ones_own_are_checked_by_text_or_by_pattern(tmp_path):
    rows = [{"question": f"{n}?", "answer": n} for n in range(200)]
    puzzle.specification(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"task.environments": {}, "data.path": "rows.jsonl", "data.held_out": 0.2}
    spec, ground = prepared(tmp_path, facts)
    found = problems_of.of(spec, ground.dataset)
    problem = found.at(0, False)
    assert found.score(problem, problem.question[:-1]) == 1
    assert found.score(problem, "-1") == 0
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"question": f"{n}?", "answer": r"\d+ ducks?"}) + "\n" for n in range(200)
        )
    )
    spec, ground = prepared(tmp_path, facts | {"task.verifier": "regex"})
    found = problems_of.of(spec, ground.dataset)
    assert found.score(found.at(0, False), "7 ducks") == 1
    assert found.score(found.at(0, False), "7 ducks swim") == 0
    (tmp_path / "rows.jsonl").write_text('{"question": "x", "answer": "("}\n')
    with pytest.raises(DataError, match="no regular expression"):
        prepared(tmp_path, facts | {"task.verifier": "regex"})
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x", "answer": "("}\n')
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: there is no field 'question', only prompt, answer"
    ):
        prepared(tmp_path, facts)


def test_mathematics_is_right_by_its_value():
    pytest.importorskip("math_verify")
    rows = Rows([("?", "1/2"), ("?", "x+1"), ("?", "\\sqrt{8}")], "math")
    for number, answer in ((0, "0.5"), (0, "$\\frac{2}{4}$"), (1, "1 + x"), (2, "2\\sqrt{2}")):
        assert rows.score(number, answer) == 1, answer
    for number, answer in ((0, "2"), (0, ""), (0, "1, 2, 1/2"), (1, "x"), (2, "8")):
        assert rows.score(number, answer) == 0, answer


def test_a_group_that_does_not_fit_into_a_batch_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"must be a multiple of task\.samples"):
        puzzle.specification(tmp_path, {"inner.batch": 60})


# --- training


def test_a_block_is_written_and_counted_the_same_way_twice(tmp_path):
    spec, ground = prepared(tmp_path)
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
    spec, ground = prepared(tmp_path)
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
    spec, ground = prepared(tmp_path)
    one = founding.learner(spec, ground, "cpu")
    weights = models.read_weights(founding.first_model(spec, ground))
    own = one.train(weights, Part(4, 1, 1))
    (part,) = packing.split(own.rollouts, 1)
    strange = part._replace(ids=part.ids + 100_000)
    again = one.train(weights, Part(4, 1, 1, given={1: strange}))
    assert np.array_equal(again.rollouts.ids, own.rollouts.ids)


def test_answers_of_another_peer_that_make_checks_hang_do_so_a_few_times_alone(tmp_path):
    """The coordinator has checked them, those that are called right first."""
    spec, ground = prepared(tmp_path)
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
    spec, ground = prepared(tmp_path)
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
        spec, ground = prepared(tmp_path, facts | {"inner.precision": "fp32"})
        one = founding.learner(spec, ground, "cpu")
        weights = models.read_weights(founding.first_model(spec, ground))
        # The first step from the weights that wrote has ratios of one, where the forms agree.
        made += [one.train(weights, Part(4, 1, steps)).delta for steps in (1, 3)]
    np.testing.assert_allclose(made[0], made[2], atol=1e-5)
    assert not np.array_equal(made[1], made[3])
    with pytest.raises(SpecError, match=r"task\.bound"):
        prepared(tmp_path, {"task.bound": 0.5})


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
    spec, ground = prepared(tmp_path)
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


# --- the exam


def test_pass_at_k_is_estimated_without_bias_and_with_an_interval():
    one = Result("x", 4, [0, 1, 4, 4], 3.0, 0)
    assert one.pass_at(1) == pytest.approx((0 + 0.25 + 1 + 1) / 4)
    assert one.pass_at(4) == pytest.approx(3 / 4)
    assert one.pass_at(2) == pytest.approx((0 + 0.5 + 1 + 1) / 4)
    low, high = one.interval(1)
    assert low < one.pass_at(1) < high
    assert Result("x", 1, [0] * 100, 3.0, 0).interval(1)[1] == pytest.approx(0.037, abs=0.001)


def test_a_finished_run_is_examined_on_its_own_problems(tmp_path):
    from duckweed import session

    spec = puzzle.specification(tmp_path, {"rounds.peers": 1, "inner.steps": 1})
    folder, ground, _ = tiny.found(tmp_path, "rl", spec)
    plugins.remember(folder, plugins.load([tmp_path / "letters_plugin.py"]))
    export.harvest(folder, spec, ground, "cpu")
    found = session.examine(folder.path, [], 4, 6, "cpu", (), lambda text: None)
    again = session.examine(folder.path, ["letters"], 4, 6, "cpu", (), lambda text: None)
    assert found == again
    assert [(x.name, x.samples, len(x.right)) for x in found] == [("letters", 4, 6)]
    assert (folder.model / "chat_template.jinja").read_text() == PLAIN
