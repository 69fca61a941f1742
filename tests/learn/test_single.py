"""What a peer does between two merges."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.learning import learner
from fixtures.tiny import CONFIG
from transformers import AutoConfig

from duckweed.learn.device import precision_for
from duckweed.learn.learner import Diverged, Part
from duckweed.learn.model import model as models
from duckweed.learn.single import _Losses
from duckweed.learn.tasks.text import TOKENS
from duckweed.run.sections import Inner

BATCHES = [(np.arange(2 * 17).reshape(2, 17) * (k + 1) % 50).astype(np.int64) for k in range(4)]


PARTS = [Part(0, 0, 4), Part(0, 0, 2), Part(0, 2, 2, number=2)]
WHOLE, FIRST, SECOND = PARTS


def single(inner=None, **changes):
    config = AutoConfig.for_model(**(CONFIG | {"vocab_size": 50} | changes))
    return learner(config, inner or Inner(schedule="constant", warmup=0, precision="fp32"), BATCHES)


def start(one):
    return one.weights().copy()


def test_delta_is_before_minus_after():
    one = single()
    weights = start(one)
    before = weights.copy()
    work = one.train(weights, WHOLE)
    assert weights.tobytes() == before.tobytes()
    assert work.delta.tobytes() == (before - one.weights()).tobytes()
    assert work.tokens == 4 * 2 * 16
    assert np.abs(work.delta).max() > 0


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("kept", ["fresh", "kept"])
def test_the_same_inputs_give_the_same_bits(optimizer, kept):
    inner = Inner(optimizer=optimizer, state=kept, warmup=2, precision="fp32")
    one, two = single(inner), single(inner)
    weights = start(one)
    for number in (0, 4):
        part = Part(0, 0, 4, number=number)
        a, b = one.train(weights, part), two.train(weights, part)
        assert a.delta.tobytes() == b.delta.tobytes()
        assert a.loss == b.loss


def test_dropout_is_drawn_from_the_seed_and_from_nothing_else():
    facts = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.5}
    config = AutoConfig.for_model(**facts, vocab_size=50)
    one = learner(config, Inner(precision="fp32"), BATCHES)
    weights = start(one)
    found = []
    for seed in (1, 2, 1):
        torch.rand(seed)  # the generator stands somewhere else every time
        found.append(one.train(weights, Part(0, 0, 4, seed=seed)).delta.tobytes())
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_kept_state_makes_two_rounds_one_and_fresh_state_does_not(optimizer):
    facts = {"optimizer": optimizer, "schedule": "constant", "warmup": 0, "precision": "fp32"}

    def in_two(state):
        one = single(Inner(**facts))
        weights = start(one)
        first = one.train(weights, FIRST, keep=state == "kept")
        middle = one.weights().copy()
        second = one.train(middle, SECOND, first.optimizer)
        return first.delta, second.delta, one.weights()

    whole = single(Inner(**facts))
    whole.train(start(whole), WHOLE)
    kept, fresh = in_two("kept"), in_two("fresh")
    assert kept[2].tobytes() == whole.weights().tobytes()
    assert kept[0].tobytes() == fresh[0].tobytes()
    assert kept[1].tobytes() != fresh[1].tobytes()


def test_fresh_state_forgets_the_round_before():
    one = single()
    weights = start(one)
    first = one.train(weights, WHOLE)
    assert one.train(weights * np.float32(0.5), Part(0, 0, 4, number=4)).optimizer == {}
    assert one.train(weights, WHOLE).delta.tobytes() == first.delta.tobytes()


def test_a_loss_that_is_not_finite_is_said():
    one = single()
    weights = start(one)
    weights[:] = np.float32(3e38)
    with pytest.raises(Diverged, match=r"inner\.learning_rate"):
        one.train(weights, WHOLE)


def test_values_that_are_not_finite_are_named_where_they_arise():
    one = single()
    weights, part = start(one), dict(zip(one.layout.names, one.layout.slices(), strict=True))
    weights[part["model.norm.weight"]][3] = np.nan
    with pytest.raises(Diverged, match=r"evaluated became NaN or infinite in model\.norm\.weight"):
        one.evaluate(weights, None)
    with pytest.raises(Diverged, match="the loss became nan"):
        one.train(weights, Part(0, 0, 1))


def test_progress_is_reported_step_by_step():
    one, seen = single(), []
    work = one.train(start(one), WHOLE, report=lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert seen[-1][1] == work.loss


def test_where_reading_a_loss_waits_for_the_device_losses_are_read_together():
    """Reports come at once, then not before some time has passed, and at the end; the mean is the same."""
    rng, seen = np.random.default_rng(0), []
    values = [torch.tensor(x) for x in rng.standard_normal(50, np.float32)]
    one = _Losses("cuda", lambda step, loss: seen.append((step, loss)))
    for value in values:
        one.add(value)
    one.told = time.perf_counter() - 1.0  # as if a second had passed
    one.add(values[0])
    total = sum(x.item() for x in values) + values[0].item()
    assert one.mean() == total / 51
    assert seen == [(1, values[0].item()), (51, total / 51)]


def test_the_generators_of_the_program_around_it_are_left_alone():
    config = AutoConfig.for_model(**(CONFIG | {"vocab_size": 50}))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one = learner(config, Inner(precision="fp32"), BATCHES)
    one.train(start(one), Part(0, 0, 2, seed=3))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_the_mean_of_cross_entropy_and_changes_nothing():
    one = single()
    weights = start(one)
    nats, tokens = one.evaluate(weights, None)
    assert tokens == 4 * 2 * 16
    assert nats / tokens == pytest.approx(np.log(50), rel=0.05)  # no better than chance yet
    assert one.weights().tobytes() == weights.tobytes()
    assert one.evaluate(one.weights(), None) == (nats, tokens)


def test_shares_of_an_evaluation_are_the_whole():
    one = single()
    weights = start(one)
    whole = one.evaluate(weights, None)
    shares = [one.evaluate(weights, None, share, 3) for share in range(3)]
    assert [t for _, t in shares] == [64, 32, 32]
    assert sum(n for n, _ in shares) == pytest.approx(whole[0])
    assert sum(t for _, t in shares) == whole[1]


def test_precision():
    assert precision_for("cpu", "fp32") == torch.float32
    assert precision_for("cpu", "bf16") == torch.bfloat16
    assert precision_for("mps", "auto") == torch.float32


def test_a_mixture_of_experts_with_latent_attention_trains():
    """deepseek-v3-mini: the loss falls on a short text, and over a few batches every parameter gets
    a gradient, the expert stacks, which Muon steps, among them. Each single expert too: the router
    at its start sends some token of these batches to every one."""
    config = models.configuration("deepseek-v3-mini", Path(), 257, 64)
    inner = Inner(schedule="constant", warmup=2, learning_rate=0.01, precision="fp32")
    text = np.frombuffer(
        b"the pond is full of duckweed, leaf by leaf, root by root. " * 20, np.uint8
    )
    windows = np.lib.stride_tricks.sliding_window_view(text.astype(np.int64), 49)
    batches = [windows[np.arange(4) * 53 + 29 * k].copy() for k in range(12)]
    one = learner(config, inner, batches)
    reached = {name: torch.zeros_like(p) for name, p in one.model.named_parameters()}
    for batch in batches[:6]:
        one.model.zero_grad()
        one.loss({TOKENS: batch}).backward()
        for name, p in one.model.named_parameters():
            assert p.grad is not None, name
            reached[name] += p.grad.abs()
    for name, size in reached.items():
        assert size.any(), name
        if size.ndim == 3:
            assert size.flatten(1).any(1).all(), name
    losses = []
    work = one.train(start(one), Part(0, 0, 12), report=lambda step, loss: losses.append(loss))
    assert losses[0] == pytest.approx(np.log(257), rel=0.05)
    assert work.loss * 12 - losses[5] * 6 < 0.75 * losses[0] * 6  # mean of the last six steps
