"""Memory is counted before any is taken."""

from pathlib import Path

import pytest
from fixtures import tiny

from duckweed.learn import memory
from duckweed.learn.arithmetic import moment_count
from duckweed.learn.fit import Fit
from duckweed.learn.memory import OutOfMemory, check_memory, needed, whole
from duckweed.learn.model import model as models
from duckweed.learn.optim.muon import hidden_matrices
from duckweed.run.spec import RunSpec, override


def skeleton(source, spec):
    return models.skeleton(models.configuration(source, Path(), 257, spec.model.sequence))


def test_a_model_that_does_not_fit_is_refused_with_how_much_it_needs(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 10_000_000_000)
    spec = override(RunSpec(), {"model.source": "llama-1b", "inner.batch": 1})
    model = skeleton("llama-1b", spec)
    assert all(p.is_meta for p in model.parameters())
    one = needed(model, spec, Fit(1, checkpoint=True)) + memory.PROCESS
    with pytest.raises(OutOfMemory) as error:
        check_memory(model, spec, "cpu", 4)
    for part in ("llama-1b", f"{one / 1e9:.1f} GB for each peer", "10.0 GB free", "--peers"):
        assert part in str(error.value)
    assert f"4 x that is {4 * one / 1e9:.1f} GB" in str(error.value)


def test_what_fits_passes(monkeypatch):
    spec = RunSpec()
    model = skeleton("llama-1m", spec)
    one = needed(model, spec) + memory.PROCESS
    monkeypatch.setattr(memory, "available", lambda device: 4 * one)
    check_memory(model, spec, "cpu", 4)
    with pytest.raises(OutOfMemory):
        check_memory(model, spec, "cpu", 5)


def test_need_grows_with_model_moments_batch_and_sequence():
    muon = RunSpec()
    model = skeleton("llama-1m", muon)
    parameters = sum(p.numel() for p in model.parameters())
    adamw = override(muon, {"inner.optimizer": "adamw"})
    one, two = (moment_count(model, spec.inner) for spec in (muon, adamw))
    matrices = sum(p.numel() for p in hidden_matrices(model))
    assert one == matrices + 2 * (parameters - matrices)  # AdamW's part has two
    assert two == 2 * parameters
    base = needed(model, muon)
    for spec, count in ((muon, one), (adamw, two)):
        fresh = override(spec, {"inner.state": "fresh"})
        # A peer keeps its moments twice: those of the last round that counted, and of the one on its way.
        assert needed(model, spec) == needed(model, fresh) + 4 * count
        assert needed(model, fresh) > 4 * 8 * parameters
    for key in ("inner.batch", "model.sequence"):
        assert needed(model, override(muon, {key: 256})) > 1.5 * base
    assert needed(skeleton("llama-15m", muon), muon) > base + 4 * 8 * 13_000_000


def test_on_a_graphics_card_the_vectors_of_a_round_are_not_counted():
    model, spec = skeleton("llama-15m", RunSpec()), RunSpec()
    parameters = sum(p.numel() for p in model.parameters())
    there, here = (whole(model, spec, device) for device in ("cuda:1", "cpu"))
    # Global weights, outer momentum, residual and the moments of what counted last.
    vectors = 4 * (3 * parameters + moment_count(model, spec.inner))
    assert there + vectors + memory.PROCESS <= here <= there + 1.1 * vectors + memory.PROCESS


def test_the_machine_has_some_memory():
    assert 10**8 < memory.available("cpu") < 10**15


def test_a_run_is_refused_before_the_model_is_made(tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("the model was made")

    monkeypatch.setattr(memory, "available", lambda device: 1_000_000)
    monkeypatch.setattr(models, "build", never)
    with pytest.raises(OutOfMemory):
        tiny.found(tmp_path, "run", tiny.specification(tmp_path))
    assert not (tmp_path / "runs" / "run" / "ledger.db").exists()
