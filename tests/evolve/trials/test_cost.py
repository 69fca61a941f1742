"""What training costs, before anything is run."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from duckweed.evolve.space.plain_recipe import generation_zero
from duckweed.evolve.space.recipe import specification
from duckweed.evolve.trials.cost import Bounds
from duckweed.learn.arithmetic import Cost, cost
from duckweed.learn.model import model as models
from duckweed.learn.optim.matrix_muon import orthogonalise
from duckweed.plan.inputs import models as plans

ZERO = generation_zero()


def counted(recipe):
    spec = specification(ZERO, recipe)
    config = models.configuration(
        spec.model.source, Path(), 257, spec.model.sequence, architecture=spec.architecture
    )
    skeleton = models.skeleton(config)
    return cost(skeleton, spec.inner, spec.model.sequence), config, spec


@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2", "gemma2", "nanochat", "arcee"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_forward_pass_is_what_torch_counts(family, tied):
    found, config, spec = counted({"architecture.family": family, "architecture.tied": tied})
    model = models.build(config, "cpu")
    length = spec.model.sequence
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, length, dtype=torch.long))
    # torch computes the upper half of the attention matrix too, and then masks it
    width = config.hidden_size
    upper = 4 * config.num_hidden_layers * width * length / 2
    assert counter.get_total_flops() / length == pytest.approx(found.forward + upper, rel=0.01)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_the_planner_counts_the_same(family):
    found, config, spec = counted({"architecture.family": family, "architecture.kv_heads": 2})
    model = plans.from_config(config.to_dict(), family, spec.model.sequence)
    assert model.shape.total == found.parameters
    assert 3 * found.forward == pytest.approx(model.flop_per_token, rel=0.01)


def test_newton_schulz_is_what_torch_counts_and_more_iterations_cost_more():
    adamw, config, _ = counted({})
    shapes = [
        p.shape
        for n, p in models.skeleton(config).named_parameters()
        if ".layers." in n and p.ndim == 2
    ]
    with FlopCounterMode(display=False) as counter:
        for shape in shapes:
            orthogonalise(torch.ones(shape), 5)
    muon = counted({"inner.optimizer": "muon"})[0]
    least = sum(s.numel() for s in shapes) * 10  # what Muon saves of AdamW around it
    assert muon.optimizer - adamw.optimizer + least == pytest.approx(
        counter.get_total_flops(), rel=1e-3
    )
    assert counted({"inner.optimizer": "muon", "inner.iterations": 8})[0].optimizer > muon.optimizer
    assert counted({"inner.optimizer": "normuon"})[0].optimizer > muon.optimizer
    assert counted({"inner.optimizer": "lion"})[0].optimizer < adamw.optimizer


@pytest.mark.parametrize("family", ["nanochat", "arcee", "gemma2", "olmo2", "qwen3"])
def test_another_family_keeps_the_parameters_unless_the_width_is_said(family):
    zero, found = counted({})[0], counted({"architecture.family": family})[0]
    assert found.parameters == pytest.approx(zero.parameters, rel=0.01)
    said = {"architecture.family": family, "architecture.inner_width": 192}
    assert counted(said)[0].parameters < 0.9 * zero.parameters


@pytest.mark.parametrize(
    ("source", "low", "high"), [("llama-0.5m", 0.45e6, 0.55e6), ("llama-1m", 1e6, 2e6)]
)
def test_generation_zero_has_the_sizes_meant_for_campaigns(source, low, high):
    spec = generation_zero(source)
    config = models.configuration(source, Path(), 257, 128, architecture=spec.architecture)
    assert low < cost(models.skeleton(config), spec.inner, 128).parameters < high


def test_bounds_say_what_is_too_much():
    parent = Cost(1e6, 1e6, 500_000, 1e8)
    bounds = Bounds()
    assert bounds.excess(parent, parent, 1024, 1024) is None
    larger = Cost(1e6, 1e6, 700_000, 1e8)
    assert "1.40 times the parameters" in (bounds.excess(parent, larger, 1024, 1024) or "")
    dear = Cost(1e6, 1e12, 500_000, 1e8)
    assert "FLOPs of a token" in (bounds.excess(parent, dear, 1024, 64) or "")
    heavy = Cost(1e6, 1e6, 500_000, 5e9)
    assert "5 GB, at most 4 GB" in (bounds.excess(parent, heavy, 1024, 1024) or "")


def test_memory_grows_with_batch_and_sequence_and_is_bounded_for_all_switches():
    small, large = counted({})[0], counted({"inner.batch": 64, "model.sequence": 256})[0]
    assert small.memory < large.memory < Bounds().memory
