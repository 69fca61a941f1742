"""The configuration of a model: read, and adapted to a tokenizer and a length of sequence."""

import difflib
import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from duckweed.learn.model.architecture import ModelError, Reason, changed
from duckweed.learn.model.presets import PRESETS
from duckweed.run.folder import model_folder
from duckweed.run.sections import Architecture

LEAST_POSITIONS = 1024
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
"""What types of configuration call the longest sequence."""
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
FOREIGN = ("auto_map", "quantization_config", "architectures", "dtype", "torch_dtype")
"""What a configuration says of its authors' code and stored weights. Training is in float32 by the code
that transformers itself has for the type, and nothing else is ever loaded."""


def configuration(
    source: str,
    base: Path,
    vocabulary: int,
    sequence: int,
    given: bool = False,
    architecture: Architecture | None = None,
) -> PretrainedConfig:
    """The configuration named by `source`: a preset, a config.json or a folder with one (relative
    to `base`), or a hub name; with the vocabulary of the tokenizer and room for the sequence. Of a
    composite configuration (text with pictures or sound) the text part is taken.

    given: its weights will be used too, so its own vocabulary and learned positions stay. Raises
    ModelError.
    """
    facts = dict(PRESETS[source]) if source in PRESETS else _read(source, base)
    facts = changed(_text_part(facts), architecture or Architecture())
    if given and facts.get("quantization_config"):
        how = dict(facts["quantization_config"]).get("quant_method", "an unknown method")
        raise ModelError(
            f"the weights at {source!r} are quantised ({how}) and cannot be trained; give a folder "
            'whose weights are not, or train from scratch (model.weights = "scratch")'
        )
    facts = {key: value for key, value in facts.items() if key not in FOREIGN}
    kind = facts.pop("model_type")
    if not given:
        # The mapping is lazy, and its `get` knows only what was loaded before.
        known = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else PretrainedConfig  # noqa: SIM401
        facts[known.attribute_map.get("vocab_size", "vocab_size")] = vocabulary
        for key in POSITIONS:
            if key in known.__dataclass_fields__:
                facts[key] = max(facts.get(key) or 0, LEAST_POSITIONS, sequence)
    config = _made(source, kind, facts)
    if given and config.vocab_size < vocabulary:
        raise ModelError(
            f"the weights at {source!r} know {config.vocab_size} tokens, the tokenizer "
            f"has {vocabulary}; set data.tokenizer to the model's own folder"
        )
    return config


def _made(source: str, kind: str, facts: dict[str, Any]) -> PretrainedConfig:
    """The configuration of these facts, without special tokens: those belong to its own tokenizer."""
    try:
        try:
            config = AutoConfig.for_model(kind, **(facts | dict.fromkeys(TOKENS)))
        except StrictDataclassFieldValidationError:  # of a type that must have one for padding
            config = AutoConfig.for_model(kind, **(facts | dict.fromkeys(TOKENS, 0)))
    except Exception as error:  # transformers checks with exceptions of many kinds
        raise ModelError(
            f"model.source = {source!r}: transformers refuses it: {brief(error)}", Reason.BUILD
        ) from error
    config.use_cache = False
    return config


def _text_part(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of the text model in a composite configuration; of any other the facts as they are."""
    kind = facts["model_type"]
    parts = getattr(CONFIG_MAPPING[kind], "sub_configs", {}) if kind in CONFIG_MAPPING else {}
    if "text_config" not in parts:
        return facts
    text = dict(facts.get("text_config") or {})
    if "model_type" not in text:
        try:
            text["model_type"] = CONFIG_MAPPING[kind]().get_text_config(decoder=True).model_type
        except Exception as error:  # transformers checks with exceptions of many kinds
            raise ModelError(
                f"type {kind!r} without its text_config: {brief(error)}", Reason.BUILD
            ) from error
    if text["model_type"] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"a model of type {kind!r} {Reason.COMPOSITE}", Reason.COMPOSITE)
    outer = {key: facts[key] for key in ("quantization_config",) if key in facts}
    return text | outer


def _read(source: str, base: Path) -> dict[str, Any]:
    near = difflib.get_close_matches(source, PRESETS, n=1, cutoff=0.75)
    if near and not (base / source).exists():
        raise ModelError(f"model.source = {source!r} is not a preset; did you mean {near[0]!r}?")
    path = base / Path(source).expanduser()
    path = model_folder(path) / "config.json" if path.is_dir() else path
    if path.is_file():
        try:
            facts = json.loads(path.read_text("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: not a transformers configuration: {error}") from error
        if not isinstance(facts, dict) or "model_type" not in facts:
            raise ModelError(f"{path}: not a transformers configuration: it names no model_type")
        if "auto_map" in facts and facts["model_type"] not in CONFIG_MAPPING:
            raise ModelError(
                f"{path}: a model of type {facts['model_type']!r} needs its authors' own code (auto_map), which "
                "duckweed never loads; transformers itself has no such type"
            )
        return facts
    if source.endswith(".json") or source.startswith((".", "/", "~")):
        raise ModelError(f"model.source = {source!r}: no such file or folder under {base}")
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as error:
        known = ", ".join(PRESETS)
        raise ModelError(
            f"model.source = {source!r} is neither a preset ({known}), nor a file here, "
            f"and the Hugging Face hub did not give it: {str(error).splitlines()[0]}"
        ) from error


def brief(error: Exception) -> str:
    """The last line of a message, where the cause stands, at most 300 characters of it."""
    lines = str(error).strip().splitlines() or [""]
    named = f"{type(error).__name__}: {lines[-1].strip()}" if len(lines) == 1 else lines[-1].strip()
    return named if len(named) <= 300 else named[:300] + " ..."
