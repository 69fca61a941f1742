"""Text from a model."""

import io
from contextlib import redirect_stdout
from typing import Any

import torch

from duckweed.learn.device import seeded
from duckweed.learn.model.architecture import ModelError


def continued(
    network: Any,
    tokenizer: Any,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    device: str,
) -> str:
    """The prompt continued by up to `tokens` tokens, by a model and a tokenizer of transformers; temperature 0
    takes the likeliest each time. Raises ModelError where it has too few positions."""
    network = network.to(device).eval()
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    if ids.numel() == 0:
        ids = torch.tensor([[tokenizer.eos_token_id]])
    sampling = {"do_sample": True, "temperature": temperature, "top_p": 0.95}
    with torch.no_grad(), seeded(seed, device), redirect_stdout(io.StringIO()):  # Reformer prints
        try:
            out = network.generate(
                input_ids=ids.to(device),
                attention_mask=torch.ones_like(ids).to(device),
                max_new_tokens=tokens,
                pad_token_id=tokenizer.eos_token_id,
                **(sampling if temperature > 0 else {"do_sample": False}),
            )
        except IndexError as error:  # a table of positions that is too short
            most = getattr(network.config, "max_position_embeddings", "fewer")
            raise ModelError(
                f"the model cannot write {tokens} tokens after a prompt of {ids.numel()}: it has "
                f"positions for {most}; ask for fewer tokens"
            ) from error
    return str(tokenizer.decode(out[0], skip_special_tokens=True))
