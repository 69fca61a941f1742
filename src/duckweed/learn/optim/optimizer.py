"""The inner optimizer: what steps a model between two merges, and what becomes of its state there.

`InnerOptimizer` is the base of all of them. It clips, gives each kind of parameter its learning rate
and weight decay, and steps them with one of torch's element-wise optimizers, which `elementwise_over`
makes. AdamW and Lion are no more than that; Muon takes the hidden matrices for itself.

An optimizer lives for the steps of one call of a learner; its state goes out of it (`state`) and into
the next (`restore`) as named arrays. What happens to that state between two rounds is said by the
class methods, which need no model.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from duckweed.run.layout import Layout
from duckweed.run.sections import Inner

OptimizerState = dict[str, np.ndarray]
"""State of an inner optimizer as named arrays; what the names mean is the optimizer's own affair."""


class InnerOptimizer:
    """Steps a model. A subclass says with what, in `elementwise_over`."""

    def __init__(self, model: nn.Module, inner: Inner) -> None:
        self.model, self.inner = model, inner
        self.elementwise = self.elementwise_over(self._groups(self.elementwise_parameters()))

    # --- a subclass's own

    def elementwise_over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the parameter groups. Their `lr` is set before each step."""
        raise NotImplementedError

    def elementwise_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that the element-wise optimizer takes: all of them."""
        return self.model.parameters()

    @classmethod
    def begin_round(
        cls, state: OptimizerState, merged: np.ndarray, layout: Layout, inner: Inner
    ) -> None:
        """Prepare the carried state for a round, in place. merged: the last merged step, f32[P]; with
        outer momentum that of the outer optimizer, zeros before the first merge."""

    @classmethod
    def guess(cls, state: OptimizerState) -> OptimizerState:
        """Copies of the arrays of `state` that `correct` can put right later."""
        return {}

    @classmethod
    def correct(
        cls,
        state: OptimizerState,
        guess: OptimizerState,
        right: OptimizerState,
        inner: Inner,
        steps: range,
    ) -> None:
        """Correct, in place, the state after `steps` (inner steps of the run) that began with `guess`
        where `right` turned out to be the state to begin with. Where the state does not depend on its
        beginning in a way that can be undone, it stays."""

    # --- the same for all

    def step(self, rate: float, number: int) -> None:
        """Clip the gradients, update, clear them. rate: the learning rate; number: of the inner step,
        counted over the run."""
        if self.inner.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.inner.clip)
        self.update(rate, number)
        self.model.zero_grad(set_to_none=True)

    def update(self, rate: float, number: int) -> None:
        """Move the parameters by their gradients."""
        for group in self.elementwise.param_groups:
            group["lr"] = rate * group["factor"]
            if group["cautious"]:
                self._decay_cautiously(group)
        self.elementwise.step()

    def state(self) -> OptimizerState:
        """All state, on the CPU. On a CPU the arrays are the optimizer's own, not copies."""
        return {name: array_of(value) for name, value in self.kept()}

    def kept(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All state where it lies, by name."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        for parameter, state in self.elementwise.state.items():
            for key, value in state.items():
                yield f"elementwise.{key}.{names[id(parameter)]}", value

    def restore(self, state: OptimizerState) -> None:
        """Set the state to what `state` gave. The mapping is emptied: on a CPU its arrays become this
        optimizer's, and elsewhere nothing is held twice."""
        parameters = dict(self.model.named_parameters())
        for name in list(state):
            self.take(name, torch.from_numpy(state.pop(name)), parameters)

    def take(self, name: str, value: torch.Tensor, parameters: dict[str, nn.Parameter]) -> None:
        """Set one array of the state."""
        kind, _, rest = name.partition(".")
        if kind == "elementwise":
            key, _, of = rest.partition(".")
            parameter = parameters[of]
            self.elementwise.state[parameter][key] = value.to(parameter.device)

    def _groups(self, parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
        """Groups by the kind of parameter: decay (here, or by us where it is cautious) and factor
        of the learning rate."""
        inner = self.inner
        embeddings = {id(m.weight) for m in self.model.modules() if isinstance(m, nn.Embedding)}
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
        for p in parameters:
            factor = 1.0
            if p.ndim <= 1:
                factor = inner.vector_rate
            elif id(p) in embeddings:
                factor = inner.embedding_rate
            elif head is not None and p is head.weight:
                factor = inner.head_rate
            decay = inner.weight_decay if p.ndim > 1 else 0.0
            kinds.setdefault((decay, factor), []).append(p)
        return [
            {
                "params": found,
                "weight_decay": 0.0 if inner.cautious else decay,
                "cautious": decay if inner.cautious else 0.0,
                "factor": factor,
            }
            for (decay, factor), found in kinds.items()
        ]

    @torch.no_grad()
    def _decay_cautiously(self, group: dict[str, Any]) -> None:
        """Decay ahead of the update. Its sign is that of b1 m + (1 - b1) g in AdamW and Lion, and of
        the gradient where an optimizer has no such momentum."""
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            before = self.elementwise.state.get(parameter, {}).get("exp_avg")
            coming = parameter.grad
            if before is not None:
                coming = before.lerp(parameter.grad, 1 - group["betas"][0])
            parameter.mul_(shrinking(parameter, coming, group["lr"] * group["cautious"]))


def shrinking(parameter: torch.Tensor, update: torch.Tensor, decay: float) -> torch.Tensor:
    """Factors of a cautious weight decay (arXiv 2510.12402): 1 - decay where the update, which is
    subtracted, shrinks the value too, else 1."""
    return 1 - decay * (update * parameter > 0).to(parameter.dtype)


def array_of(value: torch.Tensor) -> np.ndarray:
    """The tensor as an array on the CPU; it shares memory with a tensor that lies there."""
    return value.detach().cpu().contiguous().numpy()
