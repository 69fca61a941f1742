"""The stacked models of the comparison: dense ones, and token-routed mixtures of experts.

A mixture is what a cluster would train in the place of paths, and a crowd cannot: in every layer K feed-forward experts, of
which each token passes through the best one or two (Switch Transformer, 2101.03961; the best two with gates that add up to
one, Mixtral, 2401.04088). No token is dropped. Loads are held alike by the auxiliary loss of Switch (its equations 4 to 6)
at its weight.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers import PretrainedConfig

from bench.parity.model import Stack
from duckweed.run.layout import Layout

BALANCE = 0.01  # weight of the auxiliary loss of a layer


class Fast(Stack):
    """The stacked model with torch's fused attention."""

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=True)


class Mixture(Fast):
    """Stacked models whose feed-forward parts are `experts` experts, of which a token takes `top`."""

    def __init__(
        self,
        config: PretrainedConfig,
        layout: Layout,
        copies: int,
        sequence: int,
        experts: int,
        top: int,
    ) -> None:
        super().__init__(config, layout, copies, sequence)
        self.experts, self.top = experts, top
        self.balance = torch.zeros(copies)

    def loss(self, tokens: Tensor) -> Tensor:
        """As of `Stack`, with the auxiliary loss."""
        self.balance = torch.zeros(len(tokens))
        nats = super().loss(tokens)
        return nats + BALANCE * self.balance

    def _feed(self, name: str, x: Tensor) -> Tensor:
        made, balances = zip(*(self._routed(name, n, one) for n, one in enumerate(x)), strict=True)
        self.balance = self.balance[: len(x)] + torch.stack(balances)
        return torch.stack(made)

    def _routed(self, name: str, copy: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What one copy makes of tokens f32[n, w], and how unlike the loads are: 1 where they are alike."""
        chances = linear(x, self._of(name + "router", copy)).softmax(-1)  # [n, K]
        gates, chosen = chances.topk(self.top)
        if self.top > 1:
            gates = gates / gates.sum(-1, keepdim=True)
        to = chosen.flatten()
        order = to.argsort(stable=True)  # by expert
        loads = torch.bincount(to, minlength=self.experts)
        token = order // self.top
        made = torch.cat(
            [
                self._expert(f"{name}experts.{number}.", copy, some)
                for number, some in enumerate(x[token].split(loads.tolist()))
            ]
        )
        out = torch.zeros_like(x).index_add(0, token, made * gates.flatten()[order, None])
        return out, self.experts * (loads / len(to) * chances.mean(0)).sum()

    def _expert(self, name: str, copy: int, x: Tensor) -> Tensor:
        gate = silu(linear(x, self._of(name + "gate_proj", copy)))
        up = linear(x, self._of(name + "up_proj", copy))
        return linear(gate * up, self._of(name + "down_proj", copy))

    def _of(self, name: str, copy: int) -> Tensor:
        return self.parameters[name + ".weight"][copy]
