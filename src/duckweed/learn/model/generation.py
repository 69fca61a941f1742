"""Text from a model."""

import io
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from typing import Any

import torch
from transformers import TextStreamer

from duckweed.learn.device import seeded
from duckweed.learn.model.architecture import ModelError

TOP_P = 0.95
Say = Callable[[str], None]


class Written(TextStreamer):
    """Hands on text as it is generated, as soon as no later token can change it: word by word."""

    def __init__(self, tokenizer: Any, write: Say) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.write(text)


def _keeps_the_past(network: Any, ids: torch.Tensor) -> bool:
    """Whether a model can go on from the keys and values of the tokens before. The code of some (Kimi Linear
    and xLSTM in transformers 5) fails at the second token."""
    one = ids[:, :1]
    try:
        network.generate(
            input_ids=one,
            attention_mask=torch.ones_like(one),
            max_new_tokens=2,
            do_sample=False,
            use_cache=True,
        )
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
) -> str:
    """The prompt continued by up to `tokens` tokens, by a model and a tokenizer as transformers has read them;
    temperature, top_p, write: as of duckweed.round.export.generate. Keys and values of the tokens before are
    kept where the model's code can do that, so that each token is computed once. Raises ModelError where the
    model has too few positions."""
    network = network.to(device).eval()
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    if ids.numel() == 0:
        ids = torch.tensor([[tokenizer.eos_token_id]])
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    # The code of some models, such as Reformer's, prints.
    hushed = redirect_stdout(io.StringIO()) if write is None else nullcontext()
    with torch.no_grad(), seeded(seed, device), hushed:
        try:
            out = network.generate(
                input_ids=ids.to(device),
                attention_mask=torch.ones_like(ids).to(device),
                max_new_tokens=tokens,
                pad_token_id=tokenizer.eos_token_id,
                use_cache=_keeps_the_past(network, ids.to(device)),
                streamer=Written(tokenizer, write) if write else None,
                **(sampling if temperature > 0 else {"do_sample": False}),
            )
        except IndexError as error:  # a table of positions that is too short
            most = getattr(network.config, "max_position_embeddings", "fewer")
            raise ModelError(
                f"the model cannot write {tokens} tokens after a prompt of {ids.numel()}: it has "
                f"positions for {most}; ask for fewer tokens"
            ) from error
    return str(tokenizer.decode(out[0], skip_special_tokens=True))
