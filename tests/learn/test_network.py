"""A loss computed in parts, and activations computed again, are the loss and the gradients that they were."""

import pytest
import torch
from fixtures.tiny import CONFIG
from transformers import AutoConfig

from duckweed.learn.model import network as networks
from duckweed.learn.model.model import build
from duckweed.learn.model.network import Network

TOKENS = torch.randint(0, 50, (3, 18), generator=torch.Generator().manual_seed(1))
FAMILIES = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "gemma2": {"model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 0.05},
    "nanochat": {"model_type": "nanochat", "final_logit_softcapping": 0.05},
}
OTHERS = {
    "granite divides its logits": {"model_type": "granite", "logits_scaling": 8.0},
    "cohere multiplies its logits": {"model_type": "cohere", "logit_scale": 0.06},
}


def network(changes):
    config = AutoConfig.for_model(**(CONFIG | {"vocab_size": 50} | changes))
    model = build(config, seed=3)
    model.train()
    return Network(model, "cpu", torch.float32)


def loss_and_gradients(one):
    one.model.zero_grad(set_to_none=True)
    loss = one.loss(TOKENS[:, 1:], input_ids=TOKENS[:, :-1])
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in one.model.named_parameters()}


def same(one, other, rtol):
    assert torch.allclose(one[0], other[0], rtol=rtol, atol=0)
    for name, gradient in one[1].items():
        difference = (gradient - other[1][name]).norm()
        assert difference <= rtol * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", [1, 7, 50])
def test_a_loss_in_parts_is_that_of_all_positions_up_to_rounding(monkeypatch, family, positions):
    one = network(FAMILIES[family])
    whole = loss_and_gradients(one)
    monkeypatch.setattr(networks, "LOGITS", positions * 4 * 50)
    assert one.positions() == positions
    same(whole, loss_and_gradients(one), 2e-5)


def test_the_logits_of_all_positions_are_never_there(monkeypatch):
    one, seen = network({}), []
    monkeypatch.setattr(networks, "LOGITS", 7 * 4 * 50)
    one.model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.shape))
    loss_and_gradients(one)
    assert max(shape.numel() for shape in seen) <= 7 * 50


@pytest.mark.parametrize("family", OTHERS)
def test_a_model_that_does_more_to_its_logits_is_given_them_whole(family):
    assert network(OTHERS[family]).positions() is None


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_that_are_computed_again_give_the_same_bits(family):
    one = network(FAMILIES[family])
    whole = loss_and_gradients(one)
    one.checkpoint()
    same(whole, loss_and_gradients(one), 0.0)


def test_checkpointing_keeps_less_for_the_backward_pass():
    one = network({"num_hidden_layers": 4})

    def kept():
        sizes = []
        pack = lambda x: (sizes.append(x.numel()), x)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            one.loss(TOKENS[:, 1:], input_ids=TOKENS[:, :-1])
        return sum(sizes)

    before = kept()
    one.checkpoint()
    assert kept() < before / 2
