"""Where states are kept changes nothing: they lie in main memory while a device computes with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import commands
from fixtures.learning import Given
from fixtures.tiny import CONFIG
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig

from duckweed.learn import memory
from duckweed.learn.fit import Fit, Wish
from duckweed.learn.learner import Part
from duckweed.learn.memory import OutOfMemory, check_memory, in_main, whole
from duckweed.learn.model import model as models
from duckweed.learn.model import network
from duckweed.learn.single import SingleDevice
from duckweed.learn.tasks.text import TOKENS
from duckweed.run.sections import Inner, Rounds
from duckweed.run.spec import RunSpec, override

BATCH, STEPS = 4, 3
WINDOWS = [np.random.default_rng(3).integers(0, 50, (BATCH, 17)) for _ in range(STEPS)]
WHOLE = Part(0, 0, STEPS)
HERE, AWAY = Fit(BATCH, True), Fit(BATCH, True, offload=True)
CUDA = "cuda"


def single(optimizer="muon", kind=SingleDevice, **changes):
    inner = Inner(optimizer=optimizer, schedule="constant", warmup=0, precision="fp32", batch=BATCH)
    config = AutoConfig.for_model(**(CONFIG | {"vocab_size": 50} | changes))
    return kind(RunSpec(inner=inner, rounds=Rounds(count=100)), config, Given(WINDOWS), "cpu")


def fitted(way, *args, **changes):
    one = single(*args, **changes)
    one.fit([way], lambda text: None)
    return one


def two_rounds(one, start):
    """Weights, losses and moments after two rounds, of which the second begins with the moments of the first."""
    losses = []
    first = one.train(start, WHOLE, report=lambda step, loss: losses.append(loss), keep=True)
    second = one.train(one.weights(), WHOLE, first.optimizer, keep=True)
    return one.weights(), [*losses, second.loss], second.optimizer


def same(ones, others):
    assert ones[0].tobytes() == others[0].tobytes()
    assert ones[1] == others[1]
    assert {k: v.tobytes() for k, v in ones[2].items()} == {
        k: v.tobytes() for k, v in others[2].items()
    }


@pytest.mark.parametrize("optimizer", ["muon", "normuon", "adamw", "lion"])
@pytest.mark.parametrize("tied", [False, True])
def test_states_in_main_memory_give_the_same_bits(optimizer, tied):
    here, away = (fitted(way, optimizer, tie_word_embeddings=tied) for way in (HERE, AWAY))
    start = here.weights().copy()
    same(two_rounds(away, start), two_rounds(here, start))
    assert away.evaluate(start, None) == here.evaluate(start, None)


def test_a_loss_in_parts_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(network, "LOGITS", 4 * 50 * 10)  # of 10 positions at once
    here, away = fitted(HERE), fitted(AWAY)
    start = here.weights().copy()
    same(two_rounds(away, start), two_rounds(here, start))


def test_micro_batches_with_states_in_main_memory_give_the_step_up_to_rounding():
    here, away = fitted(HERE), fitted(Fit(1, True, offload=True))
    start = here.weights().copy()
    ones, others = two_rounds(away, start), two_rounds(here, start)
    assert np.linalg.norm(ones[0] - others[0]) <= 1e-5 * np.linalg.norm(others[0])


def test_a_device_that_runs_out_in_mid_run_goes_on_with_its_states_in_main_memory():
    class Small(SingleDevice):
        passes = 0

        def loss(self, batch):
            self.passes += 1
            if self.passes == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().loss(batch)

    reference, small, said = fitted(HERE), single(kind=Small), []
    small.fit([HERE, AWAY], said.append)
    start = reference.weights().copy()
    work, right = (one.train(start, WHOLE, keep=True) for one in (small, reference))
    assert work.delta.tobytes() == right.delta.tobytes()
    assert work.optimizer.keys() == right.optimizer.keys()
    assert said[-1].endswith("and all states in main memory")


class Apart(TorchDispatchMode):
    """Inside, nothing is computed with these tensors; they are copied, and gradients are added up beside them."""

    def __init__(self, home):
        super().__init__()
        self.home, self.copied = {x.untyped_storage().data_ptr() for x in home}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x for x in args if isinstance(x, torch.Tensor)]
        if any(x.untyped_storage().data_ptr() in self.home for x in given):
            assert func in (torch.ops.aten._to_copy.default, torch.ops.aten.detach.default), func
            self.copied += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_forward_and_backward_pass_compute_only_with_what_was_brought(monkeypatch):
    monkeypatch.setattr(network, "LOGITS", 4 * 50 * 10)
    one = fitted(AWAY)
    one.train(one.weights(), WHOLE)
    with Apart([*one.model.parameters(), *one.model.buffers()]) as apart:
        one._gradients({TOKENS: WINDOWS[0]}, 0)
    layers = [*one.model.model.layers]
    of_layers = len({p for layer in layers for p in layer.parameters()})
    outside = len([*one.model.parameters(), *one.model.buffers()]) - of_layers
    assert apart.copied == 2 * of_layers + outside
    assert {p.grad.untyped_storage().data_ptr() for p in one.model.parameters()}.isdisjoint(
        apart.home
    )


def test_on_an_accelerator_every_operation_finds_its_operands_on_one_device(tmp_path):
    done = commands.run([], tmp_path, module="fixtures.accelerator")
    assert done.returncode == 0, done.stderr
    assert "every operation found its operands on one device" in done.stdout


def spec_of(source, **changes):
    spec = override(RunSpec(), {"model.source": source} | changes)
    return spec, models.skeleton(models.configuration(source, Path(), 257, spec.model.sequence))


def test_auto_takes_main_memory_where_no_other_way_fits_the_device(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 10**12)
    spec, model = spec_of("llama-125m")
    least = whole(model, spec, CUDA, Fit(1, True))
    assert whole(model, spec, CUDA, Fit(1, True, offload=True)) < least / 2
    tight = Wish(room=int(0.45 * least), main=in_main(model, spec))
    assert memory.ways(model, spec, CUDA, tight)[0].offload
    for enough in (Wish(room=10**12, main=10**12), Wish(room=int(0.45 * least), main=10**8)):
        assert not memory.ways(model, spec, CUDA, enough)[0].offload
    assert all(
        way.offload
        for way in memory.ways(model, spec, CUDA, Wish(None, 10**12, main=10**12, offload=True))
    )
    assert not any(
        way.offload for way in memory.ways(model, spec, "cpu", Wish(room=1, main=10**12))
    )


@pytest.mark.parametrize(
    ("device", "wish", "says"),
    [
        (CUDA, Wish(main=10**9, offload=True), r"takes about 4\.\d+ GB .* 1 GB are there"),
        ("cpu", Wish(main=10**12, offload=True), "cpu computes in main memory as it is"),
        (CUDA, Wish(main=10**12, offload=True, processes=2), "share out the model instead"),
    ],
)
def test_states_that_cannot_go_to_main_memory_are_refused_with_what_to_do(
    monkeypatch, device, wish, says
):
    monkeypatch.setattr(memory, "available", lambda device: 10**12)
    spec, model = spec_of("llama-125m")
    with pytest.raises(OutOfMemory, match=f"--offload.*{says}.*leave"):
        check_memory(model, spec, device, 1, wish=wish)
