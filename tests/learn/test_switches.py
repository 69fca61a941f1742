"""Switches of the inner optimizer: off they change no bit, on they do what they say."""

import msgspec
import pytest
import torch
from fixtures.stepping import stepped, tiny

from duckweed.learn.optim.lion import SignMomentum
from duckweed.learn.optim.matrix_muon import MatrixMuon
from duckweed.learn.optim.muon import hidden_matrices, momentum
from duckweed.learn.optim.registry import make_optimizer
from duckweed.run.sections import Inner


def with_gradients(optimizer, gradients):
    """A model whose every parameter has the gradient given by a function of it, stepped."""
    model = tiny()
    stepper = make_optimizer(model, optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = gradients(p)
    stepper.step(0.01, 0)
    return model, before


def test_switches_that_are_off_change_no_bit():
    """The optimizer as it was before there were switches, written out."""
    for kind in ("adamw", "muon"):
        plain = Inner(optimizer=kind, precision="fp32")
        model, twin = tiny(), tiny()
        new = make_optimizer(model, plain)
        matrices = hidden_matrices(twin) if kind == "muon" else []
        rest = [p for p in twin.parameters() if not any(p is m for m in matrices)]
        muon = MatrixMuon(matrices, 0.95, 0.1) if matrices else None
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), fused=True)
        tokens = torch.arange(40).reshape(2, 20) % 50
        for step in range(4):
            rate = 0.01 * (step + 1)
            model(input_ids=tokens, labels=tokens).loss.backward()
            new.step(rate, step)
            twin(input_ids=tokens, labels=tokens).loss.backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
            if muon:
                muon.step(rate)
            for group in adamw.param_groups:
                group["lr"] = rate
            adamw.step()
            twin.zero_grad()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(p, q)


def test_factors_of_the_rate_move_their_parameters_and_no_others():
    plain = Inner(optimizer="adamw", weight_decay=0.0)
    _, before = stepped(plain)
    facts = {"embedding_rate": 3.0, "head_rate": 0.5, "vector_rate": 0.0}
    _, after = stepped(msgspec.structs.replace(plain, **facts))
    for name, moved in after.items():
        factor = 1.0
        if "embed" in name:
            factor = 3.0
        elif "lm_head" in name:
            factor = 0.5
        elif moved.ndim == 1:
            factor = 0.0
        assert torch.allclose(moved, factor * before[name], rtol=1e-3, atol=1e-7), name


def test_a_tied_table_moves_as_an_embedding():
    facts = Inner(optimizer="muon", weight_decay=0.0, embedding_rate=2.0, head_rate=0.0)
    _, moved = stepped(facts, tie_word_embeddings=True)
    table = moved["model.embed_tokens.weight"].abs().max().item()
    assert table == pytest.approx(0.02, rel=1e-2)


def test_epsilon_is_that_of_adamw():
    small = Inner(optimizer="adamw", weight_decay=0.0, clip=0.0, epsilon=1.0)
    model, before = with_gradients(small, lambda p: torch.full_like(p, 1.0))
    for p, q in zip(model.parameters(), before, strict=True):
        assert torch.allclose(q - p, torch.full_like(p, 0.01 / 2), rtol=1e-4)


def test_lion_steps_by_signs_and_decays_apart_from_them():
    inner = Inner(optimizer="lion", weight_decay=0.5, clip=0.0, betas=(0.9, 0.99))
    model, before = with_gradients(inner, lambda p: torch.randn(p.shape, generator=seeded()))
    for p, q in zip(model.parameters(), before, strict=True):
        signs = torch.randn(p.shape, generator=seeded()).sign()
        decay = 1 - 0.01 * 0.5 if p.ndim > 1 else 1.0
        assert torch.allclose(p, q * decay - 0.01 * signs, atol=1e-7)


def seeded():
    return torch.Generator().manual_seed(1)


