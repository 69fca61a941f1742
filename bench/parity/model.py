"""M copies of one small Llama as stacked tensors, so that one process trains all peers at once.

The same formulas as transformers' Llama (RMS norm, rotary positions, SwiGLU, untied head), without
its per-module overhead: at 128 tokens a step most of the time goes there. `python -m bench.parity
check` compares the whole run with duckweed's own.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, silu
from transformers import PretrainedConfig

from duckweed.run.layout import Layout


class Stack:
    """Weights f32[M, P] of M models in the order of the layout, gradients beside them."""

    def __init__(self, config: PretrainedConfig, layout: Layout, copies: int, sequence: int):
        self.layout, self.copies = layout, copies
        self.heads, self.layers = config.num_attention_heads, config.num_hidden_layers
        self.width, self.epsilon = config.hidden_size // self.heads, config.rms_norm_eps
        if config.num_key_value_heads != self.heads or config.model_type != "llama":
            raise ValueError("the stacked model is a Llama with as many key as query heads")
        self.weights = torch.zeros(copies, layout.total)
        self.gradients = torch.zeros(copies, layout.total)
        self.parameters: dict[str, Tensor] = {}
        for name, shape, part in zip(layout.names, layout.shapes, layout.slices(), strict=True):
            view = self.weights[:, part].view(copies, *shape).requires_grad_()
            view.grad = self.gradients[:, part].view(copies, *shape)
            self.parameters[name] = view
        frequency = 10000.0 ** -(torch.arange(0, self.width, 2) / self.width)
        angle = torch.outer(torch.arange(sequence), frequency).repeat(1, 2)  # [S, width]
        self.cosine, self.sine = angle.cos(), angle.sin()
        self.mask = torch.full((sequence, sequence), -torch.inf).triu(1)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean nats per token of each copy, f32[M], on its own windows int64[M, b, S + 1]."""
        copies = len(tokens)
        targets = tokens[:, :, 1:].reshape(copies, -1)
        logits = self.logits(tokens[:, :, :-1])
        nats = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return nats.view(copies, -1).mean(1)

    def logits(self, tokens: Tensor) -> Tensor:
        """f32[M, b * S, V] from int64[M, b, S]."""
        copies, batch, _ = tokens.shape
        weights = self.parameters
        places = tokens.reshape(copies, -1)
        x = torch.stack(
            [
                table[place]
                for table, place in zip(weights["model.embed_tokens.weight"], places, strict=True)
            ]
        )
        for layer in range(self.layers):
            name = f"model.layers.{layer}."
            x = x + self._attend(
                name + "self_attn.", self._norm(x, name + "input_layernorm"), batch
            )
            x = x + self._feed(name + "mlp.", self._norm(x, name + "post_attention_layernorm"))
        return self._linear(self._norm(x, "model.norm"), "lm_head")

    def _feed(self, name: str, x: Tensor) -> Tensor:
        gate = silu(self._linear(x, name + "gate_proj"))
        return self._linear(gate * self._linear(x, name + "up_proj"), name + "down_proj")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return torch.bmm(x, self.parameters[name + ".weight"].mT)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)
        return x * self.parameters[name + ".weight"][:, None]

    def _attend(self, name: str, x: Tensor, batch: int) -> Tensor:
        copies, places, _ = x.shape
        length = places // batch

        def split(part: str) -> Tensor:
            y = self._linear(x, name + part).view(copies * batch, length, self.heads, self.width)
            return y.transpose(1, 2)

        def turn(y: Tensor) -> Tensor:
            a, b = y.chunk(2, -1)
            return y * self.cosine[:length] + torch.cat([-b, a], -1) * self.sine[:length]

        q, k, v = turn(split("q_proj")), turn(split("k_proj")), split("v_proj")
        y = self._attended(q, k, v).transpose(1, 2).reshape(copies, places, -1)
        return self._linear(y, name + "o_proj")

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[-2]
        scores = q @ k.mT * self.width**-0.5 + self.mask[:length, :length]
        return scores.softmax(-1) @ v
