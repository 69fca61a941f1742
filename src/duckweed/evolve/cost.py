"""What training costs in FLOPs, counted from the declared model and recipe, never from a claim.

A multiplication and an addition are two operations. Forward and backward take three times the
forward pass (Kaplan et al. 2020, 2001.08361; attention included, which is not small at little
width). The optimizer counts: AdamW about 16 per parameter and step; Muon's five Newton-Schulz
iterations on an m x n matrix, m <= n, 5 (4 m^2 n + 2 m^3), or as many as the recipe asks for, and
6 per parameter around them.
"""

from typing import Any

import msgspec
from torch import nn

from duckweed.learn.optimizer import hidden_matrices
from duckweed.run.sections import Inner

ADAMW, MUON = 16, 6


class Cost(msgspec.Struct, frozen=True):
    """FLOPs: forward, of one token of a sequence of the given length; optimizer, of one step."""

    forward: float
    optimizer: float
    parameters: int

    def step(self, tokens: int) -> float:
        """One training step over so many tokens."""
        return 3 * self.forward * tokens + self.optimizer

    def steps(self, budget: float, tokens: int) -> int:
        """Whole steps that the budget pays for."""
        return int(budget / self.step(tokens))


def cost(model: nn.Module, inner: Inner, sequence: int) -> Cost:
    """Of a model (a skeleton will do) trained as `inner` says."""
    ends = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings()  # type: ignore[operator]
    tied = head is not None and id(head.weight) in ends
    parameters = list(model.parameters())
    used = sum(p.numel() for p in parameters if p.ndim > 1 and id(p) not in ends)
    if tied:
        used += head.weight.numel()
    config: Any = model.config
    width = getattr(config, "hidden_size", 0)
    # a token looks at half of the sequence on the mean: scores and values, 2 FLOPs each
    attention = 4 * config.num_hidden_layers * width * sequence / 2
    matrices = hidden_matrices(model) if inner.orthogonal else []
    orthogonal = {id(p) for p in matrices}
    optimizer = sum(ADAMW * p.numel() for p in parameters if id(p) not in orthogonal)
    for p in matrices:
        m, n = sorted(p.shape[-2:])
        stacks = p.numel() // (m * n)
        optimizer += stacks * inner.iterations * (4 * m * m * n + 2 * m**3) + MUON * p.numel()
    return Cost(2 * used + attention, float(optimizer), sum(p.numel() for p in parameters))
