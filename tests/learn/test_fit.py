"""How a step is fitted into memory changes nothing but rounding, and a device that runs out loses nothing."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.learning import Given
from fixtures.tiny import CONFIG
from transformers import AutoConfig

from duckweed.learn import memory
from duckweed.learn.fit import Fit, MicroError, Wish, read_micro, ways
from duckweed.learn.learner import Part
from duckweed.learn.memory import OutOfMemory, check_memory, whole
from duckweed.learn.model import model as models
from duckweed.learn.single import SingleDevice
from duckweed.learn.tasks.text import TOKENS
from duckweed.run.sections import Inner, Rounds
from duckweed.run.spec import RunSpec, override

BATCH, STEPS = 6, 3
RNG = np.random.default_rng(3)
WINDOWS = [RNG.integers(0, 50, (BATCH, 17)) for _ in range(STEPS)]
WHOLE = Part(0, 0, STEPS)
# One weight vector for all: AdamW's first steps divide by a gradient's own size, which magnifies
# rounding where a gradient is almost zero; Muon and clipping do not.
INNER = Inner(optimizer="muon", schedule="constant", warmup=0, precision="fp32", batch=BATCH)


class Small(SingleDevice):
    """A device on which more than `most` sequences at a time do not fit, from forward pass `since` on."""

    most, since = BATCH, 0

    def loss(self, batch):
        self.passes = getattr(self, "passes", 0) + 1
        if self.passes > self.since and len(batch[TOKENS]) > self.most:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd more."
            )
        return super().loss(batch)


def single(kind=SingleDevice, inner=INNER):
    config = AutoConfig.for_model(**(CONFIG | {"vocab_size": 50}))
    spec = RunSpec(inner=inner, rounds=Rounds(count=100))
    return kind(spec, config, Given(WINDOWS), "cpu")


def trained(one, start):
    losses = []
    work = one.train(start, WHOLE, report=lambda step, loss: losses.append(loss))
    return one.weights().copy(), np.array(losses), work


@pytest.fixture(scope="module")
def start():
    return single().weights().copy()


def close(a, b):
    return np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


@pytest.mark.parametrize("micro", [1, 2, 4, 5])
def test_micro_batches_give_the_step_of_the_whole_batch_up_to_rounding(start, micro):
    reference, parts = single(), single()
    parts.fit([Fit(micro)], lambda text: None)
    weights, losses, work = trained(reference, start)
    again, said, done = trained(parts, start)
    assert np.allclose(said, losses, rtol=1e-5, atol=0)
    assert close(again, weights)
    assert done.tokens == work.tokens


def test_a_micro_batch_of_the_whole_batch_gives_the_same_bits(start):
    reference, parts, said = single(), single(), []
    parts.fit(ways(Wish(micro=64), BATCH), said.append)
    assert trained(parts, start)[0].tobytes() == trained(reference, start)[0].tobytes()
    assert not said


def test_a_device_that_runs_out_in_mid_run_trains_the_step_again_in_smaller_parts(start):
    small, reference, said = single(Small), single(), []
    small.most, small.since = 2, 1  # the first step still passes
    small.fit(ways(Wish(), BATCH), said.append)
    weights, losses, _ = trained(reference, start)
    again, told, work = trained(small, start)
    assert work.tokens == STEPS * BATCH * 16
    assert close(again, weights)
    assert np.allclose(told, losses, rtol=1e-5, atol=0)
    assert "ran out of memory with micro-batches of 6 sequences" in said[0]
    assert said[-1].endswith("in micro-batches of 2 sequences")
    before = len(said)
    trained(small, start)  # it stays there, and does not run out again
    assert len(said) == before


def test_a_micro_batch_of_ones_own_that_does_not_fit_is_refused_with_what_to_do(start):
    small = single(Small)
    small.most = 2
    small.fit(ways(Wish(micro=3), BATCH), lambda text: None)
    with pytest.raises(OutOfMemory, match=r"ran out of memory with micro-batches of 3 .*--micro"):
        small.train(start, WHOLE)
    assert not any(p.grad is not None for p in small.model.parameters())


def test_another_error_is_no_reason_to_fall_back(start):
    class Broken(SingleDevice):
        def loss(self, batch):
            raise RuntimeError("a kernel is missing")

    broken = single(Broken)
    broken.fit(ways(Wish(), BATCH), lambda text: None)
    with pytest.raises(RuntimeError, match="a kernel is missing"):
        broken.train(start, WHOLE)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16, 100])
def test_the_ways_begin_with_the_whole_batch_and_end_with_one_sequence(batch):
    found = [way.micro for way in ways(Wish(), batch, checkpoint=False)]
    assert (found[0], found[-1]) == (batch, 1)
    assert found == sorted(set(found), reverse=True)
    assert ways(Wish(), batch)[len(found) :] == [Fit(micro, True) for micro in found]
    assert all(2 * after >= before - 1 for before, after in pairwise(found))


def test_auto_takes_the_largest_micro_batch_that_is_predicted_to_fit():
    spec = override(RunSpec(), {"model.source": "llama-1m", "inner.batch": 64})
    model = models.skeleton(models.configuration("llama-1m", Path(), 257, 128))
    for wanted in (64, 22, 4, 1):
        room = whole(model, spec, "cpu", Fit(wanted))
        assert memory.ways(model, spec, "cpu", Wish(room=room))[0].micro == wanted
    (least,) = memory.ways(model, spec, "cpu", Wish(room=1))  # to be tried, if all else fails
    assert whole(model, spec, "cpu", least) == whole(model, spec, "cpu", Fit(1, True))


def test_auto_checkpoints_activations_where_single_sequences_do_not_fit():
    spec = override(RunSpec(), {"model.source": "llama-15m", "inner.batch": 4})
    model = models.skeleton(models.configuration("llama-15m", Path(), 257, 4096))
    spec = override(spec, {"model.sequence": 4096})
    needs = {way: whole(model, spec, "cpu", way) for way in ways(Wish(), 4)}
    found = memory.ways(model, spec, "cpu", Wish(room=needs[Fit(1)] - 1))
    assert found[0].checkpoint
    # Each way to fall back to needs less than the one before.
    order = [needs[way] for way in memory.ways(model, spec, "cpu", Wish(room=1 << 60))]
    assert order == sorted(set(order), reverse=True)
    # A number that was given stays, and its activations are computed again if that is what helps.
    room = needs[Fit(2, True)]
    assert memory.ways(model, spec, "cpu", Wish(2, room)) == [Fit(2, True)]


def test_a_model_that_cannot_compute_activations_again_is_not_asked_to():
    spec = RunSpec()
    model = models.skeleton(models.configuration("llama-1m", Path(), 257, 128))
    model.supports_gradient_checkpointing = False
    assert not any(way.checkpoint for way in memory.ways(model, spec, "cpu", Wish(room=1)))


def test_a_micro_batch_that_cannot_fit_is_refused_with_one_that_does(monkeypatch):
    spec = override(RunSpec(), {"model.source": "llama-1m", "inner.batch": 64})
    model = models.skeleton(models.configuration("llama-1m", Path(), 257, 128))
    there = whole(model, spec, "cpu", Fit(1, True))
    monkeypatch.setattr(memory, "available", lambda device: 2 * there)
    check_memory(model, spec, "cpu", 2)
    check_memory(model, spec, "cpu", 2, wish=Wish(micro=1))
    with pytest.raises(
        OutOfMemory, match=r"micro-batches of 32 .*(\d) at a time fit: --micro \1, or"
    ):
        check_memory(model, spec, "cpu", 2, wish=Wish(micro=32))


def test_what_is_no_number_of_sequences_is_refused_with_how_to_write_it():
    assert read_micro("auto") is None
    assert read_micro("12") == 12
    for text in ("0", "-1", "1.5", "all"):
        with pytest.raises(MicroError, match="1 or more, or auto"):
            read_micro(text)
