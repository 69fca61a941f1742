"""The inner optimizer: AdamW, or Muon for hidden matrices with AdamW for the rest; its schedule."""

import math

import torch
from torch import nn

from duckweed.learn.muon import Muon
from duckweed.run.sections import Inner


def learning_rate(inner: Inner, step: int, total: int) -> float:
    """Learning rate at inner step 0 <= step < total, counted over the whole run.

    Linear warm-up over `warmup` steps, then constant; cosine to `final`; or WSD: constant, then
    linear to `final` over the last `decay` share of the steps. `final` is a share of the peak.
    """
    if step < inner.warmup:
        return inner.learning_rate * (step + 1) / inner.warmup
    if inner.schedule == "constant":
        return inner.learning_rate
    if inner.schedule == "cosine":
        done = (step - inner.warmup) / max(1, total - inner.warmup)
        share = inner.final + (1 - inner.final) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        start = total - inner.decay * total
        done = max(0.0, (step - start) / max(1.0, total - start))
        share = 1 - (1 - inner.final) * done
    return inner.learning_rate * share


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon takes: matrices and stacks of them, save embeddings (of tokens and
    of positions) and head."""
    ends = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is not None:
        ends.add(id(head.weight))
    return [p for p in model.parameters() if p.ndim in (2, 3) and id(p) not in ends]


class InnerOptimizer:
    """Steps a model; keeps nothing but the moments."""

    def __init__(self, model: nn.Module, inner: Inner) -> None:
        self.inner = inner
        self.model = model
        matrices = hidden_matrices(model) if inner.optimizer == "muon" else []
        taken = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in taken]
        self.muon = (
            Muon(matrices, inner.momentum, inner.weight_decay, inner.nesterov, inner.iterations)
            if matrices
            else None
        )
        self.adamw = torch.optim.AdamW(self._groups(rest), lr=1.0, betas=inner.betas, fused=True)

    def _groups(self, parameters: list[nn.Parameter]) -> list[dict]:
        """AdamW's groups: decay and factor of the learning rate by the kind of parameter."""
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
        # matrices first and vectors last, as ever: the order decides the sums inside
        return [
            {"params": found, "weight_decay": decay, "factor": factor}
            for (decay, factor), found in sorted(kinds.items(), key=lambda x: x[1][0].ndim <= 1)
        ]

    def step(self, rate: float) -> None:
        """Clip the gradients, update, clear them."""
        if self.inner.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.inner.clip)
        if self.muon:
            self.muon.step(rate)
        for group in self.adamw.param_groups:
            group["lr"] = rate * group["factor"]
        self.adamw.step()
        self.model.zero_grad(set_to_none=True)

    def moments(self) -> dict[str, torch.Tensor]:
        """All state as named tensors, for inner.state = "kept"."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        found = {}
        for parameter, state in self.adamw.state.items():
            for key, value in state.items():
                found[f"adamw.{key}.{names[id(parameter)]}"] = value.detach().cpu().contiguous()
        if self.muon:
            for parameter, buffer in self.muon.buffers.items():
                found[f"muon.{names[id(parameter)]}"] = buffer.detach().cpu().contiguous()
        return found

    def restore(self, moments: dict[str, torch.Tensor]) -> None:
        """Set the state to what `moments` gave; steps from here on leave that as it is."""
        parameters = dict(self.model.named_parameters())
        for name, value in moments.items():
            kind, _, rest = name.partition(".")
            if kind == "muon" and self.muon:
                self.muon.buffers[parameters[rest]].copy_(value)
            elif kind == "adamw":
                key, _, parameter = rest.partition(".")
                place = parameters[parameter].device if key != "step" else "cpu"
                self.adamw.state[parameters[parameter]][key] = value.to(place, copy=True)
