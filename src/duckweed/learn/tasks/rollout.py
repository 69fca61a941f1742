"""Answers, written by a model many at a time. A token is argmax(logits / T + noise), where the noise follows from
a key of the answer, the position and the token: with Gumbel noise that is a draw from softmax(logits / T)
(Gumbel 1954; Maddison et al., arXiv 1411.0030). So what is written is a function of weights and keys, and
another machine can write it again.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicLayer

from duckweed.learn.data.permutation import GOLDEN

MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64, as in learn/data/permutation.py
FULL = 7 / 8  # a batch of which no more rows are still being written is made smaller
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
    model's code can do that. A prompt that comes several times is read once, and answers that have ended
    are left behind."""
    device, count = model.device, len(prompts)
    distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    place = {prompt: n for n, prompt in enumerate(distinct)}
    keyed = torch.tensor([_signed(key) for key in keys], device=device)
    ends = torch.tensor(list(stops), device=device)
    ids = torch.full((count, tokens), -1, device=device)
    nats, entropy = torch.zeros((2, count, tokens), device=device)
    reader = _Reader(model, *_left_padded(distinct, stops[0], device), dtype)
    row = torch.arange(count, device=device)  # which answer each row of the batch is
    logits = reader.logits()
    start = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
    reader.make_room(tokens)
    reader.choose(start)
    logits, going = logits[start], torch.ones_like(row, dtype=torch.bool)
    for position in range(tokens):
        chosen, cost, spread = _draw(logits, keyed[row], position, temperature)
        at = row[going]
        ids[at, position], nats[at, position] = chosen[going], cost[going]
        entropy[at, position] = spread[going]
        going = going & ~torch.isin(chosen, ends)
        left = int(going.sum())
        if not left or position == tokens - 1:
            break
        if left <= len(row) * FULL:
            reader.choose(going.nonzero()[:, 0])
            row, chosen, going = row[going], chosen[going], going[going]
        reader.take(chosen)
        logits = reader.logits()
    used = slice(position + 1)
    lengths = (ids >= 0).sum(1)
    ended = torch.isin(ids.gather(1, lengths[:, None] - 1)[:, 0], ends)
    return Answers(
        ids[:, used].clamp_min(0).cpu().numpy(), lengths.cpu().numpy(), nats[:, used].cpu().numpy(),
        (entropy.sum(1) / lengths).cpu().numpy(), ended.cpu().numpy(),
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
        last = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.last = {"logits_to_keep": 1} if last else {}

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
                        **self.last,
                    )
                    self.past = out.past_key_values
                    self.keeps = hasattr(self.past, "reorder_cache")
                    return out.logits[:, -1].float()
                except (TypeError, AttributeError, NotImplementedError, ValueError):
                    self.keeps = False  # its code cannot go on from them
            out = self.model(input_ids=self.ids, attention_mask=self.mask, **self.last)
        return out.logits[:, -1].float()

    def make_room(self, tokens: int) -> None:
        """For keys and values of so many tokens more, in layers that would grow with each of them."""
        layers = self.past.layers if self.keeps else []
        for number, layer in enumerate(layers):
            if type(layer) is DynamicLayer:
                layers[number] = _RoomyLayer(layer, tokens)

    def choose(self, rows: torch.Tensor) -> None:
        """Go on with these rows alone, each as often as it is named."""
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        if self.keeps:
            self.past.reorder_cache(rows)

    def take(self, chosen: torch.Tensor) -> None:
        self.fresh = chosen[:, None]
        self.ids = torch.cat([self.ids, self.fresh], 1)
        self.mask = torch.cat([self.mask, torch.ones_like(self.fresh)], 1)


class _RoomyLayer(DynamicLayer):
    """Keys and values of a layer, [n, heads, length, width], with room for what is to come: to write them anew, longer,
    for each token takes time, and twice the memory and more, since what is freed is too small for what comes next."""

    def __init__(self, filled: DynamicLayer, room: int) -> None:
        """Takes over what a layer holds."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = filled.dtype, filled.device, True
        assert filled.keys is not None
        assert filled.values is not None
        every = torch.arange(len(filled.keys), device=filled.device)
        self._take((filled.keys, filled.values), every, filled.get_seq_length() + room)

    def _take(self, states: Sequence[torch.Tensor], rows: torch.Tensor, room: int) -> None:
        self._room, length = [], states[0].shape[2]
        for before in states:
            now = before.new_empty(len(rows), before.shape[1], room, before.shape[3])
            torch.index_select(before, 0, rows, out=now[:, :, :length])
            self._room.append(now)
        self._show(length)

    def _show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (one[:, :, :length] for one in self._room)
        self.keys, self.values = keys, values
        return keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before = self.get_seq_length()
        after = before + key_states.shape[2]
        for one, new in zip(self._room, (key_states, value_states), strict=True):
            one[:, :, before:after] = new
        return self._show(after)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        length = self.get_seq_length()
        written = [one[:, :, :length] for one in self._room]
        self._take(written, beam_idx, self._room[0].shape[2])


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
