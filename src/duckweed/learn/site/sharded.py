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
Orthogonal = Callable[[list[torch.Tensor]], list[torch.Tensor]]


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


def _dealt(matrices: list[torch.Tensor], orthogonal: Orthogonal) -> list[torch.Tensor]:
    """Make sharded matrices, and stacks of matrices, orthogonal. Stacks are cut between matrices, so that each rank has
    whole ones."""
    local = [_local(one) for one in matrices]
    made = dict(enumerate(local))
    stacks = [n for n, one in enumerate(local) if one.ndim == 3 and one.numel()]
    if stacks:
        made.update(zip(stacks, orthogonal([local[n] for n in stacks]), strict=True))
    flat = [n for n, one in enumerate(local) if one.ndim == 2]
    if flat:
        rows = [matrices[n].shape[0] for n in flat]
        made.update(
            zip(flat, _put_together([local[n] for n in flat], rows, orthogonal), strict=True)
        )
    return [_like(matrix, made[n]) for n, matrix in enumerate(matrices)]


def _put_together(
    local: list[torch.Tensor], rows: list[int], orthogonal: Orthogonal
) -> list[torch.Tensor]:
    """Matrix i is put together on rank i modulo the number of ranks, which makes it orthogonal and gives each rank its
    part back. local: the parts of this rank; rows: of the whole matrices."""
    rank, ranks = dist.get_rank(), range(dist.get_world_size())
    owned = [list(range(len(local)))[owner :: len(ranks)] for owner in ranks]
    own = owned[rank]
    cut = {n: [_rows(rows[n], r, len(ranks)) for r in ranks] for n in own}
    given = [sum(local[n].numel() for n in owner) for owner in owned]  # numbers for each rank
    taken = [sum(cut[n][r] * local[n].shape[1] for n in own) for r in ranks]  # numbers from each
    in_order = [n for owner in owned for n in owner]
    there = _exchange([local[n] for n in in_order], given, taken, local[0])
    parts: dict[int, list[torch.Tensor]] = {n: [] for n in own}
    for r, got in zip(ranks, there.split(taken), strict=True):
        for n, part in zip(
            own, got.split([cut[n][r] * local[n].shape[1] for n in own]), strict=True
        ):
            parts[n].append(part.view(-1, local[n].shape[1]))
    done = orthogonal([torch.cat(parts[n]) for n in own]) if own else []
    back = [one.split(cut[n]) for n, one in zip(own, done, strict=True)]
    answer = _exchange([one[r] for r in ranks for one in back], taken, given, local[0])
    found = answer.split([local[n].numel() for n in in_order])
    by_number = dict(zip(in_order, found, strict=True))
    return [by_number[n].view_as(one) for n, one in enumerate(local)]


def _exchange(
    parts: list[torch.Tensor], given: list[int], taken: list[int], like: torch.Tensor
) -> torch.Tensor:
    """Send to each rank its part of what is laid end to end. given, taken: numbers for, and from, each."""
    flat = torch.cat([like.new_empty(0), *(part.reshape(-1) for part in parts)])
    found = flat.new_empty(sum(taken))
    dist.all_to_all_single(found, flat, taken, given)
    return found


def _rows(rows: int, rank: int, size: int) -> int:
    """Of so many rows: how many a rank has, as torch.chunk cuts."""
    each = -(-rows // size)
    return max(0, min(each, rows - rank * each))


def _like(matrix: torch.Tensor, local: torch.Tensor) -> DTensor:
    """The parts of all ranks as one matrix."""
    assert isinstance(matrix, DTensor)
    return DTensor.from_local(
        local, matrix.device_mesh, matrix.placements,
        run_check=False, shape=matrix.shape, stride=matrix.stride(),
    )  # fmt: skip
