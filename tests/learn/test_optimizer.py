"""Schedules, and who is stepped by which optimizer."""

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from fixtures.stepping import stepped, tiny
from transformers import AutoConfig

from duckweed.learn.model import model as models
from duckweed.learn.optim import registry
from duckweed.learn.optim.muon import guide, hidden_matrices
from duckweed.learn.optim.optimizer import InnerOptimizer
from duckweed.learn.optim.registry import make_optimizer, register_optimizer
from duckweed.learn.optim.schedule import learning_rate
from duckweed.run import sections
from duckweed.run.layout import Layout
from duckweed.run.sections import Inner
from duckweed.run.spec import RunSpec, SpecError, override

TOTAL = 1000


def rates(schedule, **changes):
    facts = {"learning_rate": 0.02, "warmup": 100, "final": 0.1, "decay": 0.3} | changes
    inner = Inner(schedule=schedule, **facts)
    return [learning_rate(inner, step, TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
def test_warm_up_rises_evenly_from_above_zero_to_the_peak(schedule):
    found = rates(schedule)
    assert found[0] == pytest.approx(0.02 / 100)
    assert found[99] == pytest.approx(0.02)
    assert found[49] == pytest.approx(0.01)
    assert max(found) == pytest.approx(0.02)
    assert min(rates(schedule, warmup=0)[:1]) == pytest.approx(0.02)


def test_constant_stays():
    assert set(rates("constant")[100:]) == {0.02}


def test_wsd_has_a_plateau_and_ends_at_its_share():
    found = rates("wsd")
    assert found[100:701] == pytest.approx([0.02] * 601)
    assert found[850] == pytest.approx(0.02 * (1 + 0.1) / 2)
    assert found[-1] == pytest.approx(0.002, rel=0.04)  # one step before the end
    steps = [a - b for a, b in pairwise(found[700:])]
    assert steps == pytest.approx([0.02 * 0.9 / 300] * 299)


def test_wsd_without_decay_stays():
    assert rates("wsd", decay=0.0)[-1] == pytest.approx(0.02)


def test_cosine_falls_all_the_way_and_ends_at_its_share():
    found = rates("cosine")
    assert all(a > b for a, b in pairwise(found[100:]))
    assert found[550] == pytest.approx(0.02 * (0.1 + 0.9 / 2))
    assert found[-1] == pytest.approx(0.002, rel=0.01)
    assert rates("cosine", final=0.0)[-1] == pytest.approx(0, abs=1e-6)


def names(model):
    taken = {id(p) for p in hidden_matrices(model)}
    return {name for name, p in model.named_parameters() if id(p) in taken}


def test_muon_takes_every_matrix_but_embeddings_and_head():
    for tied in (False, True):
        model = tiny(tie_word_embeddings=tied)
        wanted = {n for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2}
        assert names(model) == wanted
        assert len(wanted) == 2 * 7


def test_muon_leaves_position_embeddings_alone():
    facts = {"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = AutoConfig.for_model(**facts)
    assert not any("wpe" in name or "wte" in name for name in names(models.build(config)))


def test_muon_takes_the_expert_stacks_of_a_mixture():
    config = models.configuration("deepseek-v3-mini", Path(), 257, 64)
    model = models.skeleton(config)
    taken = names(model)
    stacks = {name for name, p in model.named_parameters() if p.ndim == 3}
    assert len(stacks) == 2 * 3
    assert stacks <= taken


def test_a_guided_momentum_keeps_its_length_and_turns_to_the_merged_step():
    layout = Layout.of({"a": (3, 4), "experts": (2, 3, 4), "norm": (4,)})
    torch.manual_seed(0)
    before = {"muon.a": torch.randn(3, 4), "muon.experts": torch.randn(2, 3, 4)}
    before["elementwise.exp_avg.norm"] = torch.randn(4)
    step = np.random.default_rng(0).standard_normal(layout.total, np.float32)
    step[12:24] = 0  # nothing was merged for the first expert
    parts = dict(zip(layout.names, np.split(step, layout.offsets[1:-1]), strict=True))

    def after(share):
        state = {name: value.numpy().copy() for name, value in before.items()}
        guide(state, step, layout, share)
        return {name: torch.from_numpy(value) for name, value in state.items()}

    for name, value in after(0.0).items():
        assert torch.equal(value, before[name])
    whole, some = after(1.0), after(0.25)
    a = torch.from_numpy(parts["a"]).view(3, 4)
    torch.testing.assert_close(whole["muon.a"], a / a.norm() * before["muon.a"].norm())
    torch.testing.assert_close(some["muon.a"], 0.75 * before["muon.a"] + 0.25 * whole["muon.a"])
    # Each expert is a matrix of its own.
    assert torch.equal(whole["muon.experts"][0], before["muon.experts"][0])
    lengths = [x["muon.experts"][1].norm() for x in (whole, before)]
    torch.testing.assert_close(*lengths)
    name = "elementwise.exp_avg.norm"
    assert torch.equal(whole[name], before[name])


def test_every_parameter_is_stepped_by_one_of_the_two():
    for optimizer in ("muon", "adamw"):
        model, moved = stepped(Inner(optimizer=optimizer, weight_decay=0.0))
        assert all(change.any() for change in moved.values()), optimizer
        assert all(p.grad is None for p in model.parameters())
        # AdamW's first step has the size of the rate in every value that has a gradient.
        head = moved["lm_head.weight"].abs().max()
        assert head == pytest.approx(0.01, rel=1e-2)


def test_clipping_bounds_the_gradient_and_zero_switches_it_off():
    model = tiny()
    seen = []
    optimizer = make_optimizer(model, Inner(optimizer="adamw", clip=0.5))
    optimizer.elementwise.register_step_pre_hook(
        lambda *_: seen.append(
            float(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).norm())
        )
    )
    for clip in (0.5, 0.0):
        optimizer.inner = Inner(optimizer="adamw", clip=clip)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step(0.0, 0)
    count = sum(p.numel() for p in model.parameters())
    assert seen == pytest.approx([0.5, count**0.5], rel=1e-4)


def test_the_state_goes_out_and_in_without_loss():
    inner = Inner()
    model = tiny()
    optimizer = make_optimizer(model, inner)
    tokens = torch.arange(40).reshape(2, 20) % 50

    def step(opt, net):
        net(input_ids=tokens, labels=tokens).loss.backward()
        opt.step(0.01, 0)

    step(optimizer, model)
    kept = {name: value.copy() for name, value in optimizer.state().items()}
    twin = tiny()
    twin.load_state_dict(model.state_dict())
    other = make_optimizer(twin, inner)
    other.restore(kept)
    assert not kept  # held by the optimizer alone
    step(optimizer, model)
    step(other, twin)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name


class Plain(InnerOptimizer):
    """Gradient descent without momentum."""

    def elementwise_over(self, groups):
        return torch.optim.SGD(groups, lr=1.0)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "OPTIMIZERS", dict(registry.OPTIMIZERS))
    monkeypatch.setattr(sections, "OPTIMIZERS", list(sections.OPTIMIZERS))
    register_optimizer("plain", Plain)


def test_an_optimizer_of_ones_own_is_named_by_a_specification_and_steps_the_model(registered):
    spec = override(RunSpec(), {"inner.optimizer": "plain"})
    inner = msgspec.structs.replace(spec.inner, clip=0.0, weight_decay=0.5, cautious=True)
    model = tiny()
    optimizer = make_optimizer(model, inner)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step(0.1, 0)
    for p, q in zip(model.parameters(), before, strict=True):
        shrunk = torch.where(q > 0, 1 - 0.1 * 0.5, 1.0) if p.ndim > 1 else 1.0
        torch.testing.assert_close(p, q * shrunk - 0.1)
    assert optimizer.state() == {}
    assert Plain.guess({"muon.a": np.ones(3)}) == {}


def test_a_specification_may_name_every_optimizer_there_is():
    assert list(registry.OPTIMIZERS) == sections.OPTIMIZERS


def test_a_name_that_is_taken_is_refused(registered):
    register_optimizer("plain", Plain)  # the same again is no other
    with pytest.raises(ValueError, match="'muon' already; choose another name"):
        register_optimizer("muon", Plain)
    with pytest.raises(SpecError, match="'lion', 'plain'; did you mean 'plain'"):
        override(RunSpec(), {"inner.optimizer": "plian"})
