"""Parameters, FLOPs and memory of training, counted over a model without weights (`model.skeleton`).

Counted from the declared model and recipe, never from a claim. A multiplication and an addition are
two operations. Forward and backward take three times the forward pass (Kaplan et al. 2020,
arXiv 2001.08361; attention included, which is not small at little width). The optimizer counts: per
parameter and step AdamW about 16, Lion 10, Muon 6 around its Newton-Schulz iterations and NorMuon 8
more; an iteration on an m x n matrix, m <= n, takes 4 m^2 n + 2 m^3.

`duckweed.plan.inputs.config` counts by formulas instead: it starts without torch, and reads configurations
for which no class is installed. tests/plan compare the two.
"""

from typing import Any

import msgspec
from torch import nn

from duckweed.learn.optim.matrix_muon import groups
from duckweed.learn.optim.muon import hidden_matrices
from duckweed.run.sections import Inner

ELEMENTWISE = {"adamw": 16, "muon": 16, "normuon": 16, "lion": 10}
"""FLOPs per parameter and step, outside of Muon's matrices."""
AROUND = {"muon": 6, "normuon": 14}
"""FLOPs per parameter of a matrix and step, around the Newton-Schulz iterations."""


class Cost(msgspec.Struct, frozen=True):
    """What training a model takes."""

    forward: float
    """FLOPs of the forward pass, for one token of a sequence of the given length."""
    optimizer: float
    """FLOPs of the optimizer in one step."""
    parameters: int
    memory: float = 0.0
    """Bytes of training, roughly: `training_bytes`."""

    def step(self, tokens: int) -> float:
        """One training step over `tokens` tokens."""
        return 3 * self.forward * tokens + self.optimizer

    def steps(self, budget: float, tokens: int) -> int:
        """Whole steps that the budget pays for."""
        return int(budget / self.step(tokens))

    def per_token(self, tokens: int) -> float:
        """FLOPs of a token in steps of `tokens`, the optimizer's share included."""
        return self.step(tokens) / tokens


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
    memory = training_bytes(model, inner, sequence)
    return Cost(2 * used + attention, _optimizer(model, inner), total, memory)


def _attention_width(config: Any) -> int:
    """Sum of the widths of all heads."""
    heads = _number(config, "num_attention_heads", 1)
    return heads * (_number(config, "head_dim", 0) or _number(config, "hidden_size", 0) // heads)


def _number(config: Any, name: str, default: int) -> int:
    """A number of a configuration, `default` where it has none; where layers differ, the largest of theirs."""
    try:
        found = getattr(config, name, None)
    except RuntimeError:  # transformers: it differs from layer to layer
        found = [getattr(layer, name, None) for layer in config.per_layer_config]
    each = found if isinstance(found, list | tuple) else [found]
    return max((int(x) for x in each if x), default=default)


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


def training_bytes(model: nn.Module, inner: Inner, sequence: int) -> int:
    """Bytes of training alone, each step in one pass: float32 weights, gradients, moments, activations."""
    parameters = sum(p.numel() for p in model.parameters())
    tokens = inner.batch * sequence
    passing = activation_bytes(model, tokens, sequence) + logits_bytes(model, tokens)
    return 4 * parameters * (2 + moments(inner)) + passing


def activation_bytes(
    model: nn.Module,
    tokens: int,
    sequence: int,
    checkpoint: bool = False,
) -> int:
    """Bytes of the layers that a forward and backward pass over so many tokens needs beside weights and gradients, in
    float32 and with attention written out; counted from what autograd keeps of a Llama layer.

    Per token a layer keeps 6 widths for its two norms (what goes in, what is normalised, what comes
    out), 4 widths of all heads (queries, keys, values, what attention gives), a row of attention for
    each head, and 4 widths of the feed-forward part. checkpoint: all layers but one keep a width.
    The layer that is in the backward pass needs as much again of attention, twice.
    """
    config: Any = model.config
    width = _number(config, "hidden_size", 1024)
    layers = _number(config, "num_hidden_layers", 12)
    heads = _number(config, "num_attention_heads", 8)
    inner = _number(config, "intermediate_size", 4 * width)
    rows = heads * sequence
    layer = 6 * width + 4 * _attention_width(config) + rows + 4 * inner
    kept = layer + (layers - 1) * width if checkpoint else layers * layer
    return 4 * tokens * (kept + 2 * rows + 3 * width)


def logits_bytes(model: nn.Module, tokens: int, at_once: int | None = None) -> int:
    """Bytes of the logits of so many tokens in a pass, three times (they, their log-softmax, the gradient). at_once:
    of how many positions they are held together, at most (None: all); if these are fewer, the gradient of the head is there twice: what
    was added up, and that of a part."""
    config: Any = model.config
    if at_once is None or tokens <= at_once:
        return 4 * 3 * tokens * config.vocab_size
    return 4 * config.vocab_size * (3 * at_once + _number(config, "hidden_size", 1024))


def in_hand(model: nn.Module, inner: Inner) -> int:
    """Bytes of what Muon has in hand at once: matrices of one shape are made orthogonal together, six
    times in memory (direction, joined, iterate, two products, update)."""
    if not inner.orthogonal:
        return 0
    together = (sum(p.numel() for p in group) for _, group in groups(hidden_matrices(model)))
    return 4 * 6 * max(together, default=0)


def moment_count(model: nn.Module, inner: Inner) -> int:
    """Numbers that the optimizer keeps: under Muon one for each of its matrices' and two for each of AdamW's, which
    are most where the vocabulary is large."""
    total = sum(p.numel() for p in model.parameters())
    if not inner.orthogonal:
        return moments(inner) * total
    return 2 * total - sum(p.numel() for p in hidden_matrices(model))


def moments(inner: Inner) -> int:
    """Moments that the optimizer keeps for each parameter, roughly: where Muon has most of them, its."""
    return 2 if inner.optimizer == "adamw" else 1
