"""Muon for the hidden matrices of a model, AdamW for the rest; its momenta between two rounds."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from duckweed.learn.optim.adamw import AdamW
from duckweed.learn.optim.matrix_muon import MatrixMuon
from duckweed.learn.optim.optimizer import OptimizerState
from duckweed.run.layout import Layout
from duckweed.run.sections import Inner

PREFIX = "muon."  # before a matrix's name: the name of its momentum in an optimizer's state
FIRST_MOMENTUM = 0.85  # as in modded-nanogpt


class Muon(AdamW):
    """Momenta are kept and guided: they begin a round turned towards the last merged step."""

    normalise: float | None = None  # the second beta of NorMuon

    def __init__(self, model: nn.Module, inner: Inner) -> None:
        self.matrices = hidden_matrices(model)
        super().__init__(model, inner)
        self.muon = MatrixMuon(
            self.matrices,
            inner.momentum,
            inner.weight_decay,
            inner.nesterov,
            inner.iterations,
            self.normalise,
            inner.cautious,
            inner.precision,
        )

    def elementwise_parameters(self) -> Iterable[nn.Parameter]:
        taken = {id(p) for p in self.matrices}
        return [p for p in self.model.parameters() if id(p) not in taken]

    def update(self, rate: float, number: int) -> None:
        self.muon.step(rate, momentum(self.inner, number))
        super().update(rate, number)

    def kept(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from super().kept()
        names = {id(p): name for name, p in self.model.named_parameters()}
        for kind, kept in (("muon", self.muon.buffers), ("squares", self.muon.squares)):
            for parameter, buffer in kept.items():
                yield f"{kind}.{names[id(parameter)]}", buffer

    def take(self, name: str, value: torch.Tensor, parameters: dict[str, nn.Parameter]) -> None:
        kind, _, of = name.partition(".")
        kept = {"muon": self.muon.buffers, "squares": self.muon.squares}.get(kind)
        if kept is None:
            super().take(name, value, parameters)
        else:
            kept[parameters[of]].copy_(value)

    @classmethod
    def begin_round(
        cls, state: OptimizerState, merged: np.ndarray, layout: Layout, inner: Inner
    ) -> None:
        guide(state, merged, layout, inner.guide)

    @classmethod
    def guess(cls, state: OptimizerState) -> OptimizerState:
        return {name: x.copy() for name, x in state.items() if name.startswith(PREFIX)}

    @classmethod
    def correct(
        cls,
        state: OptimizerState,
        guess: OptimizerState,
        right: OptimizerState,
        inner: Inner,
        steps: range,
    ) -> None:
        """After k steps a momentum still holds the one that it began with, times the product of the
        k momentum factors; what the guess missed is added at that weight."""
        weight = math.prod(momentum(inner, step) for step in steps)
        for name, guessed in guess.items():
            missed = torch.from_numpy(right[name]) - torch.from_numpy(guessed)
            torch.from_numpy(state[name]).add_(missed, alpha=weight)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon takes: matrices and stacks of them, save embeddings (of tokens and
    of positions) and head."""
    ends = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is not None:
        ends.add(id(head.weight))
    return [p for p in model.parameters() if p.ndim in (2, 3) and id(p) not in ends]


def momentum(inner: Inner, step: int) -> float:
    """Muon's momentum at inner step >= 0 of the run: from 0.85 up over `momentum_warmup` steps."""
    low = min(FIRST_MOMENTUM, inner.momentum)
    done = min(1.0, step / inner.momentum_warmup) if inner.momentum_warmup else 1.0
    return low + (inner.momentum - low) * done if done < 1 else inner.momentum


def guide(state: OptimizerState, step: np.ndarray, layout: Layout, share: float) -> None:
    """Turn Muon's momenta m towards the last merged step d, f32[P], matrix by matrix and in place;
    where d = 0, as before the first merge, m stays as it is:
    m' = (1 - share) m + share |m| d / |d|.

    A peer's momentum is mostly the noise of its own batches; what all peers have merged has less of
    it and costs no byte. Related: FedCM (arXiv 2106.10874), which adds it to every local step."""
    if not share:
        return
    for name, part in zip(layout.names, layout.slices(), strict=True):
        if PREFIX + name not in state:
            continue
        m = torch.from_numpy(state[PREFIX + name])
        d = torch.tensor(step[part]).view(m.shape)
        size, length = (x.norm(dim=(-2, -1), keepdim=True) for x in (d, m))
        turned = torch.where(size > 0, share * length / size, 0)
        m.mul_(torch.where(size > 0, 1 - share, 1)).add_(turned * d)
