"""Parameters of a `transformers` configuration, counted from its fields without building the model.

Every family is one function from the dictionary in `config.json` to its layers; an architecture
without such a function is refused, never guessed. Formulas and not modules, because the planner
starts in a tenth of the time that torch and transformers take to be imported, needs layers by kind
(experts, windows of attention), which a module does not name, and plans for architectures of which
no class is installed. The tests compare the counts with the modules that `transformers` builds and
with the totals the makers publish.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from duckweed.plan.errors import PlanError

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    """Parameters of one transformer block by kind, and what attention costs beyond its weights."""

    attention: int
    dense: int = 0
    routed: int = 0
    shared: int = 0
    other: int = 0
    """Norms, routers, sinks."""
    experts: int = 0
    """Routed experts."""
    chosen: int = 0
    """Routed experts that a token uses."""
    score: int = 0
    """Sum over heads of (query-key width + value width), for the cost of attention itself."""
    window: int = 0
    """Tokens that a query can see at most; 0: the whole context."""

    @property
    def total(self) -> int:
        return self.attention + self.dense + self.routed + self.shared + self.other

    @property
    def active(self) -> float:
        used = self.routed * self.chosen / self.experts if self.experts else 0.0
        return self.total - self.routed + used


@dataclass(frozen=True)
class Shape:
    """A model as the planner sees it."""

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    embedding: int
    """Parameters of the input table."""
    head: int
    """Parameters of the output matrix; 0 if it is tied to the input table."""
    final: int = 0
    """Parameters behind the last layer."""
    tied: bool = False
    nextn: int = 0
    """Parameters of layers for multi-token prediction, which most makers leave out of totals."""

    @cached_property
    def total(self) -> int:
        """All parameters, each stored once."""
        return sum(layer.total for layer in self.layers) + self.embedding + self.head + self.final

    @cached_property
    def active(self) -> float:
        """Parameters that serve one token, tables included: the number makers publish."""
        return sum(layer.active for layer in self.layers) + self.embedding + self.head + self.final

    @cached_property
    def multiplied(self) -> float:
        """Active parameters that are multiplied: without the input table (a look-up), with the
        output matrix, tied or not."""
        return self.active - self.embedding + (self.embedding if self.tied else 0)

    @cached_property
    def kinds(self) -> dict[str, int]:
        """Parameters by kind; the values add up to `total`."""
        names = ("attention", "dense", "routed", "shared", "other")
        sums = {name: sum(getattr(layer, name) for layer in self.layers) for name in names}
        sums["other"] += self.final
        return {**sums, "embedding": self.embedding + self.head}

    @cached_property
    def widest(self) -> int:
        """Parameters of the largest layer: what one machine must hold if layers are not split."""
        return max(layer.total for layer in self.layers)

    @cached_property
    def expert_layers(self) -> int:
        return sum(1 for layer in self.layers if layer.experts)

    @cached_property
    def chosen(self) -> int:
        return max((layer.chosen for layer in self.layers), default=0)

    def flop_per_token(self, context: int) -> float:
        """Training FLOP per token at a context length: 6 per multiplied parameter (Kaplan et al.
        2020, arXiv 2001.08361) and 3 x 2 x score x (mean visible context) for causal attention."""
        seen = (min(layer.window or context, context) for layer in self.layers)
        attention = sum(
            layer.score * (w - w * w / (2 * context))
            for layer, w in zip(self.layers, seen, strict=True)
        )
        return 6.0 * self.multiplied + 6.0 * attention


def need(config: Config, *fields: str) -> list[int]:
    """The fields, of which a string may name several. Raises PlanError where one is missing."""
    names = " ".join(fields).split()
    missing = [name for name in names if config.get(name) is None]
    if missing:
        kind = config.get("model_type", "?")
        raise PlanError(
            f"The configuration (model_type {kind!r}) lacks {', '.join(missing)}. "
            "Take the config.json of the model itself."
        )
    return [int(config[name]) for name in names]


def grouped_attention(
    config: Config, biased: bool = False, normed: bool = False
) -> tuple[int, int]:
    """Parameters and score width of grouped-query attention."""
    hidden, heads = need(config, "hidden_size num_attention_heads")
    shared = int(config.get("num_key_value_heads") or heads)
    width = int(config.get("head_dim") or hidden // heads)
    outer = heads * width
    weights = hidden * outer * 2 + hidden * shared * width * 2
    if biased:
        weights += outer + 2 * shared * width
    if normed:
        weights += 2 * width
    return weights, heads * 2 * width


def llama(config: Config) -> list[Layer]:
    """Llama, Mistral, Qwen2, Qwen3: grouped attention and a gated feed-forward."""
    hidden, wide, depth = need(config, "hidden_size intermediate_size num_hidden_layers")
    kind = config["model_type"]
    biased = kind == "qwen2" or bool(config.get("attention_bias"))
    weights, score = grouped_attention(config, biased, normed=kind == "qwen3")
    if biased and kind != "qwen2":
        weights += hidden
    gated = 3 * hidden * wide + (2 * wide + hidden if config.get("mlp_bias") else 0)
    window = int(config.get("sliding_window") or 0) if kind == "mistral" else 0
    layer = Layer(weights, dense=gated, other=2 * hidden, score=score, window=window)
    return [layer] * depth


def gemma2(config: Config) -> list[Layer]:
    """Gemma 2 and the text part of Gemma 3: four norms, every second (sixth) layer sees it all."""
    hidden, wide, depth = need(config, "hidden_size intermediate_size num_hidden_layers")
    third = config["model_type"] == "gemma3_text"
    weights, score = grouped_attention(config, normed=third)
    window = int(config.get("sliding_window") or 0)
    period = int(config.get("sliding_window_pattern") or (6 if third else 2))
    return [
        Layer(
            weights,
            dense=3 * hidden * wide,
            other=4 * hidden,
            score=score,
            window=0 if (index + 1) % period == 0 else window,
        )
        for index in range(depth)
    ]


def mixtral(config: Config) -> list[Layer]:
    hidden, wide, depth, experts, chosen = need(
        config,
        "hidden_size intermediate_size",
        "num_hidden_layers num_local_experts num_experts_per_tok",
    )
    weights, score = grouped_attention(config)
    other = 2 * hidden + experts * hidden
    routed = experts * 3 * hidden * wide
    return [
        Layer(weights, routed=routed, other=other, experts=experts, chosen=chosen, score=score)
    ] * depth


def qwen_moe(config: Config) -> list[Layer]:
    """Qwen2-MoE (shared expert with a gate) and Qwen3-MoE (no shared expert, normed queries)."""
    hidden, wide, depth, experts, chosen = need(
        config,
        "hidden_size moe_intermediate_size",
        "num_hidden_layers num_experts num_experts_per_tok",
    )
    second = config["model_type"] == "qwen2_moe"
    weights, score = grouped_attention(config, biased=second, normed=not second)
    shared = 0
    if second:
        shared = 3 * hidden * need(config, "shared_expert_intermediate_size")[0] + hidden
    sparse = Layer(
        weights,
        routed=experts * 3 * hidden * wide,
        shared=shared,
        score=score,
        other=2 * hidden + experts * hidden,
        experts=experts,
        chosen=chosen,
    )
    step, plain = int(config.get("decoder_sparse_step") or 1), config.get("mlp_only_layers") or []
    dense = Layer(
        weights,
        dense=3 * hidden * int(config.get("intermediate_size") or 0),
        other=2 * hidden,
        score=score,
    )
    return [dense if i in plain or (i + 1) % step else sparse for i in range(depth)]


def deepseek(config: Config) -> list[Layer]:
    """DeepSeek-V2 and V3, Kimi-K2: latent attention, dense first layers, routed and shared experts.
    Balancing biases of the routers are not trained by gradients, so not counted."""
    hidden, depth, heads, latent, nope, rope, value = need(
        config,
        "hidden_size num_hidden_layers num_attention_heads",
        "kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim",
    )
    experts, chosen, wide, expert_wide = need(
        config, "n_routed_experts num_experts_per_tok", "intermediate_size moe_intermediate_size"
    )
    low = int(config.get("q_lora_rank") or 0)
    query = heads * (nope + rope)
    attention = (hidden * low + low + low * query) if low else hidden * query
    attention += hidden * (latent + rope) + latent + latent * heads * (nope + value)
    attention += heads * value * hidden
    score = heads * (nope + rope + value)
    shared = int(config.get("n_shared_experts") or 0) * 3 * hidden * expert_wide
    sparse = Layer(
        attention,
        routed=experts * 3 * hidden * expert_wide,
        shared=shared,
        score=score,
        other=2 * hidden + experts * hidden,
        experts=experts,
        chosen=chosen,
    )
    dense = Layer(attention, dense=3 * hidden * wide, other=2 * hidden, score=score)
    first = int(config.get("first_k_dense_replace") or 0)
    return [dense if index < first else sparse for index in range(depth)]


def deepseek_v4(config: Config) -> list[Layer]:
    """DeepSeek-V4: compressed attention of two kinds, grouped output projection, hyper-connections.
    Look-up tables of the hash-routed layers and balancing biases are not trained, so not counted."""
    hidden, depth, heads, width, low, groups, group_low = need(
        config,
        "hidden_size num_hidden_layers num_attention_heads",
        "head_dim q_lora_rank o_groups o_lora_rank",
    )
    experts, chosen, wide, index_heads, index_width, top = need(
        config,
        "n_routed_experts num_experts_per_tok moe_intermediate_size",
        "index_n_heads index_head_dim index_topk",
    )
    streams = int(config.get("hc_mult") or 4)
    window = int(config.get("sliding_window") or 128)
    base = hidden * low + low + low * heads * width + hidden * width + width + heads
    base += heads * width * group_low + groups * group_low * hidden

    def compressor(size: int, rate: int, overlap: int) -> int:
        return 2 * hidden * overlap * size + rate * overlap * size + size

    heavy = compressor(width, 128, 1)
    indexer = compressor(index_width, 4, 2) + low * index_heads * index_width + hidden * index_heads
    light = compressor(width, 4, 2) + indexer
    mixes = (2 + streams) * streams
    streams_params = 2 * (mixes * streams * hidden + mixes + 3)
    routed = experts * 3 * hidden * wide
    shared = int(config.get("n_shared_experts") or 0) * 3 * hidden * wide
    layers = []
    for index in range(depth):
        is_light = index >= 2 and (index - 2) % 2 == 1
        other = 2 * hidden + experts * hidden + streams_params
        layers.append(
            Layer(
                base + (light if is_light else heavy),
                routed=routed,
                shared=shared,
                other=other,
                experts=experts,
                chosen=chosen,
                score=heads * 2 * width,
                window=window + (top if is_light else 0),
            )
        )
    return layers


def gpt_oss(config: Config) -> list[Layer]:
    hidden, wide, depth, experts, chosen, heads = need(
        config,
        "hidden_size intermediate_size num_hidden_layers",
        "num_local_experts num_experts_per_tok num_attention_heads",
    )
    weights, score = grouped_attention(config, biased=True)
    weights += hidden + heads
    routed = experts * (3 * hidden * wide + 2 * wide + hidden)
    other = 2 * hidden + experts * hidden + experts
    window = int(config.get("sliding_window") or 0)
    return [
        Layer(
            weights,
            routed=routed,
            other=other,
            experts=experts,
            chosen=chosen,
            score=score,
            window=window if index % 2 == 0 else 0,
        )
        for index in range(depth)
    ]


FAMILIES: dict[str, Callable[[Config], list[Layer]]] = {
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
    "qwen3": llama,
    "gemma2": gemma2,
    "gemma3_text": gemma2,
    "mixtral": mixtral,
    "qwen2_moe": qwen_moe,
    "qwen3_moe": qwen_moe,
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "kimi_k2": deepseek,
    "deepseek_v4": deepseek_v4,
    "gpt_oss": gpt_oss,
}

TIED = {"gemma2": True, "gemma3_text": True}
"""Families whose configuration ties the tables when it does not say."""


def shape(config: Config, name: str = "") -> Shape:
    """The parameters of a configuration. Raises PlanError for an architecture without a counter."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise PlanError(
            f"No counter for the architecture {kind!r}; it would be a guess, so there is no plan. "
            f"Known: {', '.join(sorted(FAMILIES))}. Or give total and active parameters by hand: "
            "--model dense-7B, --model moe-671B-37B."
        )
    hidden, vocab = need(config, "hidden_size vocab_size")
    layers = FAMILIES[kind](config)
    for field in ("hidden_size", "vocab_size", "num_hidden_layers"):
        if int(config[field]) <= 0:
            raise PlanError(
                f"The configuration says {field} = {config[field]}; it must be positive."
            )
    tied = config.get("tie_word_embeddings")
    tied = TIED.get(str(kind), False) if tied is None else bool(tied)
    table = hidden * vocab
    final = hidden
    if kind == "deepseek_v4":
        streams = int(config.get("hc_mult") or 4)
        final += streams * streams * hidden + streams + 1
    extra = int(config.get("num_nextn_predict_layers") or 0)
    nextn = extra * (layers[-1].total + 2 * hidden * hidden + 2 * hidden)
    head = 0 if tied else table
    return Shape(name or str(kind), hidden, vocab, tuple(layers), table, head, final, tied, nextn)


def read(path: Path) -> Shape:
    """The shape of the `config.json` in a file or a model folder."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise PlanError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise PlanError(f"{file} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise PlanError(f"{file} holds no configuration (a JSON object was expected).")
    if "text_config" in config and "num_hidden_layers" not in config:
        config = {"model_type": "", **config["text_config"]}
    return shape(config, file.parent.name if file.name == "config.json" else file.stem)
