"""The learner of rank 0 of a site: what a round calls, told to the other ranks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec
import numpy as np
import torch
from transformers import PretrainedConfig

from duckweed.learn import registry
from duckweed.learn.fit import Fit, Say
from duckweed.learn.learner import Diverged, Part, Report, Work
from duckweed.learn.model.architecture import ModelError
from duckweed.learn.optim.optimizer import InnerOptimizer, OptimizerState, array_of
from duckweed.learn.site.group import Group, SiteBroken
from duckweed.learn.site.orders import (
    Begin,
    Build,
    End,
    Fix,
    Listed,
    Load,
    Measure,
    Read,
    State,
    Step,
)
from duckweed.learn.site.rank import Rank
from duckweed.learn.task import Batch, Task
from duckweed.run import toml
from duckweed.run.spec import RunSpec
from duckweed.run.task.work import writes

SHARDABLE = ("adamw", "lion", "muon", "normuon")
"""Inner optimizers that can work on parts of matrices; one of a user's own may not."""


class Leader(Rank):
    """`fit` is called first: only then is it known whether the model fits into the memory of each rank."""

    def __init__(self, group: Group, spec: RunSpec, config: PretrainedConfig, task: Task) -> None:
        self.group, self.config, self.spec = group, config, spec
        self.task = self.objective = task

    def fit(self, ways: Sequence[Fit], say: Say) -> None:
        spec, self._say = self.spec, say
        self.group.sharded = ways[0].sharded
        if ways[0].sharded:
            _check_shardable(spec)
        with self._together():
            config = self.config.to_json_string(use_diff=False)
            self.group.tell(Build(toml.write(spec), config, list(ways)))
            self.build(spec, self.config, ways)
        say(f"{self.group}: the {spec.inner.batch} sequences of a step are trained in {ways[0]}")

    def fix(self, buffers: Mapping[str, torch.Tensor]) -> None:
        arrays = {name: x.numpy() for name, x in buffers.items()}
        with self._together():
            self.group.tell(Fix(_listed(arrays)), arrays)
            super().fix(buffers)

    def weights(self) -> np.ndarray:
        if self.sharded:
            with self._together():
                self.group.tell(Read())
                return self.spread.read()
        return self.spread.read()

    def train(
        self,
        weights: np.ndarray,
        part: Part,
        optimizer: OptimizerState | None = None,
        report: Report | None = None,
        keep: bool = False,
    ) -> Work:
        stopped: list[BaseException] = []

        def told(steps: int, loss: float) -> None:
            try:
                report(steps, loss)  # type: ignore[misc]
            except BaseException as error:
                stopped.append(error)
                raise

        with self._together(stopped):
            return super().train(weights, part, optimizer, told if report else None, keep)

    def evaluate(
        self,
        weights: np.ndarray,
        limit: int | None,
        share: int = 0,
        shares: int = 1,
        batch: int = 8,
    ) -> tuple[float, int]:
        with self._together():
            return super().evaluate(weights, limit, share, shares, batch)

    def measure(self, batch: Batch) -> torch.Tensor:
        """Alone where this rank has the whole model."""
        if not self.sharded:
            return super().measure(batch)
        self.group.tell(Measure(_listed(batch)), batch)
        return self.measured(batch)

    # --- the steps of `train`

    def _load(self, weights: np.ndarray, training: bool) -> None:
        if training or self.sharded:
            self.group.tell(Load(training))
            self.spread.load(weights)
            self.model.train(training)
        else:
            super()._load(weights, training)

    def _stepper(self, seed: int, state: OptimizerState) -> InnerOptimizer:
        listed = _listed(state)
        self.group.tell(Begin(seed, listed))
        return self.begin(listed, state)

    def _gradients(self, batch: Batch, number: int) -> torch.Tensor:
        self.group.tell(Step(number, _listed(batch)), batch)
        return self.gradients(batch)

    def _state(self, stepper: InnerOptimizer) -> OptimizerState:
        if not self.sharded:
            return super()._state(stepper)
        self.group.tell(State())
        return {name: array_of(self.spread.whole(value)) for name, value in stepper.kept()}

    @contextmanager
    def _together(self, stopped: Sequence[BaseException] = ()) -> Iterator[None]:
        """Raises SiteBroken in place of what a collective says when another rank is gone. stopped: errors that come
        between two orders, after which the others wait for the next one."""
        group = self.group
        with group.lock:
            if group.torn:
                raise SiteBroken(group.pulse.lost or "a step of this site was given up halfway")
            yield from self._guarded(stopped)

    def _guarded(self, stopped: Sequence[BaseException]) -> Iterator[None]:
        group = self.group
        try:
            yield
        except BaseException as error:
            if isinstance(error, Diverged) or error in stopped:
                raise
            group.torn = True
            if isinstance(error, RuntimeError) and (broken := group.broken(error)):
                group.pulse.lost = group.pulse.lost or str(broken)
                raise broken from error
            raise


def _check_shardable(spec: RunSpec) -> None:
    if writes(spec):
        raise ModelError(
            "a model that writes answers cannot be sharded over processes yet; without --shard each process needs "
            "memory for all of it"
        )
    if spec.inner.optimizer not in SHARDABLE:
        raise ModelError(
            f"the inner optimizer {spec.inner.optimizer!r} is not known to work on a sharded model; without --shard each "
            "process needs memory for all of it"
        )


def _listed(arrays: Mapping[str, np.ndarray]) -> list[Listed]:
    return [
        msgspec.convert({"name": name, "dtype": str(x.dtype), "shape": x.shape}, Listed)
        for name, x in arrays.items()
    ]


@contextmanager
def leading(group: Group) -> Iterator[None]:
    """Inside, the learners of this process train with the whole group; afterwards the others are told to end."""

    def make(spec: RunSpec, config: PretrainedConfig, task: Task, device: str) -> Leader:
        return Leader(group, spec, config, task)

    with registry.instead("site", make):
        try:
            yield
        finally:
            if not group.torn and not group.pulse.lost:
                with suppress(RuntimeError):
                    group.tell(End())
