"""Text from a model."""

import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TextStreamer

from duckweed.learn.device import seeded
from duckweed.learn.model.architecture import ModelError

TOP_P = 0.95
Say = Callable[[str], None]


class Written(TextStreamer):
    """Hands on text as it is generated, as soon as no later token can change it: word by word."""

    def __init__(self, tokenizer: Any, write: Say, whole: bool = True) -> None:
        """whole: with the text that is gone on with."""
        super().__init__(tokenizer, skip_prompt=not whole, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.write(text)


class _Reading:
    """A model that reads a text as it grows, each token once where its code can do that."""

    def __init__(self, network: Any, ids: torch.Tensor, end: int) -> None:
        self.network, self.read = network, 0
        self.keeps, self.past = keeps_the_past(network, ids, end), None

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Log-probabilities f32[n, V] of what follows on each of the n tokens that are new in ids int64[1, l]."""
        if self.keeps:
            new = ids[:, self.read :]
            out = self.network(input_ids=new, past_key_values=self.past, use_cache=True)
            self.past, logits = out.past_key_values, out.logits[0]
        else:
            logits = self.network(input_ids=ids).logits[0, self.read :]
        self.read = ids.shape[1]
        return _likely(logits)


class Mixture(NamedTuple):
    """Models beside the one that writes, whose expectations are mixed with its own."""

    others: Sequence[Any]
    shares: Sequence[float]
    """Of the model that writes and of the others, before anything is predicted; they add up to 1."""
    seen: int
    """The first tokens, by which the shares were found, and which are not counted again."""


class Mixed(LogitsProcessor):
    """Mixes the probabilities of each token, each model's with its share, which grows with how well that model has predicted
    the text so far: the posterior of a Bayesian mixture."""

    def __init__(self, network: Any, mixture: Mixture, end: int) -> None:
        """network: that writes; end: id that ends a text."""
        self.network, self.mixture, self.end = network, mixture, end
        self.weights = torch.log(torch.tensor(mixture.shares).clamp(min=1e-30))
        """Logarithms of the shares, f32[models], up to a constant."""
        self._others: list[_Reading] = []
        self._expected = torch.empty(0)  # of the token that comes next, [models, V]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self._others:
            found = self._begin(input_ids)
        else:
            self.weights += self._expected[:, input_ids[0, -1]]
            found = [_likely(scores), *(read(input_ids) for read in self._others)]
        self._expected = torch.stack([one[-1] for one in found])
        shares = torch.log_softmax(self.weights, 0)
        return torch.logsumexp(self._expected + shares[:, None], 0)[None]

    def _begin(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """Read the prompt, and weigh the models by it."""
        self._others = [_Reading(one, ids, self.end) for one in self.mixture.others]
        first = _likely(self.network(input_ids=ids).logits[0])
        found = [first, *(read(ids) for read in self._others)]
        self.weights = self.weights.to(ids.device)
        told = ids[0, max(self.mixture.seen, 1) :]
        if len(told):
            before = range(ids.shape[1] - len(told) - 1, ids.shape[1] - 1)
            self.weights += torch.stack([one[before, told].sum() for one in found])
        return found


def _likely(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits.float(), -1)


def mixed(network: Any, mixture: Mixture | None, end: int) -> LogitsProcessorList:
    """What `drawn` is to be given where a text is written by several models; nothing where it is not."""
    return LogitsProcessorList([Mixed(network, mixture, end)] if mixture else [])


@torch.no_grad()
def drawn(
    network: Any,
    ids: torch.Tensor,
    tokens: int,
    temperature: float,
    end: int,
    top_p: float = TOP_P,
    **more: Any,
) -> torch.Tensor:
    """Ids int64[1, l] and up to `tokens` more, int64[1, l + n]: the likeliest each time at temperature 0, else
    drawn by torch's generator. end: id that ends a text; more: to the `generate` of transformers."""
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    return network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        pad_token_id=end,
        **(sampling if temperature > 0 else {"do_sample": False}),
        **more,
    )


def keeps_the_past(network: Any, ids: torch.Tensor, end: int) -> bool:
    """Whether a model can go on from the keys and values of the tokens before. The code of some (Kimi Linear
    and xLSTM in transformers 5) fails at the second token."""
    try:
        drawn(network, ids[:, :1], 2, 0.0, end, use_cache=True)
    except Exception:  # whatever the model's code raises
        return False
    return True


def continued(
    network: Any,
    tokenizer: Any,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    device: str,
    top_p: float = TOP_P,
    write: Say | None = None,
    mixture: Mixture | None = None,
) -> str:
    """The prompt continued by up to `tokens` tokens, by a model and a tokenizer as transformers has read them;
    temperature, top_p, write: as of duckweed.round.export.generate; mixture: with other models. Keys and values of the tokens before are
    kept where the model's code can do that, so that each token is computed once. Raises ModelError where the
    model has too few positions."""
    network = network.to(device).eval()
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    if ids.numel() == 0:
        ids = torch.tensor([[tokenizer.eos_token_id]])
    ids, end = ids.to(device), tokenizer.eos_token_id
    # The code of some models, such as Reformer's, prints.
    hushed = redirect_stdout(io.StringIO()) if write is None else nullcontext()
    with seeded(seed, device), hushed:
        try:
            out = drawn(
                network, ids, tokens, temperature, end, top_p,
                use_cache=keeps_the_past(network, ids, end),
                streamer=Written(tokenizer, write) if write else None,
                logits_processor=mixed(network, mixture, end),
            )  # fmt: skip
        except IndexError as error:  # a table of positions that is too short
            most = getattr(network.config, "max_position_embeddings", "fewer")
            raise ModelError(
                f"the model cannot write {tokens} tokens after a prompt of {ids.numel()}: it has "
                f"positions for {most}; ask for fewer tokens"
            ) from error
    return str(tokenizer.decode(out[0], skip_special_tokens=True))
