"""Layers that are compiled for training: the same up to rounding, and as before where they cannot be compiled."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from duckweed.learn.compiled import tried_out
from duckweed.learn.fit import Wish
from duckweed.learn.learner import Learner, Part
from duckweed.round import founding
from duckweed.run.spec import RunSpec, override

CPU_COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
FACTS = {
    "model.source": "llama-1m", "model.sequence": 16, "architecture.width": 32, "architecture.layers": 2,
    "architecture.heads": 2, "architecture.kv_heads": 2, "architecture.inner_width": 48, "inner.batch": 3,
    "inner.steps": 3, "inner.warmup": 1, "inner.precision": "fp32", "data.path": "*.txt",
}  # fmt: skip


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a learner; what it said."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    spec = override(RunSpec(), FACTS)
    ground = founding.prepare(spec, tmp_path, lambda text: None)

    def made(**wish: object) -> tuple[Learner, list[str]]:
        said: list[str] = []
        one = founding.learner(spec, ground, "cpu", Wish(**wish), said.append)
        return one, said

    return made


@pytest.mark.skipif(not CPU_COMPILER, reason="no C++ compiler here")
def test_compiled_layers_train_alike_up_to_rounding(make):
    (plain, _), (compiled, said) = make(), make(compile=True)
    assert "the layers were compiled" in said[-1]
    weights = plain.weights() * 3  # not those of its trial
    before, after = (one.train(weights, Part(0, 0, 3)) for one in (plain, compiled))
    assert np.linalg.norm(after.delta - before.delta) < 1e-3 * np.linalg.norm(before.delta)
    again = compiled.train(weights, Part(0, 0, 3))
    assert np.array_equal(again.delta, after.delta)
    assert compiled.evaluate(weights, 64) == plain.evaluate(weights, 64)  # not compiled, to the bit


def test_without_a_compiler_it_trains_as_before(make, monkeypatch):
    def fails(*given: object, **named: object) -> object:
        raise RuntimeError("no compiler found\nand more")

    monkeypatch.setattr(torch, "compile", lambda work, **_: fails)
    (plain, _), (one, said) = make(), make(compile=True)
    assert "torch.compile fails here (no compiler found)" in said[-1]
    weights = plain.weights()
    before, after = (x.train(weights, Part(0, 0, 3)) for x in (plain, one))
    assert np.array_equal(after.delta, before.delta)


def test_layers_that_compute_something_else_are_not_used(monkeypatch):
    layer = torch.nn.Linear(4, 4)
    model = torch.nn.Sequential(torch.nn.ModuleList([layer]))
    monkeypatch.setattr(torch, "compile", lambda work, **_: lambda x: work(x) * 1.05)

    def step() -> tuple[float, float]:
        return layer(torch.ones(1, 4)).square().sum().item(), 1.0

    right = step()
    assert "are right; it trains as without" in tried_out(model, step)
    assert step() == right
