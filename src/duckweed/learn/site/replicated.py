"""A model that each rank of a site has whole: plain data parallelism."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from duckweed.learn.model.model import read_weights, write_weights
from duckweed.learn.optim.optimizer import InnerOptimizer

T = TypeVar("T")
BUCKET = 1 << 23  # numbers of gradients that are added up over the ranks at once


class Replicated:
    """After every step all ranks have the same weights, since all make the same step with the same gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def inside(self, work: Callable[[], T]) -> T:
        """Compute with the model."""
        return work()

    def apart(self) -> None:
        """Nothing to do: the model is whole at all times."""

    def load(self, weights: np.ndarray | None) -> None:
        """Weights f32[P] of rank 0 into the models of all; None: of another rank."""
        if weights is not None:
            write_weights(self.model, weights)
        for parameter in self.model.parameters():
            dist.broadcast(parameter.data, 0)

    def read(self) -> np.ndarray:
        return read_weights(self.model)

    def spread(self, value: torch.Tensor) -> torch.Tensor:
        """Part of the optimizer's state, as this rank keeps it. value: of rank 0; elsewhere only its shape counts."""
        dist.broadcast(value, 0)
        return value

    def whole(self, value: torch.Tensor) -> torch.Tensor:
        """The reverse."""
        return value

    def prepare(self, stepper: InnerOptimizer) -> None:
        """Nothing to do: the optimizer has whole matrices."""

    @torch.no_grad()
    def reduce(self, loss: torch.Tensor) -> torch.Tensor:
        """Add up gradients, and the losses, of all ranks. A parameter without a gradient here may have one
        elsewhere; without one anywhere it stays without, as in one process."""
        parameters = list(self.model.parameters())
        # On the CPU, so that the device need not be waited for.
        have = torch.tensor([int(p.grad is not None) for p in parameters])
        dist.all_reduce(have)
        dist.all_reduce(loss)
        bucket: list[torch.Tensor] = []
        for parameter, ranks in zip(parameters, have.tolist(), strict=True):
            if not ranks:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(g.numel() for g in bucket) >= BUCKET:
                _add_up(bucket)
                bucket = []
        _add_up(bucket)
        return loss


def _add_up(gradients: list[torch.Tensor]) -> None:
    """Over all ranks, in place."""
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
