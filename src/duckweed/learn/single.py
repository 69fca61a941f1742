"""The learner of one process and one device."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice, pairwise

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig

from duckweed.learn.compiled import tried_out
from duckweed.learn.device import precision_for, seeded
from duckweed.learn.fit import Fit, Say
from duckweed.learn.learner import Diverged, Learner, Part, Report, Work
from duckweed.learn.memory import OutOfMemory
from duckweed.learn.model.model import (
    build,
    layout_of,
    read_weights,
    set_buffers,
    write_weights,
)
from duckweed.learn.model.network import Network
from duckweed.learn.offload import HOME, Offloaded
from duckweed.learn.optim.optimizer import InnerOptimizer, OptimizerState
from duckweed.learn.optim.registry import make_optimizer, optimizer_of
from duckweed.learn.optim.schedule import learning_rate
from duckweed.learn.task import Batch, HoldsStart, Objective, Task, Writes
from duckweed.run.error_words import out_of_memory
from duckweed.run.spec import RunSpec

log = logging.getLogger(__name__)
REPORT = 0.25  # seconds between two reports where a report stops the device


class SingleDevice(Learner):
    """A model on a device, and the task that it is trained on."""

    _offloaded: Offloaded | None = None
    """The model, where its states are in main memory."""
    _at_work: InnerOptimizer | None = None
    """The optimizer of the part that is being trained."""

    def __init__(self, spec: RunSpec, config: PretrainedConfig, task: Task, device: str) -> None:
        self.spec, self.task, self.device = spec, task, device
        self.objective: Objective = task
        self.model = build(config, HOME, attention=device)  # to where it is kept in `_load`
        self.layout = layout_of(self.model)
        self.model.config.use_cache = False  # type: ignore[union-attr] # of keys and values, which no training step uses again
        self.dtype = precision_for(device, spec.inner.precision)
        self.network = Network(self.model, device, self.dtype)
        self._ways: list[Fit] = [Fit(spec.inner.batch)]  # the one in use, and those to fall back to
        self._say: Say = log.info

    def fit(self, ways: Sequence[Fit], say: Say) -> None:
        self._ways, self._say = list(ways), say
        self._take()
        if ways[0] != Fit(self.spec.inner.batch):
            say(f"the {self.spec.inner.batch} sequences of a step are trained in {ways[0]}")

    def compile(self, say: Say) -> None:
        if isinstance(self.task, Writes):
            say(
                "--compile: in reinforcement learning each step has other shapes; it trains as without"
            )
            return
        if self._ways[0].offload:
            say(
                "--compile: layers whose weights come and go are not compiled; it trains as without"
            )
            return
        say("compiling the layers; the first time this takes half a minute or more")
        say(tried_out(self.model, self._try_step))

    def _try_step(self) -> tuple[float, float]:
        """Loss of the run's first step, and the length of its gradient. Leaves no trace."""
        part = Part(0, 0, 1)
        with seeded(part.seed, self.device):
            self._load(self.weights(), True)
            loss = self._gradients(next(iter(self.task.batches(part, self.model))), 0).item()
            length = nn.utils.get_total_norm(
                [p.grad for p in self.model.parameters() if p.grad is not None]
            ).item()
            self.model.zero_grad(set_to_none=True)
        return loss, length

    @property
    def home(self) -> str:
        """The device on which weights, gradients and moments lie between two uses; `device` computes."""
        return HOME if self._ways[0].offload else self.device

    def fix(self, buffers: Mapping[str, torch.Tensor]) -> None:
        set_buffers(self.model, buffers)

    def hold(self, begin: Callable[[], nn.Module]) -> None:
        assert isinstance(self.task, HoldsStart)
        self.task.hold(begin)

    def weights(self) -> np.ndarray:
        return read_weights(self.model)

    def begin_round(self, carried: OptimizerState, merged: np.ndarray) -> OptimizerState:
        state, inner = super().begin_round(carried, merged), self.spec.inner
        optimizer_of(inner).begin_round(state, merged, self.layout, inner)
        return state

    def guess(self, begun: OptimizerState) -> OptimizerState:
        return optimizer_of(self.spec.inner).guess(begun)

    def correct(
        self, state: OptimizerState, guess: OptimizerState, right: OptimizerState, steps: range
    ) -> None:
        inner = self.spec.inner
        optimizer_of(inner).correct(state, guess, right, inner, steps)

    def train(
        self,
        weights: np.ndarray,
        part: Part,
        optimizer: OptimizerState | None = None,
        report: Report | None = None,
        keep: bool = False,
    ) -> Work:
        began, spec = time.perf_counter(), self.spec
        with seeded(part.seed, self.device):
            self._load(weights, True)
            losses, tokens = _Losses(self.device, report), 0
            with self._stepping(part.seed, optimizer or {}) as stepper:
                for steps, batch in enumerate(self.task.batches(part, self.model)):
                    number = part.number + steps
                    loss = self._gradients(batch, number)
                    stepper.step(learning_rate(spec.inner, number, spec.course), number)
                    tokens += self.task.count(batch)
                    losses.add(loss)
        mean = losses.mean()
        state = self._state(stepper) if keep else {}
        reached = self.weights()
        delta = np.subtract(weights, reached, out=reached)
        self._check(delta, "the weights")
        if (
            written := self.task.written
        ):  # all of it is work, also what nothing could be learnt from
            tokens, mean = written.tokens, 1 - written.reward / max(1, written.answers)
        seconds, rollouts = time.perf_counter() - began, self.task.rollouts
        return Work(delta, tokens, mean, seconds, state, written, rollouts)

    def write(self, weights: np.ndarray, part: Part, report: Report | None = None) -> Work:
        began = time.perf_counter()
        assert isinstance(self.task, Writes)
        self._load(weights, False)
        self.task.write(part, self.model, report)
        written, none = self.task.written, np.zeros(0, np.float32)
        assert written
        loss, seconds = 1 - written.reward / max(1, written.answers), time.perf_counter() - began
        return Work(none, written.tokens, loss, seconds, {}, written, self.task.rollouts)

    # --- the steps of `train`

    def _load(self, weights: np.ndarray, training: bool) -> None:
        """Weights f32[P] into the model, which is to be trained or only evaluated."""
        self.model.to(self.home)
        write_weights(self.model, weights)
        self.model.train(training)

    @contextmanager
    def _stepping(self, seed: int, state: OptimizerState) -> Iterator[InnerOptimizer]:
        """Inside, the optimizer of a part is known, so that its moments can be taken off the device."""
        self._at_work = self._stepper(seed, state)
        try:
            yield self._at_work
        finally:
            self._at_work = None

    def _stepper(self, seed: int, state: OptimizerState) -> InnerOptimizer:
        """The optimizer of a part, with the state that it begins with, which is used up. seed: of what is
        random in the part."""
        stepper = make_optimizer(self.model, self.spec.inner)
        if self._offloaded:
            self._offloaded.prepare(stepper)
        stepper.restore(state)
        return stepper

    def _state(self, stepper: InnerOptimizer) -> OptimizerState:
        return stepper.state()

    def _gradients(self, batch: Batch, number: int) -> torch.Tensor:
        """Mean loss of an inner step, whose gradients are then in the model. number: of the step, counted over
        the run. Raises OutOfMemory."""
        return self._fitted(batch, self.objective.count(batch))

    def _fitted(self, batch: Batch, whole: int) -> torch.Tensor:
        """The loss of a batch, or of a part of one in which `whole` tokens count, and its gradients. Falls back
        where the device runs out of memory, as long as there is a way: nothing was stepped yet."""
        while True:
            try:
                return self._accumulated(batch, self._ways[0].micro, whole)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                said = str(error).partition("\n")[0] or type(error).__name__
            # Only here, where the error and what its frames held are gone, is their memory free.
            self.model.zero_grad(set_to_none=True)
            self._fall_back(said)

    def _accumulated(self, batch: Batch, micro: int, whole: int) -> torch.Tensor:
        """Gradients of the parts of a batch, added up; each part weighs by its share of `whole` tokens."""
        total = torch.zeros((), device=self.device)
        for part in parts(batch, -(-rows(batch) // micro)):
            if count := self.objective.count(part):  # a mean over no tokens is no number
                total += self._inside(partial(self._passed, part, count / whole))
        return total

    def _passed(self, batch: Batch, weight: float) -> torch.Tensor:
        """Forward and backward pass; returns the loss, times `weight`."""
        loss = self.loss(batch) * weight
        loss.backward()
        return loss.detach()

    def _inside(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Compute with the model, wherever its weights are kept."""
        return self._offloaded.inside(work) if self._offloaded else work()

    def _take(self) -> None:
        if self._ways[0].offload:
            self._offload()
        elif self._ways[0].checkpoint:
            self.network.checkpoint()

    def _offload(self) -> None:
        """Keep weights and moments in main memory from now on."""
        if self._offloaded:
            return
        self._offloaded = Offloaded(self.model.to(HOME), self.device)
        if self._at_work:
            self._offloaded.prepare(self._at_work)

    def _fall_back(self, said: str) -> None:
        failed = self._ways[0]
        if len(self._ways) == 1:
            raise OutOfMemory(
                f"{self.device} ran out of memory with {failed} ({said}); close other programs, or give "
                "a smaller --micro, or auto"
            )
        del self._ways[0]
        self._take()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self._say(
            f"{self.device} ran out of memory with {failed}; the step is trained again, and all steps "
            f"from now on, in {self._ways[0]}"
        )

    @torch.no_grad()
    def evaluate(
        self,
        weights: np.ndarray,
        limit: int | None,
        share: int = 0,
        shares: int = 1,
        batch: int = 8,
    ) -> tuple[float, int]:
        self._load(weights, False)
        nats, tokens = 0.0, 0
        for part in islice(self.task.held_out(limit, batch), share, None, shares):
            count = self.task.count(part)
            nats += self._inside(partial(self.measure, part)).item() * count
            tokens += count
        if not math.isfinite(nats):
            self._check(weights, "the weights that are evaluated")
            raise Diverged(f"the loss of held-out text is {nats}; lower inner.learning_rate")
        return nats, tokens

    def _check(self, values: np.ndarray, what: str) -> None:
        """Raises Diverged with the name of the first tensor of f32[P] that is not finite."""
        if np.isfinite(values).all():
            return
        parts = zip(self.layout.names, self.layout.slices(), strict=True)
        name = next(name for name, part in parts if not np.isfinite(values[part]).all())
        raise Diverged(f"{what} became NaN or infinite in {name}; lower inner.learning_rate")

    def loss(self, batch: Batch) -> torch.Tensor:
        """The task's mean loss of a batch, with the weights that the model has."""
        return self.objective.loss(self.network, dict(self._moved(batch)))

    def measure(self, batch: Batch) -> torch.Tensor:
        """What the task measures of a held-out batch, likewise."""
        return self.objective.measure(self.network, dict(self._moved(batch)))

    def _moved(self, batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
        for name, array in batch.items():
            tensor = torch.from_numpy(array)
            if self.device.startswith(
                "cuda"
            ):  # from pageable memory the copy would wait for the device
                tensor = tensor.pin_memory()
            yield name, tensor.to(self.device, non_blocking=True)


def rows(batch: Batch) -> int:
    """How many sequences a batch has."""
    return len(next(iter(batch.values())))


def parts(batch: Batch, count: int) -> Iterator[Batch]:
    """The batch in `count` parts, as even as they can be."""
    edges = [rows(batch) * n // max(1, count) for n in range(count + 1)]
    for first, last in pairwise(edges):
        yield {name: array[first:last] for name, array in batch.items()}


class _Losses:
    """The losses of the steps so far. They stay on the device until a report is due: reading one
    waits for the device, which would then have nothing to do while the next step is prepared."""

    def __init__(self, device: str, report: Report | None) -> None:
        self.report = report
        self.every = 0.0 if device == "cpu" else REPORT
        self.total, self.steps, self.reported = 0.0, 0, 0
        self.told = -math.inf  # the first step is reported at once
        self.pending: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor) -> None:
        self.pending.append(loss)
        if self.report and time.perf_counter() - self.told >= self.every:
            self._tell()

    def mean(self) -> float:
        """Mean of all steps, after a last report. Raises Diverged."""
        self._read()
        if not np.isfinite(self.total):
            raise Diverged(
                f"the loss became {self.total} within {self.steps} steps; lower inner.learning_rate"
            )
        if self.report and self.reported < self.steps:
            self._tell()
        return self.total / max(1, self.steps)

    def _read(self) -> None:
        if self.pending:
            for value in torch.stack(self.pending).tolist():  # one transfer, added in their order
                self.total += value
            self.steps += len(self.pending)
            self.pending.clear()

    def _tell(self) -> None:
        self._read()
        assert self.report is not None
        self.report(self.steps, self.total / self.steps)
        self.reported, self.told = self.steps, time.perf_counter()
