"""A model of which each rank of a site has a part: torch's FSDP2 (`fully_shard`).

Weights, gradients and moments are DTensors, cut along their first dimension; a layer is whole only while it is
computed. Element-wise optimizers and clipping work on DTensors as they are. Muon needs whole matrices: those of one
shape are dealt out over the ranks, and each makes its own orthogonal.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from duckweed.learn.model.model import layers_of
from duckweed.learn.optim.muon import Muon
from duckweed.learn.optim.optimizer import InnerOptimizer

INITIAL = 0.02  # deviation of the numbers that a model has before its weights come
T = TypeVar("T")


class _Root(nn.Module):
    """Outermost: whatever is computed inside of it, also in parts, finds the parameters outside of the layers whole."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], T]) -> T:
        return work()


class Sharded:
    """model: hollow (duckweed.learn.model.model.hollow); it gets memory for its parts here."""

    def __init__(self, model: nn.Module, device: str) -> None:
        self.model, self.device = model, device
        self.mesh = init_device_mesh(device.partition(":")[0], (dist.get_world_size(),))
        self.size = self.mesh.size()
        buffers = {name: x.clone() for name, x in model.named_buffers()}
        for layer in layers_of(model):
            fully_shard(layer, mesh=self.mesh)
        self.root = _Root(model)
        fully_shard(self.root, mesh=self.mesh)
        self.root.to_empty(device=device)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
            for parameter in model.parameters():
                _local(parameter).normal_(0, INITIAL)

    def inside(self, work: Callable[[], T]) -> T:
        """Compute with the model. Every rank must do so at the same time."""
        return cast(T, self.root(work))

    def apart(self) -> None:
        """Let go of what was made whole, where no backward pass has done so."""
        cast(FSDPModule, self.root).reshard()

    @torch.no_grad()
    def load(self, weights: np.ndarray | None) -> None:
        """Weights f32[P] of rank 0 into the parts of all; None: of another rank."""
        self.apart()
        start = 0
        for parameter in self.model.parameters():
            shape, count = parameter.shape, parameter.numel()
            if weights is None:
                value = torch.empty(shape, device=self.device)
            else:
                value = torch.from_numpy(weights[start : start + count]).view(shape).to(self.device)
            _local(parameter).copy_(_local(self.spread(value)))
            start += count

    @torch.no_grad()
    def read(self) -> np.ndarray:
        """All weights, f32[P], gathered by all ranks; only on rank 0 is anything kept."""
        kept = [torch.empty(0)]
        for parameter in self.model.parameters():
            whole = self.whole(parameter)
            if dist.get_rank() == 0:
                kept.append(whole.reshape(-1).cpu())
        return torch.cat(kept).numpy()

    def spread(self, value: torch.Tensor) -> torch.Tensor:
        """Part of the optimizer's state, as this rank keeps it. value: of rank 0; elsewhere only its shape counts."""
        if value.ndim == 0:
            dist.broadcast(value, 0)
            return value
        return distribute_tensor(value, self.mesh, [Shard(0)])

    def whole(self, value: torch.Tensor) -> torch.Tensor:
        """The reverse, gathered by all ranks."""
        return value.full_tensor().detach() if isinstance(value, DTensor) else value

    def prepare(self, stepper: InnerOptimizer) -> None:
        """Let Muon make whole matrices orthogonal."""
        if isinstance(stepper, Muon):
            stepper.muon.orthogonal = lambda matrices: _dealt(matrices, stepper.muon.together)

    @torch.no_grad()
    def reduce(self, loss: torch.Tensor) -> torch.Tensor:
        """Add up the losses of all ranks; the backward pass has done so with the gradients."""
        dist.all_reduce(loss)
        return loss


def _local(value: torch.Tensor) -> torch.Tensor:
    """The part of a DTensor that this rank has."""
    assert isinstance(value, DTensor)
    return value.to_local()


def _dealt(
    matrices: list[torch.Tensor], orthogonal: Callable[[list[torch.Tensor]], list[torch.Tensor]]
) -> list[torch.Tensor]:
    """Make sharded matrices orthogonal: matrix i is put together on rank i modulo the number of ranks, which makes it
    orthogonal and gives each rank its part back. Stacks of matrices are cut between matrices: each rank has whole ones."""
    rank, size = dist.get_rank(), dist.get_world_size()
    local = [_local(one) for one in matrices]
    made: dict[int, torch.Tensor] = {}
    stacks = [n for n, one in enumerate(matrices) if one.ndim == 3]
    mine = [n for n in stacks if local[n].numel()]
    if mine:
        made.update(zip(mine, orthogonal([local[n] for n in mine]), strict=True))
    made.update({n: local[n] for n in stacks if n not in made})

    flat = [n for n, one in enumerate(matrices) if one.ndim == 2]
    owned = [flat[owner::size] for owner in range(size)]  # by rank: its matrices
    out = [
        [_rows(matrices[n], r, size) * matrices[n].shape[1] for n in owned[rank]]
        for r in range(size)
    ]
    sizes_in = [sum(local[n].numel() for n in owner) for owner in owned]
    sizes_out = [sum(each) for each in out]
    there = _exchange([local[n] for owner in owned for n in owner], sizes_in, sizes_out)
    parts: dict[int, list[torch.Tensor]] = {n: [] for n in owned[rank]}
    for got, each in zip(there.split(sizes_out), out, strict=True):
        for n, part in zip(owned[rank], got.split(each), strict=True):
            parts[n].append(part.view(-1, matrices[n].shape[1]))
    whole = [torch.cat(parts[n]) for n in owned[rank]]
    done = orthogonal(whole) if whole else []
    back = [one.split([_rows(one, r, size) for r in range(size)]) for one in done]
    answer = _exchange([one[r] for r in range(size) for one in back], sizes_out, sizes_in)
    in_order = [n for owner in owned for n in owner]
    for n, part in zip(in_order, answer.split([local[n].numel() for n in in_order]), strict=True):
        made[n] = part.view_as(local[n])
    return [_like(matrix, made[n]) for n, matrix in enumerate(matrices)]


def _exchange(parts: list[torch.Tensor], sizes: list[int], back: list[int]) -> torch.Tensor:
    """Send to each rank its part of what is laid end to end; sizes, back: numbers for, and from, each."""
    flat = torch.cat([part.reshape(-1) for part in parts])
    found = flat.new_empty(sum(back))
    dist.all_to_all_single(found, flat, back, sizes)
    return found


def _rows(matrix: torch.Tensor, rank: int, size: int) -> int:
    """Of a matrix that is cut along its rows: how many a rank has, as torch.chunk cuts."""
    rows = matrix.shape[0]
    each = -(-rows // size)
    return max(0, min(each, rows - rank * each))


def _like(matrix: torch.Tensor, local: torch.Tensor) -> DTensor:
    """The parts of all ranks as one matrix."""
    assert isinstance(matrix, DTensor)
    return DTensor.from_local(
        local, matrix.device_mesh, matrix.placements,
        run_check=False, shape=matrix.shape, stride=matrix.stride(),
    )  # fmt: skip
