"""The model: any transformers causal language model, as a module and as one flat vector."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging as bars

from duckweed.learn.device import seeded
from duckweed.learn.model.architecture import ModelError, changed
from duckweed.learn.model.presets import PRESETS
from duckweed.run.layout import Layout
from duckweed.run.sections import Architecture


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, which would be drawn across our own view."""
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def configuration(
    source: str,
    base: Path,
    vocabulary: int,
    sequence: int,
    given: bool = False,
    architecture: Architecture | None = None,
) -> PretrainedConfig:
    """The configuration named by `source`: a preset, a config.json or a folder with one (relative
    to `base`), or a hub name; with the vocabulary of the tokenizer and room for the sequence.

    given: its weights will be used too, so its own vocabulary stays. Raises ModelError.
    """
    facts = dict(PRESETS[source]) if source in PRESETS else _read(source, base)
    facts = changed(facts, architecture or Architecture())
    kind = facts.pop("model_type", None)
    if not given:
        facts["vocab_size"] = vocabulary
    elif facts.get("vocab_size", 0) < vocabulary:
        raise ModelError(
            f"the weights at {source!r} know {facts.get('vocab_size', 0)} tokens, the tokenizer "
            f"has {vocabulary}; set data.tokenizer to the model's own folder"
        )
    facts["max_position_embeddings"] = max(
        facts.get("max_position_embeddings") or 0, 1024, sequence
    )
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        # A configuration's own special tokens belong to its own tokenizer.
        facts[key] = None
    try:
        config = AutoConfig.for_model(kind, **facts)
    except Exception as error:  # transformers checks with exceptions of many kinds
        raise ModelError(
            f"model.source = {source!r}: transformers refuses it: {_brief(error)}"
        ) from error
    config.use_cache = False
    return config


def _read(source: str, base: Path) -> dict[str, Any]:
    near = difflib.get_close_matches(source, PRESETS, n=1, cutoff=0.75)
    if near and not (base / source).exists():
        raise ModelError(f"model.source = {source!r} is not a preset; did you mean {near[0]!r}?")
    path = base / Path(source).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if path.is_file():
        try:
            facts = json.loads(path.read_text("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: not a transformers configuration: {error}") from error
        if not isinstance(facts, dict) or "model_type" not in facts:
            raise ModelError(f"{path}: not a transformers configuration: it names no model_type")
        return facts
    if source.endswith(".json") or source.startswith((".", "/", "~")):
        raise ModelError(f"model.source = {source!r}: no such file or folder under {base}")
    try:
        return AutoConfig.from_pretrained(source).to_dict()
    except (OSError, ValueError) as error:
        known = ", ".join(PRESETS)
        raise ModelError(
            f"model.source = {source!r} is neither a preset ({known}), nor a file here, "
            f"and the Hugging Face hub did not give it: {str(error).splitlines()[0]}"
        ) from error


def skeleton(config: PretrainedConfig) -> nn.Module:
    """The model without memory for its weights, to count and to lay out. Raises ModelError."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # of many kinds, as above
        raise ModelError(
            f"no causal language model of type {config.model_type!r} can be built from this "
            f"configuration: {_brief(error)}"
        ) from error


def _brief(error: Exception) -> str:
    """The last line of a message, where the cause stands, at most 300 characters of it."""
    lines = str(error).strip().splitlines() or [""]
    named = f"{type(error).__name__}: {lines[-1].strip()}" if len(lines) == 1 else lines[-1].strip()
    return named if len(named) <= 300 else named[:300] + " ..."


def layout_of(model: nn.Module) -> Layout:
    """Names and shapes of the trained parameters, tied ones once."""
    return Layout.of({name: tuple(p.shape) for name, p in model.named_parameters()})


def build(
    config: PretrainedConfig, device: str = "cpu", seed: int = 0, zero_projections: bool = False
) -> nn.Module:
    """A model with fresh weights drawn with `seed`, float32; zero_projections: what attention and
    feed-forward parts add to the residual stream begins at zero."""
    # Plain attention is 10-15 % faster than the fused kernel on CPUs at these lengths
    # (docs/learn.md); on accelerators the fused one is far ahead.
    eager = device == "cpu" or config.model_type == "gemma2"  # which has no fused kernel
    attention = "eager" if eager else "sdpa"
    with seeded(seed, "cpu"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
    if zero_projections:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight", "mlp.fc2.weight")):
                    parameter.zero_()
    return model.to(device)


def given_weights(source: str, base: Path) -> nn.Module:
    """The model with the weights that lie at `source`. Raises ModelError."""
    path = base / Path(source).expanduser()
    place = str(path) if path.is_dir() else source
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ModelError(f"no weights at {source!r}: {str(error).splitlines()[0]}") from error
    return model


def read_weights(model: nn.Module) -> np.ndarray:
    """All parameters as one vector f32[P], in the order of the layout."""
    with torch.no_grad():
        flat = torch.cat(
            [p.detach().reshape(-1).to("cpu", torch.float32) for p in model.parameters()]
        )
    return flat.numpy()


def write_weights(model: nn.Module, flat: np.ndarray) -> None:
    """Set all parameters from one vector f32[P]."""
    source, start = torch.from_numpy(flat), 0
    with torch.no_grad():
        for parameter in model.parameters():
            part = source[start : start + parameter.numel()]
            parameter.copy_(part.view(parameter.shape))
            start += parameter.numel()


def export(model: nn.Module, flat: np.ndarray, folder: Path, end: int) -> None:
    """Write a Hugging Face folder: config.json and model.safetensors; end: id that ends a text."""
    write_weights(model, flat)
    model.config.eos_token_id = end  # type: ignore[union-attr]
    model.generation_config.eos_token_id = end  # type: ignore[union-attr]
    model.config.use_cache = True  # type: ignore[union-attr]
    with quiet():
        model.save_pretrained(folder)  # type: ignore[operator]
