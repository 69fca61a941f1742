"""Counting parameters: against what makers publish, and against the modules that get built."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.plan.errors import PlanError
from duckweed.plan.inputs import config, models

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", models.names())
def test_totals_agree_with_the_published_within_half_a_percent(name: str) -> None:
    model = models.preset(name)
    counted = model.shape.total
    if name == "deepseek-v4-pro":  # its published total holds the layer for multi-token prediction
        counted += model.shape.nextn
    assert counted == pytest.approx(model.published_total, rel=0.005)
    assert sum(model.shape.kinds.values()) == model.shape.total


@pytest.mark.parametrize(
    "name", ["deepseek-v3-671b", "kimi-k2", "qwen3-30b-a3b", "gpt-oss-120b", "mixtral-8x7b"]
)
def test_active_parameters_agree_with_the_published(name: str) -> None:
    model = models.preset(name)
    assert model.shape.active == pytest.approx(model.published_active, rel=0.02)


def built(kind: str, fields: dict[str, object]) -> int:
    import torch

    made = transformers.AutoConfig.for_model(kind, **fields)
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(made)
    return sum(parameter.numel() for parameter in module.parameters())


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe"]),
    depth=st.integers(1, 3), heads=st.sampled_from([2, 4]), shared=st.sampled_from([1, 2]),
    tied=st.booleans(), wide=st.sampled_from([48, 64]),
)  # fmt: skip
def test_counts_are_those_of_the_modules(
    kind: str, depth: int, heads: int, shared: int, tied: bool, wide: int
) -> None:
    fields: dict[str, object] = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": wide, "num_hidden_layers": depth,
        "num_attention_heads": heads, "num_key_value_heads": shared, "head_dim": 32 // heads,
        "tie_word_embeddings": tied, "num_experts_per_tok": 2,
    }  # fmt: skip
    if kind == "qwen3_moe":
        fields |= {"moe_intermediate_size": 24, "num_experts": 4}
    if kind == "mixtral":
        fields |= {"num_local_experts": 4}
    assert config.shape({"model_type": kind, **fields}).total == built(kind, fields)


@pytest.mark.parametrize("low", [0, 24])
def test_latent_attention_counts_are_those_of_the_modules(low: int) -> None:
    fields = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 80, "moe_intermediate_size": 24,
        "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2,
        "q_lora_rank": low or None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
        "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "tie_word_embeddings": False,
    }  # fmt: skip
    assert config.shape({"model_type": "deepseek_v3", **fields}).total == built(
        "deepseek_v3", fields
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in models.names() if n != "deepseek-r1-671b"])
def test_presets_count_exactly_what_transformers_builds(name: str) -> None:
    from duckweed.plan.inputs import table

    fields = dict(table.tree("models")[name]["config"])
    kind = fields.pop("model_type")
    kind = "deepseek_v3" if kind == "kimi_k2" else kind
    fields.setdefault("num_key_value_heads", fields["num_attention_heads"])
    if fields.get("q_lora_rank") == 0:
        fields["q_lora_rank"] = None
    assert built(kind, fields) == models.preset(name).shape.total


def test_active_leaves_out_the_experts_a_token_does_not_use() -> None:
    shape = models.preset("mixtral-8x7b").shape
    idle = shape.kinds["routed"] * 6 / 8
    assert shape.active == pytest.approx(shape.total - idle)


def test_flop_per_token_against_the_measured_step_of_deepseek_v3() -> None:
    """432 -> 385 TFLOP/s with causal attention, 19.926 s a step of 15360 x 4096 tokens on 2,048 cards
    (arXiv 2505.09343, table 4): 2.497e11 FLOP a token."""
    measured = 385e12 * 2048 * 19.926 / (15360 * 4096)
    assert models.preset("deepseek-v3-671b").flop_per_token == pytest.approx(measured, rel=0.01)


def test_a_tied_table_is_stored_once_and_multiplied_once() -> None:
    shape = models.preset("qwen3-0.6b").shape
    assert shape.head == 0
    assert shape.multiplied == shape.active
    untied = models.preset("qwen3-8b").shape
    assert untied.multiplied == untied.active - untied.embedding


def test_unknown_architectures_are_refused_not_guessed() -> None:
    with pytest.raises(PlanError, match="No counter for the architecture 'mamba2'"):
        config.shape({"model_type": "mamba2", "hidden_size": 64, "vocab_size": 100})


def test_missing_and_absurd_fields_are_refused() -> None:
    fields = {"model_type": "llama", "hidden_size": 64, "vocab_size": 100, "num_hidden_layers": 2}
    with pytest.raises(PlanError, match="intermediate_size"):
        config.shape(fields)
    with pytest.raises(PlanError, match="must be positive"):
        config.shape(
            {**fields, "num_hidden_layers": 0, "intermediate_size": 8, "num_attention_heads": 2}
        )


def test_a_configuration_on_disk(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from duckweed.plan.inputs import table

    (tmp_path / "config.json").write_text(json.dumps(table.tree("models")["llama-3-8b"]["config"]))
    assert models.find(str(tmp_path)).shape.total == models.preset("llama-3-8b").shape.total
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(PlanError, match="no configuration"):
        models.find(str(tmp_path))


def test_an_unknown_model_names_its_neighbours() -> None:
    with pytest.raises(PlanError, match="deepseek-v3-671b"):
        models.find("deepseek-v3")


@pytest.mark.parametrize(
    ("text", "total", "active"), [("dense-7B", 7e9, 7e9), ("moe-671B-37B", 671e9, 37e9)]
)
def test_models_by_hand_have_the_sizes_given(text: str, total: float, active: float) -> None:
    shape = models.find(text).shape
    assert shape.total == pytest.approx(total, rel=1e-3)
    assert shape.active == pytest.approx(active, rel=0.02)
    with pytest.raises(PlanError, match="more than"):
        models.find("moe-7B-70B")
