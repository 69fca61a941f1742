"""Answers, written by a model many at a time. A token is argmax(logits / T + noise), where the noise follows from
a key of the answer, the position and the token: with Gumbel noise that is a draw from softmax(logits / T)
(Gumbel 1954; Maddison et al., arXiv 1411.0030). So what is written is a function of weights and keys, and
another machine can write it again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from duckweed.learn.data.permutation import GOLDEN

MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64, as in learn/data/permutation.py
BITS = 24  # of a number between 0 and 1: as many as float32 has


class Answers(NamedTuple):
    """What was written: rows of at most as many tokens, of which the first `lengths` count."""

    ids: NDArray[np.int64]
    """[n, t]"""
    lengths: NDArray[np.int64]
    """[n]; with the token that ended the answer, if one did."""
    nats: NDArray[np.float32]
    """[n, t]: minus the logarithm of the probability with which each was drawn."""
    entropy: NDArray[np.float32]
    """[n]: mean over the tokens of the entropy of what each was drawn from, nats."""
    ended: NDArray[np.bool_]
    """[n]: whether the answer was ended by a token and not by its limit."""

    def of(self, rows: slice) -> "Answers":
        """Some of them."""
        return Answers(
            self.ids[rows], self.lengths[rows], self.nats[rows], self.entropy[rows],
            self.ended[rows],
        )  # fmt: skip


@torch.no_grad()
def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    tokens: int,
    temperature: float,
    stops: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> Answers:
    """An answer of up to `tokens` tokens to each prompt, written with its key until one of the `stops`; at
    temperature 0 the likeliest token each time. Keys and values of the tokens before are kept where the
    model's code can do that."""
    device = model.device
    ids, mask = _left_padded(prompts, stops[0], device)
    keyed = torch.tensor([_signed(key) for key in keys], device=device)
    over = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    ends = torch.tensor(list(stops), device=device)
    drawn, nats, entropy = [], [], []
    reader = _Reader(model, ids, mask, dtype)
    for position in range(tokens):
        logits = reader.logits()
        chosen, cost, spread = _draw(logits, keyed, position, temperature)
        chosen = torch.where(over, ends[0], chosen)
        drawn.append(torch.where(over, -1, chosen))
        nats.append(cost)
        entropy.append(spread)
        over = over | torch.isin(chosen, ends)
        if bool(over.all()):
            break
        reader.take(chosen)
    marked = torch.stack(drawn, 1)
    counted = (marked >= 0).float()
    lengths = counted.sum(1)
    mean = (torch.stack(entropy, 1) * counted).sum(1) / lengths
    return Answers(
        marked.clamp_min(0).cpu().numpy(), lengths.long().cpu().numpy(),
        (torch.stack(nats, 1) * counted).cpu().numpy(), mean.cpu().numpy(), over.cpu().numpy(),
    )  # fmt: skip


def _left_padded(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts that end together: ids and mask int64[n, longest]."""
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), pad, np.int64)
    mask = np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


class _Reader:
    """Gives the logits behind what was read so far."""

    def __init__(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, dtype: torch.dtype
    ) -> None:
        self.model, self.dtype = model, dtype
        self.ids, self.mask, self.fresh = ids, mask, ids
        self.past: Any = None
        self.keeps = True

    def logits(self) -> torch.Tensor:
        """f32[n, vocabulary]"""
        positions = (self.mask.cumsum(1) - 1).clamp_min(0)
        device = self.ids.device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            if self.keeps:
                try:
                    out = self.model(
                        input_ids=self.fresh,
                        attention_mask=self.mask,
                        position_ids=positions[:, -self.fresh.shape[1] :],
                        past_key_values=self.past,
                        use_cache=True,
                    )
                    self.past = out.past_key_values
                    return out.logits[:, -1].float()
                except (TypeError, AttributeError, NotImplementedError, ValueError):
                    self.keeps = False  # its code cannot go on from them
            out = self.model(input_ids=self.ids, attention_mask=self.mask)
        return out.logits[:, -1].float()

    def take(self, chosen: torch.Tensor) -> None:
        self.fresh = chosen[:, None]
        self.ids = torch.cat([self.ids, self.fresh], 1)
        self.mask = torch.cat([self.mask, torch.ones_like(self.fresh)], 1)


def _draw(
    logits: torch.Tensor, keys: torch.Tensor, position: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The token of each row of logits [n, v], what it costs in nats, and the entropy of what it was drawn from."""
    logs = torch.log_softmax(logits / (temperature or 1.0), -1)
    noisy = logs + gumbel(keys, position, logits.shape[-1]) if temperature else logs
    chosen = noisy.argmax(-1)
    spread = -(logs.exp() * logs).sum(-1)
    return chosen, -logs.gather(1, chosen[:, None])[:, 0], spread


def gumbel(keys: torch.Tensor, position: int, vocabulary: int) -> torch.Tensor:
    """Gumbel noise f32[n, vocabulary] of a position, by keys int64[n]: a counter through the finaliser of
    splitmix64, integer arithmetic that is the same on every device."""
    places = torch.arange(vocabulary, device=keys.device) + (position * vocabulary + 1)
    bits = _mix(_mix(keys[:, None] + _signed(GOLDEN) * places))
    uniform = ((_shifted(bits, 64 - BITS)).double() + 0.5) / (1 << BITS)
    return -torch.log(-torch.log(uniform)).float()


def _mix(value: torch.Tensor) -> torch.Tensor:
    value = (value ^ _shifted(value, 30)) * _signed(MIX[0])
    value = (value ^ _shifted(value, 27)) * _signed(MIX[1])
    return value ^ _shifted(value, 31)


def _shifted(value: torch.Tensor, by: int) -> torch.Tensor:
    """int64 shifted right as if it were unsigned."""
    return (value >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """The int64 with the bits of a uint64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
