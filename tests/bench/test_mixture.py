"""The token-routed mixture of experts that paths are compared with."""

import numpy as np
import pytest
import torch

from bench.paths import shapes
from bench.paths.stacks import Fast, Mixture
from duckweed.learn.model import model as models
from duckweed.round.founding import cache_folder
from duckweed.run.spec import RunSpec, override

EXPERTS, LENGTH = 4, 12
SPEC = override(
    RunSpec(),
    {
        "model.sequence": LENGTH, "architecture.width": 16, "architecture.layers": 2, "architecture.heads": 2,
        "architecture.kv_heads": 2, "architecture.inner_width": 24, "architecture.tied": False,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def dense():
    config = models.configuration(
        SPEC.model.source, cache_folder(), 256, LENGTH, given=False, architecture=SPEC.architecture
    )
    return config, models.build(config, "cpu", 0)


def both(dense, top):
    """A dense model, and a mixture whose experts are all its feed-forward parts."""
    config, model = dense
    layout = models.layout_of(model)
    routers = 2 * EXPERTS * 16
    rest = sum(n for name, n in zip(layout.names, layout.sizes, strict=True) if ".mlp." not in name)
    total = rest + routers + EXPERTS * (layout.total - rest)
    mixed = shapes.mixture(layout, EXPERTS, total)
    assert mixed.total == total
    one = Fast(config, layout, 1, LENGTH)
    one.weights.detach()[0].copy_(torch.from_numpy(models.read_weights(model)))
    other = Mixture(config, mixed, 1, LENGTH, EXPERTS, top)
    other.weights.detach()[0].copy_(torch.from_numpy(shapes.first_weights(mixed, 0.5, 0)))
    with torch.no_grad():
        for name, tensor in other.parameters.items():
            before, number, part = name.partition(".experts.")
            if ".router." not in name:
                tensor.copy_(one.parameters[f"{before}.{part[2:]}" if number else name])
    return one, other


def test_two_experts_of_a_token_that_are_alike_are_the_dense_model(dense):
    one, other = both(dense, 2)
    tokens = torch.randint(0, 256, (1, 3, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(one.logits(tokens), other.logits(tokens))


def test_no_token_is_dropped_and_each_expert_learns_from_those_that_come_to_it(dense):
    _, other = both(dense, 1)
    tokens = torch.randint(0, 256, (1, 9, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    other.loss(tokens).sum().backward()
    for name in other.parameters:
        assert other.parameters[name].grad.abs().sum() > 0, name
    assert (
        float(other.balance.detach()[0]) > 2 * 0.99
    )  # of each of two layers 1, were all loads alike


@pytest.mark.parametrize("paths", [2, 8, 16])
def test_the_whole_dense_model_and_the_mixture_are_as_large_as_all_paths_together(paths):
    path = shapes.values(*(shapes.SHAPES["66k"][n] for n in (0, 1, 3)))
    width, layers, heads, inner = shapes.dimensions(f"66k x {paths}")
    assert shapes.values(width, layers, inner) == pytest.approx(paths * path, rel=0.01)
    assert width % heads == 0
    assert np.isclose(width / heads, 16)
