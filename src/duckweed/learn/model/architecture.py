"""The architecture as data: what a specification changes of a configuration, in transformers' words.

Every family is one that transformers has itself, so that an exported model is read back by
AutoModelForCausalLM without any code of ours.
"""

from enum import StrEnum
from typing import Any

from duckweed.run.sections import Architecture


class Reason(StrEnum):
    """Why a model is refused at the start of a run; the list is in docs/learn.md."""

    BUILD = "cannot be built from this configuration by transformers"
    COMPOSITE = "has no text part that is a causal language model of its own"
    TOKENS = "cannot be computed from tokens alone"
    LENGTH = "cannot take sequences of this length"
    CAUSAL = "is not causal"
    FINITE = "gives values that are not finite"
    TRAIN = "cannot be trained a step"
    BUFFERS = "changes its buffers in training"
    PACKING = "does not keep conversations in one sequence apart"
    EXPORT = "is not read back from its export as it was"
    GENERATE = "cannot continue a text, as `duckweed generate` asks it to"


class ModelError(ValueError):
    """The model cannot be used; the message says why and what to do. reason: of a model that cannot be
    trained here with any settings."""

    def __init__(self, text: str, reason: Reason | None = None) -> None:
        super().__init__(text)
        self.reason = reason


NAMES = {
    "activation": "hidden_act", "tied": "tie_word_embeddings", "initial": "initializer_range",
    "width": "hidden_size", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
    "layers": "num_hidden_layers", "inner_width": "intermediate_size",
    "attention_bias": "attention_bias", "mlp_bias": "mlp_bias", "norm_epsilon": "rms_norm_eps",
}  # fmt: skip
FAMILIES = ("llama", "qwen3", "olmo2", "gemma2", "nanochat", "arcee")
UNGATED = ("nanochat", "arcee")  # two matrices in the feed-forward part where the others have three
SOFTCAPPED = ("gemma2", "nanochat")
HEADED = ("qwen3", "gemma2")  # their default width of a head is fixed, not hidden_size / heads
BIASED = ("llama", "arcee")  # have mlp_bias


def changed(facts: dict[str, Any], wanted: Architecture) -> dict[str, Any]:
    """The fields of a configuration with what the specification changes. Raises ModelError.

    A change of width takes the feed-forward part along, a change between gated and ungated keeps
    its parameters (2/3, 3/2 of the width), each unless `inner_width` says otherwise.
    """
    if wanted == Architecture():
        return dict(facts)
    before = facts.get("model_type")
    if before not in FAMILIES:
        raise ModelError(
            f"architecture: changes are for {', '.join(FAMILIES)}; the source is of type {before!r}"
        )
    family = wanted.family or before
    found = {**facts, "model_type": family}
    for name, key in NAMES.items():
        if (value := getattr(wanted, name)) is not None:
            found[key] = value
    if wanted.rope_base is not None:
        found["rope_parameters"] = {"rope_type": "default", "rope_theta": wanted.rope_base}
    if wanted.inner_width is None and "intermediate_size" in found:
        found["intermediate_size"] = _inner_width(facts, found)
    _heads(facts, found, wanted)
    if found.get("mlp_bias") and family not in BIASED:
        raise ModelError(f"architecture.mlp_bias: {family} has none; {' and '.join(BIASED)} have")
    _particular(found, wanted)
    return found


def _inner_width(facts: dict[str, Any], found: dict[str, Any]) -> int:
    """Width of the feed-forward part that goes with a change of width or of family."""
    share = found["hidden_size"] / facts["hidden_size"]
    share *= 1.5 if found["model_type"] in UNGATED else 1.0
    share /= 1.5 if facts["model_type"] in UNGATED else 1.0
    width = facts["intermediate_size"]
    return width if share == 1.0 else max(8, round(width * share / 8) * 8)


def _heads(facts: dict[str, Any], found: dict[str, Any], wanted: Architecture) -> None:
    """Heads that divide the width into even parts, and groups that divide the heads."""
    width, heads = found.get("hidden_size", 0), found.get("num_attention_heads", 1)
    groups = found.get("num_key_value_heads") or heads
    if wanted.kv_heads is None and wanted.heads is not None:
        before = facts["num_attention_heads"]
        groups = max(1, heads * (facts.get("num_key_value_heads") or before) // before)
    if heads % groups:
        raise ModelError(f"architecture.kv_heads = {groups}: does not divide the {heads} heads")
    found["num_key_value_heads"] = groups
    if wanted.width is not None or wanted.heads is not None:
        found.pop("head_dim", None)
    if "head_dim" not in found and (width % heads or width // heads % 2):
        raise ModelError(
            f"architecture: a width of {width} in {heads} heads: rotary positions need heads of an "
            "even width"
        )
    if found["model_type"] in HEADED:
        found.setdefault("head_dim", width // heads)


def _particular(found: dict[str, Any], wanted: Architecture) -> None:
    """What only some families have."""
    family = found["model_type"]
    if family not in SOFTCAPPED:
        found.pop("final_logit_softcapping", None)
        if wanted.softcap:
            raise ModelError(
                f"architecture.softcap: {family} has none; {' and '.join(SOFTCAPPED)} have"
            )
    elif wanted.softcap is not None or wanted.family is not None:
        found["final_logit_softcapping"] = wanted.softcap or None
    if family == "gemma2":
        if wanted.activation is not None:
            found["hidden_activation"] = wanted.activation
        found["query_pre_attn_scalar"] = found["head_dim"]
        if wanted.family is not None:
            # A soft cap on attention rules out the fast kernels; every layer sees the sequence.
            found["attn_logit_softcapping"] = None
            found["sliding_window"] = max(1 << 20, found.get("sliding_window") or 0)
            found.setdefault("hidden_activation", found.get("hidden_act", "silu"))
