"""Four peers that train a small Llama together: AdamW inside, mean and Nesterov momentum (0.7, 0.6) outside, error
feedback. Nothing of duckweed but the wire has a part in it."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.wire.corpus import corpus
from duckweed.run.layout import Layout
from duckweed.wire import carry, codec_of, keep
from duckweed.wire.codecs.integer import Integer

PEERS, STEPS = 4, 15
RATE, WARMUP = 2e-3, 100


class Trained(NamedTuple):
    """A round."""

    layout: Layout
    codes: list[np.ndarray]
    """Of each peer."""
    x: np.ndarray
    """What the first of them compressed, f32[P]."""


def train(vocabulary: int, wire: Integer, rounds: int) -> Iterator[Trained]:
    """Round 0 and as many more."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inner = Inner(vocabulary)
    codec, weights = codec_of(wire, inner.layout), inner.weights().copy()
    momentum, residuals = np.zeros_like(weights), [np.zeros_like(weights) for _ in range(PEERS)]
    scales = np.zeros(0, np.float32)
    for round_ in range(rounds + 1):
        xs = [
            carry(weights - inner.train(peer, weights, round_), residual, wire.feedback)
            for peer, residual in enumerate(residuals)
        ]
        latest = _scales(xs, inner.layout)
        scales = scales if round_ else latest
        blobs = [codec.encode(x, scales) for x in xs]
        residuals = [keep(x, blob.sent) for x, blob in zip(xs, blobs, strict=True)]
        codes = [codec.decode(blob.blob, scales).codes for blob in blobs]
        yield Trained(inner.layout, codes, xs[0])
        mean = np.mean([blob.sent for blob in blobs], axis=0)
        momentum = 0.6 * momentum + mean
        weights = weights - np.float32(0.7) * (mean + np.float32(0.6) * momentum)
        scales = latest


def _scales(xs: list[np.ndarray], layout: Layout) -> np.ndarray:
    """Of each tensor the median of its root mean square over the peers."""
    sizes = [[np.sqrt(np.mean(x[part] ** 2)) for part in layout.slices()] for x in xs]
    return np.median(sizes, axis=0).astype(np.float32)


class Inner:
    """Inner steps of all peers, in one process and in turn; each keeps its moments."""

    def __init__(self, vocabulary: int) -> None:
        self.tokens = torch.from_numpy(corpus(vocabulary))
        self.model = _model(vocabulary)
        self.parameters = list(self.model.parameters())
        self.layout = Layout.of({n: tuple(p.shape) for n, p in self.model.named_parameters()})
        self.moments: dict[int, dict] = {}
        self.draw = torch.Generator().manual_seed(1)

    def weights(self) -> np.ndarray:
        return torch.nn.utils.parameters_to_vector(self.parameters).detach().numpy()

    def train(self, peer: int, weights: np.ndarray, round_: int) -> np.ndarray:
        """The weights to which the steps of one peer lead in a round."""
        torch.nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), self.parameters)
        optimizer = torch.optim.AdamW(self.parameters, lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
        if peer in self.moments:
            optimizer.load_state_dict(self.moments[peer])
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (round_ * STEPS + step + 1) / WARMUP)
            self._step(optimizer)
        self.moments[peer] = copy.deepcopy(optimizer.state_dict())
        return self.weights()

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        starts = torch.randint(len(self.tokens) - 129, (4,), generator=self.draw).tolist()
        batch = torch.stack([self.tokens[i : i + 128] for i in starts])
        self.model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _model(vocabulary: int) -> LlamaForCausalLM:
    """0.9M parameters with a vocabulary of bytes, 1.8M with one of 4096."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
        )
    )
