"""Text from a model."""

import io
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any

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


class Mixed(LogitsProcessor):
    """Mixes what several models expect: the probabilities of each token, each model's with its share."""

    def __init__(self, others: Sequence[Any], shares: Sequence[float]) -> None:
        """others: models beside the one that generates; shares: of that one and of them, which add up to 1."""
        self.others, self.shares = others, [math.log(max(share, 1e-30)) for share in shares]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = [scores, *(one(input_ids=input_ids).logits[:, -1] for one in self.others)]
        found = [
            torch.log_softmax(one.float(), -1) + share
            for one, share in zip(logits, self.shares, strict=True)
        ]
        return torch.logsumexp(torch.stack(found), 0)


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
    mixed: Mixed | None = None,
) -> str:
    """The prompt continued by up to `tokens` tokens, by a model and a tokenizer as transformers has read them;
    temperature, top_p, write: as of duckweed.round.export.generate; mixed: with other models. Keys and values of the tokens before are
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
                logits_processor=LogitsProcessorList([mixed] if mixed else []),
            )  # fmt: skip
        except IndexError as error:  # a table of positions that is too short
            most = getattr(network.config, "max_position_embeddings", "fewer")
            raise ModelError(
                f"the model cannot write {tokens} tokens after a prompt of {ids.numel()}: it has "
                f"positions for {most}; ask for fewer tokens"
            ) from error
    return str(tokenizer.decode(out[0], skip_special_tokens=True))
