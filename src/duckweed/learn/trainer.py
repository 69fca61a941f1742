"""What one peer does between two merges: H inner steps from the global weights."""

import time
from collections.abc import Callable, Iterable, Iterator

import msgspec
import numpy as np
import torch
from torch import nn

from duckweed.learn.model.model import read_weights, write_weights
from duckweed.learn.optim.optimizer import InnerOptimizer, learning_rate, momentum
from duckweed.run.sections import Inner


class Diverged(RuntimeError):
    """The loss of a peer became NaN or infinite."""


class Work(msgspec.Struct):
    """What H inner steps gave: pseudo-gradient f32[P] = weights before - weights after, tokens seen,
    mean loss in nats per token, seconds; the optimizer's moments, where they are gone on with."""

    delta: np.ndarray
    tokens: int
    loss: float
    seconds: float
    moments: dict[str, torch.Tensor]


def precision_for(device: str, wanted: str) -> torch.dtype:
    """The dtype of autocast: bf16 where the machine multiplies it in hardware, else float32."""
    if wanted == "fp32" or device == "mps":
        return torch.float32
    if wanted == "bf16":
        return torch.bfloat16
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Without AMX a CPU emulates bf16, ten times slower than float32.
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32


class Trainer:
    """A model on a device, trained from given weights, round after round."""

    def __init__(self, model: nn.Module, inner: Inner, total_steps: int, device: str) -> None:
        self.model, self.inner, self.total_steps, self.device = model, inner, total_steps, device
        self.dtype = precision_for(device, inner.precision)

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean nats per token of windows int64[b, length + 1]."""
        with torch.autocast(
            self.device.split(":")[0], self.dtype, enabled=self.dtype != torch.float32
        ):
            logits = self.model(input_ids=tokens[:, :-1]).logits
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].reshape(-1))

    def train(
        self,
        weights: np.ndarray,
        batches: Iterable[np.ndarray],
        first_step: int,
        report: Callable[[int, float], None] | None = None,
        seed: int = 0,
        moments: dict[str, torch.Tensor] | None = None,
        keep: bool = False,
    ) -> Work:
        """Train on the batches (int64[batch, length + 1] each); first_step counts over the run;
        seed: what dropout, where the model has it, is drawn with; moments: to begin with, none or
        empty: afresh (they are used up); keep: whether those at the end are wanted.

        Raises Diverged if the loss is no longer finite.
        """
        began = time.perf_counter()
        torch.manual_seed(seed)
        write_weights(self.model, weights)
        self.model.train()
        optimizer = InnerOptimizer(self.model, self.inner)
        if moments:
            optimizer.restore(moments)
        total, tokens, steps = 0.0, 0, 0
        for batch in batches:
            loss = self.loss(torch.from_numpy(batch).to(self.device))
            loss.backward()
            now = first_step + steps
            rate = learning_rate(self.inner, now, self.total_steps)
            optimizer.step(rate, momentum(self.inner, now))
            total += loss.item()
            tokens += batch.shape[0] * (batch.shape[1] - 1)
            steps += 1
            if report:
                report(steps, total / steps)
        if not np.isfinite(total):
            raise Diverged(
                f"the loss became {total} within {steps} steps; lower inner.learning_rate"
            )
        left = optimizer.moments() if keep else {}
        reached = read_weights(self.model)
        delta = np.subtract(weights, reached, out=reached)
        return Work(delta, tokens, total / max(1, steps), time.perf_counter() - began, left)

    @torch.no_grad()
    def evaluate(
        self, weights: np.ndarray | None, windows: Iterable[np.ndarray]
    ) -> tuple[float, int]:
        """Sum of nats and number of tokens over windows int64[b, length + 1]; weights None: those
        that the model has."""
        if weights is not None:
            write_weights(self.model, weights)
        self.model.eval()
        nats, tokens = 0.0, 0
        for window in windows:
            count = window.shape[0] * (window.shape[1] - 1)
            nats += self.loss(torch.from_numpy(window).to(self.device)).item() * count
            tokens += count
        return nats, tokens


def rows(windows: Iterable[np.ndarray], share: int, shares: int) -> Iterator[np.ndarray]:
    """The part of an evaluation that falls to one of several peers: every shares-th batch."""
    for number, window in enumerate(windows):
        if number % shares == share:
            yield window
