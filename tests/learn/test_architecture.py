"""What a specification changes of a model's configuration, and what of that is refused."""

from pathlib import Path

import pytest
import torch

from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import FAMILIES, changed
from duckweed.learn.model.model import ModelError
from duckweed.learn.model.presets import PRESETS
from duckweed.run.sections import Architecture

TINY = PRESETS["llama-0.5m"]


def made(**changes):
    wanted = Architecture(**changes)
    config = models.configuration("llama-0.5m", Path(), 257, 64, architecture=wanted)
    return config, models.build(config, "cpu", 0, wanted.zero_projections)


def test_without_changes_the_configuration_is_the_source():
    for facts in PRESETS.values():
        assert changed(facts, Architecture()) == facts


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_built_with_what_makes_it_one(family):
    config, model = made(family=family, activation="relu2")
    names = {name for name, _ in model.named_parameters()}
    assert config.model_type == family
    per_head = any("layers.0.self_attn.q_norm" in name for name in names)
    assert per_head == (family in ("qwen3", "olmo2"))
    assert any("gate_proj" in name for name in names) == (family not in ("nanochat", "arcee"))
    assert any("pre_feedforward" in name for name in names) == (family == "gemma2")
    assert any("input_layernorm" in name for name in names) == (family not in ("olmo2", "nanochat"))
    acts = [m for m in model.modules() if type(m).__name__ == "ReLUSquaredActivation"]
    assert acts


@pytest.mark.parametrize("family", ["gemma2", "nanochat"])
def test_a_soft_cap_bounds_the_logits(family):
    tokens = torch.arange(16)[None]
    for cap in (15.0, 0.0):
        config, model = made(family=family, softcap=cap, initial=1.0)
        with torch.no_grad():
            largest = float(model(input_ids=tokens).logits.abs().max())
        assert (largest <= 15) == (cap == 15.0)
        assert config.final_logit_softcapping == (cap or None)


def test_zero_projections_leave_the_residual_stream_as_it_was():
    for family in FAMILIES:
        if family in ("gemma2", "olmo2"):  # their norms divide zero by zero's size
            continue
        _, model = made(family=family, zero_projections=True)
        zero = {n for n, p in model.named_parameters() if p.ndim == 2 and not p.any()}
        assert len(zero) == 2 * TINY["num_hidden_layers"], family


def test_sizes_follow_each_other_unless_they_are_said():
    config, _ = made(width=64, heads=2)
    assert (config.hidden_size, config.intermediate_size) == (64, 184)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 2)
    config, _ = made(width=64, inner_width=100, kv_heads=1)
    assert (config.intermediate_size, config.num_key_value_heads) == (100, 1)
    assert made(family="arcee")[0].intermediate_size == 408


def test_the_rest_stands_in_the_configuration():
    config, model = made(
        layers=2, rope_base=500.0, tied=True, initial=0.1, attention_bias=True, mlp_bias=True,
        norm_epsilon=1e-3,
    )  # fmt: skip
    assert config.rope_parameters["rope_theta"] == 500.0
    assert (config.num_hidden_layers, config.rms_norm_eps) == (2, 1e-3)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert sum(1 for name, _ in model.named_parameters() if name.endswith("bias")) == 2 * 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"softcap": 15.0}, r"architecture\.softcap: llama has none; gemma2 and nanochat"),
        ({"family": "qwen3", "mlp_bias": True}, r"architecture\.mlp_bias: qwen3 has none"),
        ({"kv_heads": 3}, r"architecture\.kv_heads = 3: does not divide the 4 heads"),
        ({"width": 100, "heads": 8}, "heads of an even width"),
        ({"width": 36, "heads": 4}, "heads of an even width"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        made(**changes)


def test_changes_are_for_families_that_we_know():
    with pytest.raises(ModelError, match="the source is of type 'deepseek_v3'"):
        changed(PRESETS["deepseek-v3-mini"], Architecture(layers=2))


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 0), ("layers", 0), ("softcap", -1.0), ("initial", float("nan")), ("rope_base", 0.1)],
)
def test_values_out_of_range_name_their_key(key, value):
    with pytest.raises(ValueError, match=rf"architecture\.{key} = .*must be between"):
        Architecture(**{key: value})
