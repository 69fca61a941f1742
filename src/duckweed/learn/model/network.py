"""A model as a task calls it: in a learner's precision, with a loss that never holds all logits at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

LOGITS = 1 << 27  # bytes of float32 logits that are held at once
PROBE = 50.0  # size of the made-up logits that show what a model does to those of its head


class Network:
    """Calls a model. Where its logits are those of its head on the last hidden states, soft-capped or
    not, the loss is computed for some positions at a time."""

    def __init__(self, model: nn.Module, device: str, dtype: torch.dtype) -> None:
        self.model: Any = model
        self.device, self.dtype = device.split(":")[0], dtype
        self._capped = _head_apart(model)
        """What the model does to the logits of its head; None: they cannot be had apart."""

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """What the model gives, as transformers models do."""
        with self._precision():
            return self.model(**inputs)

    def loss(self, targets: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy, nats, of `targets` int64[b, l] given the logits [b, l, vocabulary] of the
        inputs. Exact up to rounding also where it is computed in parts, whose logits are computed again
        in the backward pass (torch.utils.checkpoint)."""
        wanted, most = targets.reshape(-1), self.positions()
        if most is None or len(wanted) <= most:
            logits = self(**inputs).logits
            return nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted)
        with self._precision():
            hidden = self.model.base_model(**inputs)[0].flatten(0, 1)
        total = torch.zeros((), device=hidden.device)
        for part, of_part in zip(hidden.split(most), wanted.split(most), strict=True):
            total = total + checkpoint(
                self._nats, part, of_part, use_reentrant=False, preserve_rng_state=False
            )
        return total / len(wanted)

    def nats(
        self, targets: torch.Tensor, temperature: float = 1.0, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """Cross-entropy, nats, of each of `targets` int64[b, l], f32[b, l], given the logits divided by the
        temperature; in parts as in `loss`."""
        wanted, most = targets.reshape(-1), self.positions()
        if most is None or len(wanted) <= most:
            logits = self(**inputs).logits
            return _each(logits.flatten(0, 1), wanted, temperature).view(targets.shape)
        with self._precision():
            hidden = self.model.base_model(**inputs)[0].flatten(0, 1)
        found = [
            checkpoint(
                self._each_of, part, of_part, temperature,
                use_reentrant=False, preserve_rng_state=False,
            )
            for part, of_part in zip(hidden.split(most), wanted.split(most), strict=True)
        ]  # fmt: skip
        return torch.cat(found).view(targets.shape)

    def positions(self) -> int | None:
        """Of how many positions the logits are held at once, at most; None: of all."""
        if self._capped is None:
            return None
        return max(1, LOGITS // (4 * self.model.config.vocab_size))

    def checkpoint(self) -> None:
        """From now on, keep only what goes into each layer and compute the rest again in the backward
        pass."""
        self.model.activation_checkpointing_enable({"use_reentrant": False})

    def _each_of(
        self, hidden: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        assert self._capped is not None
        with self._precision():
            logits = self._capped(self.model.get_output_embeddings()(hidden))
        return _each(logits, targets, temperature)

    def _nats(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert self._capped is not None
        with self._precision():
            logits = self._capped(self.model.get_output_embeddings()(hidden))
        return nn.functional.cross_entropy(logits.float(), targets, reduction="sum")

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)


def _each(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    return nn.functional.cross_entropy(scaled, targets, reduction="none")


@torch.no_grad()
def _head_apart(model: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Tried out, because each family may do to its logits what it likes: made-up logits in place of
    those of the head must come out of the model, and what goes into the head must be what comes out
    of the model's base."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None or model.base_model is model:
        return None
    seen: list[torch.Tensor] = []
    made_up = PROBE * torch.linspace(-1, 1, 2 * model.config.vocab_size, device=model.device)

    def instead(_: nn.Module, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> Any:
        seen.append(inputs[0])
        return made_up.view(logits.shape)

    ids = torch.tensor([[0, 1]], device=model.device)
    training = model.training
    hook = head.register_forward_hook(instead)
    try:
        model.eval()
        found, base = model(input_ids=ids).logits, model.base_model(input_ids=ids)[0]
    except Exception:  # of many kinds; what is wrong with the model itself shows when it is trained
        return None
    finally:
        hook.remove()
        model.train(training)
    if len(seen) != 1 or seen[0].shape != base.shape or not torch.equal(seen[0], base):
        return None
    cap = getattr(model.config, "final_logit_softcapping", None)
    ways = [lambda x: x, lambda x: cap * torch.tanh(x / cap)] if cap else [lambda x: x]
    return next((way for way in ways if torch.equal(found, way(made_up.view(found.shape)))), None)
