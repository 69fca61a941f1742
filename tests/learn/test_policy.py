"""The loss of reinforcement learning: advantages, ratios, bounds, the divergence from the start."""

import numpy as np
import pytest
import torch

from duckweed.learn.tasks.policy import (
    advantages,
    cispo_loss,
    has_spread,
    policy_loss,
    start_divergence,
)
from duckweed.learn.tasks.problems import answer_of


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
