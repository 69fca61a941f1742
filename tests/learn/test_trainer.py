"""What a peer does between two merges."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.tiny import CONFIG
from transformers import AutoConfig

from duckweed.learn.model import model as models
from duckweed.learn.trainer import Diverged, Trainer, precision_for, rows
from duckweed.run.sections import Inner

BATCHES = [(np.arange(2 * 17).reshape(2, 17) * (k + 1) % 50).astype(np.int64) for k in range(4)]


def trainer(inner=None, **changes):
    config = AutoConfig.for_model(**(CONFIG | {"vocab_size": 50} | changes))
    inner = inner or Inner(schedule="constant", warmup=0, precision="fp32")
    return Trainer(models.build(config, "cpu", 0), inner, 1000, "cpu")


def start(one):
    return models.read_weights(one.model).copy()


def test_delta_is_before_minus_after():
    one = trainer()
    weights = start(one)
    before = weights.copy()
    work = one.train(weights, BATCHES, 0)
    assert weights.tobytes() == before.tobytes()
    assert work.delta.tobytes() == (before - models.read_weights(one.model)).tobytes()
    assert work.tokens == 4 * 2 * 16
    assert np.abs(work.delta).max() > 0


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("kept", ["fresh", "kept"])
def test_the_same_inputs_give_the_same_bits(optimizer, kept):
    inner = Inner(optimizer=optimizer, state=kept, warmup=2, precision="fp32")
    one, two = trainer(inner), trainer(inner)
    weights = start(one)
    for first in (0, 4):
        a, b = one.train(weights, BATCHES, first), two.train(weights, BATCHES, first)
        assert a.delta.tobytes() == b.delta.tobytes()
        assert a.loss == b.loss


def test_dropout_is_drawn_from_the_seed_and_from_nothing_else():
    facts = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.5}
    config = AutoConfig.for_model(**facts, vocab_size=50)
    one = Trainer(models.build(config, "cpu", 0), Inner(precision="fp32"), 1000, "cpu")
    weights = start(one)
    found = []
    for seed in (1, 2, 1):
        torch.rand(seed)  # the generator stands somewhere else every time
        found.append(one.train(weights, BATCHES, 0, seed=seed).delta.tobytes())
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_kept_moments_make_two_rounds_one_and_fresh_ones_do_not(optimizer):
    facts = {"optimizer": optimizer, "schedule": "constant", "warmup": 0, "precision": "fp32"}

    def in_two(state):
        one = trainer(Inner(**facts))
        weights = start(one)
        first = one.train(weights, BATCHES[:2], 0, keep=state == "kept")
        middle = models.read_weights(one.model).copy()
        second = one.train(middle, BATCHES[2:], 2, moments=first.moments)
        return first.delta, second.delta, models.read_weights(one.model)

    whole = trainer(Inner(**facts))
    whole.train(start(whole), BATCHES, 0)
    kept, fresh = in_two("kept"), in_two("fresh")
    assert kept[2].tobytes() == models.read_weights(whole.model).tobytes()
    assert kept[0].tobytes() == fresh[0].tobytes()
    assert kept[1].tobytes() != fresh[1].tobytes()


def test_fresh_moments_forget_the_round_before():
    one = trainer()
    weights = start(one)
    first = one.train(weights, BATCHES, 0)
    assert one.train(weights * np.float32(0.5), BATCHES, 4).moments == {}
    assert one.train(weights, BATCHES, 0).delta.tobytes() == first.delta.tobytes()


def test_a_loss_that_is_not_finite_is_said():
    one = trainer()
    weights = start(one)
    weights[:] = np.float32(3e38)
    with pytest.raises(Diverged, match=r"inner\.learning_rate"):
        one.train(weights, BATCHES, 0)


def test_progress_is_reported_step_by_step():
    one, seen = trainer(), []
    work = one.train(start(one), BATCHES, 0, lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert seen[-1][1] == work.loss


def test_evaluation_is_the_mean_of_cross_entropy_and_changes_nothing():
    one = trainer()
    weights = start(one)
    nats, tokens = one.evaluate(weights, BATCHES)
    assert tokens == 4 * 2 * 16
    assert nats / tokens == pytest.approx(np.log(50), rel=0.05)  # no better than chance yet
    assert models.read_weights(one.model).tobytes() == weights.tobytes()
    assert one.evaluate(None, BATCHES) == (nats, tokens)


def test_shares_of_an_evaluation_are_the_whole():
    parts = [list(rows(range(11), share, 3)) for share in range(3)]
    assert sorted(n for part in parts for n in part) == list(range(11))
    one = trainer()
    weights = start(one)
    whole = one.evaluate(weights, BATCHES)
    shares = [one.evaluate(weights, rows(BATCHES, share, 3)) for share in range(3)]
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
    one = Trainer(models.build(config, "cpu", 0), inner, 1000, "cpu")
    text = np.frombuffer(
        b"the pond is full of duckweed, leaf by leaf, root by root. " * 20, np.uint8
    )
    windows = np.lib.stride_tricks.sliding_window_view(text.astype(np.int64), 49)
    batches = [windows[np.arange(4) * 53 + 29 * k].copy() for k in range(12)]
    reached = {name: torch.zeros_like(p) for name, p in one.model.named_parameters()}
    for batch in batches[:6]:
        one.model.zero_grad()
        one.loss(torch.from_numpy(batch)).backward()
        for name, p in one.model.named_parameters():
            assert p.grad is not None, name
            reached[name] += p.grad.abs()
    for name, size in reached.items():
        assert size.any(), name
        if size.ndim == 3:
            assert size.flatten(1).any(1).all(), name
    losses = []
    work = one.train(start(one), batches, 0, lambda step, loss: losses.append(loss))
    assert losses[0] == pytest.approx(np.log(257), rel=0.05)
    assert work.loss * 12 - losses[5] * 6 < 0.75 * losses[0] * 6  # mean of the last six steps
