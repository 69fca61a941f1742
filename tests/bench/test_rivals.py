"""What the bench of rivals gives them to train with is what duckweed trains with."""

import math
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.rivals import training
from bench.rivals.contestants import EVERY, Contest, shipped
from bench.rivals.measure import gap
from bench.rivals.speed import shares
from duckweed.learn.optim.registry import make_optimizer
from duckweed.learn.optim.schedule import learning_rate
from duckweed.run.defaults import start
from duckweed.run.sections import Inner


@pytest.mark.parametrize(("rounds", "batch"), [(2, 2), (3, 8), (26, 4)])
def test_rivals_have_the_schedule_of_what_duckweed_ships(rounds: int, batch: int) -> None:
    here = Contest(Path(), "", rounds, batch, 4, 0.0, lambda *_: None, lambda _: "")
    spec = shipped(here)
    steps, inner = spec.total_steps, spec.inner
    assert steps == rounds * EVERY
    ours = [learning_rate(inner, step, steps) for step in range(steps)]
    theirs = [training.rate_at(inner.learning_rate, step, steps) for step in range(steps)]
    assert theirs == pytest.approx(ours)


def test_the_whole_demo_is_that_of_train_without_arguments() -> None:
    here = Contest(Path(), "", 26, 4, 4, 0.0, lambda *_: None, lambda _: "")
    ours, theirs = start({}), shipped(here)
    assert (theirs.schedule, theirs.wire) == (ours.schedule, ours.wire)
    usual = msgspec.structs.replace(
        theirs.inner, steps=ours.inner.steps, precision=ours.inner.precision
    )
    assert (usual, theirs.data) == (ours.inner, ours.data)


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


def test_a_contestant_is_compared_with_the_loops_of_the_same_repeat() -> None:
    def one(name: str, repeat: int, tokens: float) -> dict[str, object]:
        own = {"contestant": name, "repeat": repeat, "tokens_per_second": tokens}
        return own | {"finished": True}

    slowed = [
        one("plain", 0, 100.0),
        one("ddp", 0, 80.0),
        one("plain", 1, 50.0),
        one("ddp", 1, 45.0),
    ]
    assert shares(slowed, "ddp") == [0.8, 0.9]
    assert shares([*slowed, one("ddp", 2, 40.0)], "ddp") == [0.8, 0.9]  # no loops beside it
