"""What the bench of rivals gives them to train with is what duckweed trains with."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.rivals import training
from bench.rivals.measure import gap
from duckweed.learn.optim.registry import make_optimizer
from duckweed.learn.optim.schedule import learning_rate
from duckweed.run.sections import Inner


@pytest.mark.parametrize("steps", [40, 60, 260])
def test_rivals_have_duckweeds_schedule_of_the_learning_rate(steps: int) -> None:
    inner = Inner()
    ours = [learning_rate(inner, step, steps) for step in range(steps)]
    theirs = [training.rate_at(inner.learning_rate, step, steps) for step in range(steps)]
    assert theirs == pytest.approx(ours)


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape, **heads))


def test_their_muon_steps_as_far_as_ours() -> None:
    ours, theirs = model(), model()
    before = [p.detach().clone() for p in ours.parameters()]
    inner = Inner(precision="fp32")
    for one in (ours, theirs):
        tokens = torch.arange(32).view(2, 16)
        one(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(one.parameters(), inner.clip)
    make_optimizer(ours, inner).step(0.01, 0)
    training.MuonAdamW(theirs, 0.01).step()
    for old, a, b in zip(before, ours.parameters(), theirs.parameters(), strict=True):
        ours_moved, theirs_moved, apart = (x.norm().item() for x in (a - old, b - old, a - b))
        assert theirs_moved == pytest.approx(ours_moved, rel=0.03)
        assert apart < 0.1 * ours_moved  # torch's Muon makes its updates orthogonal in bf16


def test_the_longest_gap_counts_from_the_fault_on() -> None:
    times = [0.0, 10.0, 11.0, 15.0]
    assert gap(times, 0.0) == 10.0
    assert gap(times, 10.5) == 4.0
    assert gap([1.0], 0.0) == math.inf
