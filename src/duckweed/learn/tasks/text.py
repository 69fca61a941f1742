"""Next-token prediction over windows of text."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from duckweed.learn.data.dataset import (
    Dataset,
    batch,
    check_size,
    held_out_batches,
    sequences,
)
from duckweed.learn.learner import Part
from duckweed.learn.task import Batch, Forward
from duckweed.run.spec import RunSpec
from duckweed.run.task.rollouts import Rollouts
from duckweed.run.task.written import Written

TOKENS = "tokens"  # int64[b, length + 1]: inputs [:, :-1], targets [:, 1:]
SKIPPED = "skipped"  # int64[b], held-out sequences of a family: first targets that are not measured


class TextLoss:
    """Its loss. Needs no data."""

    def loss(self, forward: Forward, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean nats per target."""
        tokens = batch[TOKENS]
        return forward.loss(tokens[:, 1:], input_ids=tokens[:, :-1])

    def measure(self, forward: Forward, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The same of the targets that are measured: of a family those after the prefix, by which its sequences
        are routed and which therefore says nothing of how well they are predicted."""
        if SKIPPED not in batch:
            return self.loss(forward, batch)
        tokens = batch[TOKENS]
        nats = forward.nats(tokens[:, 1:], input_ids=tokens[:, :-1])
        return nats[:, int(batch[SKIPPED][0]) :].mean()

    def count(self, batch: Batch) -> int:
        """Every token of a window but its first is a target."""
        sequences, length = batch[TOKENS].shape
        skipped = int(batch[SKIPPED].sum()) if SKIPPED in batch else 0
        return sequences * (length - 1) - skipped


class NextToken(TextLoss):
    """Batches are a pure function of the run's seed, the block and the step (docs/data.md)."""

    written: Written | None = None
    rollouts: Rollouts | None = None

    def __init__(self, spec: RunSpec, dataset: Dataset) -> None:
        self.spec, self.dataset = spec, dataset

    def batches(self, part: Part, model: nn.Module) -> Iterator[Batch]:
        """`inner.batch` windows of `model.sequence` targets for each step."""
        spec = self.spec
        for step in range(part.first, part.first + part.steps):
            windows = batch(
                self.dataset, spec.seed, part.block, step,
                spec.inner.steps, spec.inner.batch, spec.model.sequence,
            )  # fmt: skip
            yield {TOKENS: windows}

    def held_out(self, limit: int | None, batch: int) -> Iterator[Batch]:
        """Evenly spread held-out windows."""
        spec = self.spec
        for one in held_out_batches(self.dataset, spec.model.sequence, limit, batch):
            if spec.unmeasured:  # the first token of a window is no target
                yield {TOKENS: one, SKIPPED: np.full(len(one), spec.unmeasured - 1)}
            else:
                yield {TOKENS: one}

    @property
    def sequences(self) -> int:
        return sequences(self.dataset, self.spec.model.sequence)

    def check(self, needed: int) -> None:
        check_size(self.dataset, self.spec.model.sequence, needed)
