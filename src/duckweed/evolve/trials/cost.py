"""What training costs, counted from the declared model and recipe, never from a claim.

A multiplication and an addition are two operations. Forward and backward take three times the
forward pass (Kaplan et al. 2020, 2001.08361; attention included, which is not small at little
width). The optimizer counts: per parameter and step AdamW about 16, Lion 10, Muon 6 around its
Newton-Schulz iterations and NorMuon 8 more; an iteration on an m x n matrix, m <= n, takes
4 m^2 n + 2 m^3.
"""

from typing import Any

import msgspec
from torch import nn

from duckweed.learn.memory import estimate
from duckweed.learn.optim.muon import hidden_matrices
from duckweed.run.sections import Inner

ELEMENTWISE = {"adamw": 16, "muon": 16, "normuon": 16, "lion": 10}
AROUND = {"muon": 6, "normuon": 14}


class Cost(msgspec.Struct, frozen=True):
    """FLOPs: forward, of one token of a sequence of the given length; optimizer, of one step.
    memory: bytes that training takes, roughly."""

    forward: float
    optimizer: float
    parameters: int
    memory: float = 0.0

    def step(self, tokens: int) -> float:
        """One training step over so many tokens."""
        return 3 * self.forward * tokens + self.optimizer

    def steps(self, budget: float, tokens: int) -> int:
        """Whole steps that the budget pays for."""
        return int(budget / self.step(tokens))

    def per_token(self, tokens: int) -> float:
        """FLOPs of a token trained on in steps of so many, the optimizer's share included."""
        return self.step(tokens) / tokens


class Bounds(msgspec.Struct, frozen=True):
    """What a child may cost. parameters: least and most, over those of the parent; token: FLOPs per
    token over the parent's; memory: bytes."""

    parameters: tuple[float, float] = (0.8, 1.25)
    token: float = 16.0
    memory: float = 4e9

    def excess(self, parent: Cost, child: Cost, before: int, after: int) -> str | None:
        """Why the child is out of bounds, or None; before, after: tokens of a step of the two."""
        low, high = self.parameters
        ratio = child.parameters / parent.parameters
        if not low <= ratio <= high:
            return (
                f"{ratio:.2f} times the parameters: a campaign stays between {low:g} and {high:g}"
            )
        ratio = child.per_token(after) / parent.per_token(before)
        if ratio > self.token:
            return f"{ratio:.0f} times the FLOPs of a token, at most {self.token:g}"
        if child.memory > self.memory:
            return f"takes {child.memory / 1e9:.1f} GB, at most {self.memory / 1e9:.1f} GB"
        return None


def cost(model: nn.Module, inner: Inner, sequence: int) -> Cost:
    """Of a model (a skeleton will do) trained as `inner` says."""
    ends = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()  # type: ignore[operator]
    tied = head is not None and id(head.weight) in ends
    parameters = list(model.parameters())
    used = sum(p.numel() for p in parameters if p.ndim > 1 and id(p) not in ends)
    if tied:
        used += head.weight.numel()
    # a token looks at half of the sequence on the mean: scores and values, 2 FLOPs each
    config: Any = model.config
    attention = 4 * config.num_hidden_layers * _attention_width(config) * sequence / 2
    total = sum(p.numel() for p in parameters)
    memory = estimate(model, inner, sequence)
    return Cost(2 * used + attention, _optimizer(model, inner), total, memory)


def _attention_width(config: Any) -> int:
    """Sum of the widths of all heads."""
    width, heads = getattr(config, "hidden_size", 0), getattr(config, "num_attention_heads", 1)
    return heads * (getattr(config, "head_dim", None) or width // heads)


def _optimizer(model: nn.Module, inner: Inner) -> float:
    """FLOPs of one step of the optimizer."""
    matrices = hidden_matrices(model) if inner.orthogonal else []
    orthogonal = {id(p) for p in matrices}
    each = ELEMENTWISE[inner.optimizer]
    flops = sum(each * p.numel() for p in model.parameters() if id(p) not in orthogonal)
    for p in matrices:
        m, n = sorted(p.shape[-2:])
        stacks = p.numel() // (m * n)
        flops += stacks * inner.iterations * (4 * m * m * n + 2 * m**3)
        flops += AROUND[inner.optimizer] * p.numel()
    return float(flops)
