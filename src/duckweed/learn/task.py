"""The task: how a block becomes batches and a loss, and how its work is counted.

A conversation (chat.py) has a mask beside its tokens, and its `count` is the number of targets in the mask.
Reinforcement learning (reinforce.py) samples from the model, which holds the round's weights when the
first batch is asked for, and its loss reads the rewards in its batches.
The bounds of a count that the coordinator can check are in duckweed.run.task.work.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from duckweed.learn.learner import Part, Report
from duckweed.run.task.rollouts import Rollouts
from duckweed.run.task.written import Written

Batch = dict[str, np.ndarray]
"""Arrays by name, all of the same first dimension: the sequences of an inner step."""


class Forward(Protocol):
    """The model in the learner's precision (duckweed.learn.model.network)."""

    model: nn.Module

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Called with keyword arguments as a transformers model is."""
        ...

    def loss(self, targets: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy, nats, of next tokens int64[b, l]; logits are never all held at once."""
        ...

    def nats(
        self, targets: torch.Tensor, temperature: float = 1.0, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """The same of each token by itself, f32[b, l], of the logits divided by the temperature."""
        ...


class Objective(Protocol):
    """What of a task needs no data: the loss of a batch. It follows from the specification alone."""

    def loss(self, forward: Forward, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean loss, per token that `count` counts, of a batch or a part of one."""
        ...

    def measure(self, forward: Forward, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean of what is measured on a held-out batch; not negative, and less is better."""
        ...

    def count(self, batch: Batch) -> int:
        """Tokens of a batch, or of a part of one, that the loss is taken over."""
        ...


class Task(Objective, Protocol):
    """A pure function of the specification, the data and the block (and the weights, where it samples)."""

    @property
    def sequences(self) -> int:
        """How many different sequences there are to train on."""
        ...

    def check(self, needed: int) -> None:
        """Raises DataError where that is fewer than are needed at once, or nothing is held out."""
        ...

    written: Written | None
    """What the model wrote for the batches that were made last; None: it writes nothing."""
    rollouts: Rollouts | None
    """The same in full."""

    def batches(self, part: Part, model: nn.Module) -> Iterator[Batch]:
        """At most one batch for each step of the part; each is asked for after the step before is done."""
        ...

    def held_out(self, limit: int | None, batch: int) -> Iterator[Batch]:
        """About `limit` held-out tokens (None: all), always the same, `batch` sequences at a time."""
        ...


@runtime_checkable
class Writes(Protocol):
    """A task whose batches are made of what the model writes."""

    def write(self, part: Part, model: nn.Module, report: Report | None = None) -> None:
        """Write all that `batches` would, and note it; report: as of Learner.write."""
        ...


@runtime_checkable
class HoldsStart(Protocol):
    """A task whose loss asks what the weights say that the run began from."""

    def hold(self, begin: Callable[[], nn.Module]) -> None:
        """As of Learner.hold."""
        ...
