"""Memory is counted before any is taken."""

import re
from pathlib import Path

import pytest
from fixtures import tiny

from duckweed.learn import memory
from duckweed.learn.arithmetic import moment_count
from duckweed.learn.fit import Fit
from duckweed.learn.memory import OutOfMemory, check_limit, check_memory, needed, whole
from duckweed.learn.model import model as models
from duckweed.learn.optim.muon import hidden_matrices
from duckweed.run.spec import RunSpec, override
from duckweed.run.units import show_size


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
    each, all_four = show_size(one), show_size(4 * one)
    for part in (
        "llama-1b",
        f"{each} for each peer, 4 x that is {all_four}",
        "10 GB free",
        "--peers",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(("changes", "said"), [({}, "model"), ({"paths.count": 4}, "path")])
def test_a_peer_hears_what_is_needed_what_there_is_and_what_would_fit(monkeypatch, changes, said):
    spec = override(RunSpec(), {"model.source": "llama-15m"} | changes)
    model = skeleton("llama-15m", spec)
    one = min(whole(model, spec, "cpu", Fit(1, checkpoint)) for checkpoint in (False, True))
    monkeypatch.setattr(
        memory, "available", lambda device: memory.PROCESS + (one - memory.PROCESS) // 3
    )
    with pytest.raises(OutOfMemory) as error:
        check_memory(model, spec, "cpu", 1)
    parameters = sum(p.numel() for p in model.parameters())
    told = re.search(
        r"a (\w+) of about (\S+) M parameters \(this one has (\S+) M\)", str(error.value)
    )
    assert told.group(1) == said
    assert float(told.group(2)) == pytest.approx(parameters / 3e6, rel=0.01)
    assert float(told.group(3)) == pytest.approx(parameters / 1e6, rel=0.01)
    assert ("a path of this family" in str(error.value)) == (said == "path")
    with pytest.raises(
        OutOfMemory, match=r"--memory allows 100 MB; .*nothing else, since .* 470 MB"
    ):
        check_memory(model, spec, "cpu", 1, limit=1e8)


def test_who_allows_less_than_any_peer_takes_hears_it_at_once():
    with pytest.raises(
        OutOfMemory, match="allows 300 MB, and Python and PyTorch alone take 470 MB"
    ):
        check_limit(3e8, "cpu")
    check_limit(3e8, "cuda:0")
    check_limit(None, "cpu")


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


def test_the_weights_that_a_run_began_from_are_counted_where_its_loss_asks_for_them():
    plain = override(RunSpec(), {"task.kind": "reinforce", "model.sequence": 128})
    held = override(plain, {"task.kl": 0.01})
    model = skeleton("llama-1m", plain)
    parameters = sum(p.numel() for p in model.parameters())
    for device in ("cpu", "cuda"):
        assert whole(model, held, device) == whole(model, plain, device) + 4 * parameters


def test_who_only_writes_needs_less_and_a_machine_that_cannot_train_is_told_so():
    spec = override(RunSpec(), {"task.kind": "reinforce", "model.sequence": 128, "inner.batch": 64})
    model = skeleton("llama-15m", spec)
    for device in ("cpu", "cuda"):
        assert memory.writing(model, spec, device) < whole(model, spec, device)
    need = memory.writing(model, spec, "cpu")
    memory.check_writing(model, spec, "cpu", need)
    with pytest.raises(OutOfMemory, match=r"write answers with .* takes about"):
        memory.check_writing(model, spec, "cpu", need - 1)
    assert "--answers-only" in memory.instead(model, spec, "cpu", need)
    assert not memory.instead(model, spec, "cpu", need - 1)
    text = override(RunSpec(), {"model.sequence": 128})
    assert not memory.instead(model, text, "cpu", 1e12)


def test_more_answers_at_once_take_more_memory():
    few, many = (
        override(
            RunSpec(), {"task.kind": "reinforce", "model.sequence": 128, "inner.batch": 512 * n}
        )
        for n in (1, 2)
    )
    model = skeleton("llama-1m", few)
    assert memory.writing(model, many, "cpu") > memory.writing(model, few, "cpu")


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
