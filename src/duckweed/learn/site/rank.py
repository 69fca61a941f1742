"""What every rank of a site does with its share of a step."""

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from duckweed.learn.device import precision_for
from duckweed.learn.fit import Fit, Say
from duckweed.learn.memory import OutOfMemory
from duckweed.learn.model.model import build, hollow, layout_of
from duckweed.learn.model.network import Network
from duckweed.learn.optim.optimizer import InnerOptimizer, OptimizerState
from duckweed.learn.optim.registry import make_optimizer
from duckweed.learn.single import SingleDevice, parts, rows
from duckweed.learn.site.group import Group
from duckweed.learn.site.orders import Listed
from duckweed.learn.site.replicated import Replicated
from duckweed.learn.site.sharded import Sharded
from duckweed.learn.task import Batch
from duckweed.run.error_words import out_of_memory
from duckweed.run.spec import RunSpec


class Rank(SingleDevice):
    """A learner whose steps are a share of those of its group."""

    group: Group
    sharded: bool
    """Whether each rank has a part of the model only."""

    def build(self, spec: RunSpec, config: PretrainedConfig, ways: Sequence[Fit]) -> None:
        """The model, whole or its part, and how it is fitted into memory: as the first of the ways says."""
        group, self.spec, self.device = self.group, spec, self.group.device
        self.sharded = ways[0].sharded
        self._ways = [way for way in ways if way.sharded == self.sharded]
        assert group.size == ways[0].processes
        self.dtype = precision_for(self.device, spec.inner.precision)
        self.spread: Replicated | Sharded
        if self.sharded:
            self.model = hollow(config, self.device)
            self.layout = layout_of(self.model)
            self.spread = Sharded(self.model, self.device)
        else:
            self.model = build(config, self.device)
            self.layout = layout_of(self.model)
            self.spread = Replicated(self.model)
        self.model.config.use_cache = False  # type: ignore[union-attr]
        with torch.no_grad():
            self.network = self.spread.inside(lambda: Network(self.model, self.device, self.dtype))
        self.spread.apart()
        self._take()

    def compile(self, say: Say) -> None:
        say("--compile: a site of several processes is not compiled; it trains as without")

    def begin(self, listed: list[Listed], state: OptimizerState | None) -> InnerOptimizer:
        """The optimizer with the state that it begins with. state: on rank 0, where it is used up."""
        stepper = make_optimizer(self.model, self.spec.inner)
        self.spread.prepare(stepper)
        parameters = dict(self.model.named_parameters())
        for one in listed:
            if state is None:
                value = torch.empty(one.shape, dtype=getattr(torch, one.dtype), device=self.device)
            else:
                value = torch.from_numpy(state.pop(one.name)).to(self.device)
            stepper.take(one.name, self.spread.spread(value), parameters)
        return stepper

    def gradients(self, batch: Batch) -> torch.Tensor:
        """Mean loss of a whole step, whose gradients are then in the models, or the parts, of all ranks. Raises
        OutOfMemory."""
        whole = self.objective.count(batch)
        own = self._in_step(batch, whole) if self.sharded else self._fitted(self._own(batch), whole)
        return self.spread.reduce(own)

    def measured(self, batch: Batch) -> torch.Tensor:
        """What the task measures of a held-out batch, of which each rank takes its share; sharded."""
        own, whole = self._own(batch), self.objective.count(batch)
        count = self.objective.count(own) if rows(own) else 0
        inputs = dict(self._moved(own if count else self._filler(batch)))
        value = self.spread.inside(lambda: self.objective.measure(self.network, inputs))
        self.spread.apart()
        return self.spread.reduce(value.detach().float() * (count / whole))

    def _own(self, batch: Batch) -> Batch:
        """The share of this rank; it may be empty."""
        return list(parts(batch, self.group.size))[self.group.rank]

    def _in_step(self, batch: Batch, whole: int) -> torch.Tensor:
        """As `_accumulated`, where ranks gather layers together, and so must pass the same number of times: one that has
        nothing left passes sequences that weigh nothing."""
        size, micro = self.group.size, self._ways[0].micro
        passes = max(-(-rows(part) // micro) for part in parts(batch, size))
        total = torch.zeros((), device=self.device)
        try:
            for part in parts(self._own(batch), passes):
                count = self.objective.count(part) if rows(part) else 0
                # FSDP2 divides gradients by the number of ranks.
                weight = count / whole * size if whole else 0.0
                loss = self.loss(part if count else self._filler(batch)) * weight
                loss.backward()
                total += loss.detach() / size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemory(
                f"{self.device} ran out of memory with {self._ways[0]}; close other programs, or give a smaller --micro"
            ) from error
        return total

    def _filler(self, batch: Batch) -> Batch:
        """A sequence of the batch in which anything counts."""
        every = list(parts(batch, rows(batch)))
        return next((one for one in every if self.objective.count(one)), every[0])

    def loss(self, batch: Batch) -> torch.Tensor:
        return self.spread.inside(lambda: super(Rank, self).loss(batch))
