"""The inner optimizer: AdamW, Lion, or Muon for hidden matrices with AdamW for the rest; its schedule."""

import math

import numpy as np
import torch
from torch import nn

from duckweed.learn.optim.lion import Lion
from duckweed.learn.optim.muon import Muon, shrinking
from duckweed.run.layout import Layout
from duckweed.run.sections import Inner

MUON = "muon."  # before a matrix's name: the name of its momentum
FIRST_MOMENTUM = 0.85  # as in modded-nanogpt


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


def momentum(inner: Inner, step: int) -> float:
    """Muon's momentum at inner step >= 0 of the run: from 0.85 up over `momentum_warmup` steps."""
    low = min(FIRST_MOMENTUM, inner.momentum)
    done = min(1.0, step / inner.momentum_warmup) if inner.momentum_warmup else 1.0
    return low + (inner.momentum - low) * done if done < 1 else inner.momentum


def guide(moments: dict[str, torch.Tensor], step: np.ndarray, layout: Layout, share: float) -> None:
    """Turn Muon's momenta m towards the last merged step d, f32[P], matrix by matrix and in place;
    where d = 0, as before the first merge, m stays as it is:
    m' = (1 - share) m + share |m| d / |d|.

    A peer's momentum is mostly the noise of its own batches; what all peers have merged has less of
    it and costs no byte. Related: FedCM (arXiv 2106.10874), which adds it to every local step."""
    if not share:
        return
    for name, part in zip(layout.names, layout.slices(), strict=True):
        m = moments.get(MUON + name)
        if m is None:
            continue
        d = torch.tensor(step[part]).view(m.shape)
        size, length = (x.norm(dim=(-2, -1), keepdim=True) for x in (d, m))
        turned = torch.where(size > 0, share * length / size, 0)
        m.mul_(torch.where(size > 0, 1 - share, 1)).add_(turned * d)


class InnerOptimizer:
    """Steps a model; keeps nothing but the moments. `elementwise` has every parameter that Muon
    does not take: AdamW or Lion."""

    def __init__(self, model: nn.Module, inner: Inner) -> None:
        self.inner = inner
        self.model = model
        matrices = hidden_matrices(model) if inner.orthogonal else []
        taken = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in taken]
        self.muon = self._muon(matrices) if matrices else None
        groups = self._groups(rest)
        self.elementwise: torch.optim.Optimizer = (
            Lion(groups, inner.betas)
            if inner.optimizer == "lion"
            else torch.optim.AdamW(groups, lr=1.0, betas=inner.betas, eps=inner.epsilon, fused=True)
        )

    def _muon(self, matrices: list[nn.Parameter]) -> Muon:
        inner = self.inner
        return Muon(
            matrices,
            inner.momentum,
            inner.weight_decay,
            inner.nesterov,
            inner.iterations,
            inner.betas[1] if inner.optimizer == "normuon" else None,
            inner.cautious,
        )

    def _groups(self, parameters: list[nn.Parameter]) -> list[dict]:
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

    def step(self, rate: float, momentum: float | None = None) -> None:
        """Clip the gradients, update, clear them; momentum: Muon's at this step."""
        if self.inner.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.inner.clip)
        if self.muon:
            self.muon.step(rate, momentum)
        for group in self.elementwise.param_groups:
            group["lr"] = rate * group["factor"]
            if group["cautious"]:
                self._decay_cautiously(group)
        self.elementwise.step()
        self.model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _decay_cautiously(self, group: dict) -> None:
        """Decay ahead of the update, whose sign is that of b1 m + (1 - b1) g in AdamW and Lion."""
        beta = group["betas"][0]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.elementwise.state.get(parameter, {})
            before = state.get("exp_avg")
            coming = parameter.grad if before is None else before.lerp(parameter.grad, 1 - beta)
            parameter.mul_(shrinking(parameter, coming, group["lr"] * group["cautious"]))

    def moments(self) -> dict[str, torch.Tensor]:
        """All state as named tensors, to be gone on with."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        found = {}
        for parameter, state in self.elementwise.state.items():
            for key, value in state.items():
                found[f"elementwise.{key}.{names[id(parameter)]}"] = (
                    value.detach().cpu().contiguous()
                )
        if self.muon:
            for kind, kept in (("muon", self.muon.buffers), ("squares", self.muon.squares)):
                for parameter, buffer in kept.items():
                    found[f"{kind}.{names[id(parameter)]}"] = buffer.detach().cpu().contiguous()
        return found

    def restore(self, moments: dict[str, torch.Tensor]) -> None:
        """Set the state to what `moments` gave. The tensors become those of this optimizer, and the
        mapping is emptied: nothing is held twice."""
        parameters = dict(self.model.named_parameters())
        for name in list(moments):
            value = moments.pop(name)
            kind, _, rest = name.partition(".")
            if kind == "elementwise":
                key, _, parameter = rest.partition(".")
                place = parameters[parameter].device if key != "step" else "cpu"
                self.elementwise.state[parameters[parameter]][key] = value.to(place)
            elif self.muon:
                kept = self.muon.buffers if kind == "muon" else self.muon.squares
                kept[parameters[rest]].copy_(value)
