"""Conversations: the loss is taken over what the assistant says."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import nn

from duckweed.learn.data.dataset import DataError, Dataset, order, spread
from duckweed.learn.learner import Part
from duckweed.learn.task import Batch, Forward
from duckweed.learn.tasks.packing import IDS, LEARN, POSITIONS, Packed
from duckweed.run.spec import RunSpec
from duckweed.run.task.rollouts import Rollouts
from duckweed.run.task.sections import Chat
from duckweed.run.task.written import Written


class ChatLoss:
    """Its loss. Needs no data."""

    def __init__(self, spec: RunSpec) -> None:
        assert isinstance(spec.task, Chat)
        self.packing = spec.task.packing

    def loss(self, forward: Forward, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean nats per token that the assistant says."""
        learn = batch[LEARN][:, 1:]
        inputs: dict[str, Any] = {"input_ids": batch[IDS][:, :-1]}
        if self.packing:
            inputs["position_ids"] = batch[POSITIONS][:, :-1]
        nats = forward.nats(batch[IDS][:, 1:], **inputs)
        return (nats * learn).sum() / learn.sum()

    measure = loss

    def count(self, batch: Batch) -> int:
        return int(batch[LEARN][:, 1:].sum())


class Conversations(ChatLoss):
    """Batches of packed conversations, a pure function of seed, block and step. Positions begin anew with
    each conversation; transformers keeps what is before out of its attention by that."""

    written: Written | None = None
    rollouts: Rollouts | None = None

    def __init__(self, spec: RunSpec, dataset: Dataset) -> None:
        super().__init__(spec)
        assert dataset.marks is not None
        self.spec, self.dataset = spec, dataset
        self.end = dataset.tokenizer.end

    @cached_property
    def _train(self) -> Packed:
        return self._packed(0)

    @cached_property
    def _held_out(self) -> Packed:
        return self._packed(1)

    def _packed(self, side: int) -> Packed:
        tokens = (self.dataset.train, self.dataset.held_out)[side]
        assert self.dataset.marks is not None
        marks = self.dataset.marks[side]
        return Packed(tokens, marks, self.spec.model.sequence, self.packing)

    @property
    def sequences(self) -> int:
        return len(self._train)

    def check(self, needed: int) -> None:
        """Raises DataError if an inner step of all peers needs more sequences than there are."""
        if self.sequences < needed:
            raise DataError(
                f"data: the conversations fill {self.sequences} sequences of {self.spec.model.sequence} tokens, "
                f"but {needed} are needed at once; give more of them, or lower the batch size or the number "
                "of peers"
            )

    def batches(self, part: Part, model: nn.Module) -> Iterator[Batch]:
        inner, seed = self.spec.inner, self.spec.seed
        for step in range(part.first, part.first + part.steps):
            chosen = order(self.sequences, seed, part.block, step, inner.steps, inner.batch)
            yield self._train.batch(chosen, self.end)

    def held_out(self, limit: int | None, batch: int) -> Iterator[Batch]:
        rows = count = len(self._held_out)
        if limit is not None:
            count = min(rows, max(1, limit // self.spec.model.sequence))
        for chosen in spread(rows, count, batch):
            yield self._held_out.batch(chosen, self.end)