def test_lions_momentum_is_kept_with_the_second_beta():
    p = torch.nn.Parameter(torch.zeros(3))
    lion = SignMomentum([{"params": [p], "lr": 1.0}], (0.5, 0.75))
    p.grad = torch.tensor([4.0, -4.0, 0.0])
    lion.step()
    assert lion.state[p]["exp_avg"].tolist() == [1.0, -1.0, 0.0]
    p.grad = torch.tensor([-0.5, 2.0, 0.0])  # half of it and half of the momentum: 0.25, 0.5
    lion.step()
    assert p.tolist() == [-2.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["adamw", "lion", "muon", "normuon"])
def test_cautious_decay_shrinks_only_what_the_update_shrinks(kind):
    facts = {"optimizer": kind, "clip": 0.0, "weight_decay": 5.0}
    apart, before = with_gradients(Inner(**facts | {"weight_decay": 0.0}), gradient)
    cautious, _ = with_gradients(Inner(**facts, cautious=True), gradient)
    decayed = 0
    for p, q, start in zip(cautious.parameters(), apart.parameters(), before, strict=True):
        shrinks = ((start - q) * start > 0) if p.ndim > 1 else torch.zeros_like(p, dtype=torch.bool)
        wanted = torch.where(shrinks, q - 0.05 * start, q)
        assert torch.allclose(p, wanted, atol=1e-6)
        decayed += int(shrinks.sum())
    assert decayed > 100


def gradient(p):
    return torch.randn(p.shape, generator=seeded())


def test_momentum_warms_up_from_085_and_is_off_unless_asked_for():
    assert {momentum(Inner(), step) for step in range(50)} == {0.95}
    inner = Inner(momentum_warmup=10)
    assert momentum(inner, 0) == pytest.approx(0.85)
    assert momentum(inner, 5) == pytest.approx(0.90)
    assert momentum(inner, 10) == momentum(inner, 999) == 0.95
    low = Inner(momentum=0.5, momentum_warmup=10)
    assert {momentum(low, step) for step in range(20)} == {0.5}


def test_normuon_evens_out_the_rows_and_keeps_the_size_of_muons_update():
    inner = Inner(optimizer="normuon", weight_decay=0.0, clip=0.0)
    model, before = with_gradients(inner, lambda p: gradient(p) * row(p))
    old, _ = with_gradients(
        msgspec.structs.replace(inner, optimizer="muon"), lambda p: gradient(p) * row(p)
    )
    names = [name for name, _ in model.named_parameters()]
    rows = zip(names, model.parameters(), old.parameters(), before, strict=True)
    for name, p, q, start in rows:
        if ".layers." not in name or p.ndim < 2:
            assert torch.equal(p, q)
            continue
        new, plain = (start - p).norm(dim=1), (start - q).norm(dim=1)
        assert new.std() / new.mean() < 1e-3
        assert plain.std() / plain.mean() > 0.01
        assert new.norm().item() == pytest.approx(0.01 * 0.2 * p.numel() ** 0.5, rel=1e-3)


def row(p):
    return torch.arange(1, p.shape[0] + 1).reshape(-1, *[1] * (p.ndim - 1)) / p.shape[0]


@pytest.mark.parametrize("kind", ["lion", "normuon"])
def test_state_goes_out_and_in_for_every_optimizer(kind):
    inner = Inner(optimizer=kind, cautious=True)
    model, _ = stepped(inner)
    twin = tiny()
    twin.load_state_dict(model.state_dict())
    tokens = torch.arange(40).reshape(2, 20) % 50
    one, two = make_optimizer(model, inner), make_optimizer(twin, inner)
    model(input_ids=tokens, labels=tokens).loss.backward()
    one.step(0.01, 0)
    twin.load_state_dict(model.state_dict())
    two.restore({name: value.copy() for name, value in one.state().items()})
    for net, optimizer in ((model, one), (twin, two)):
        net(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step(0.01, 0)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
