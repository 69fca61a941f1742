"""Models: named, configured, counted, as one flat vector."""

import json

import numpy as np
import pytest
import torch
from fixtures.tiny import CONFIG
from transformers import AutoModelForCausalLM

from duckweed.learn.model import model as models
from duckweed.learn.model.given import given_weights
from duckweed.learn.model.model import ModelError
from duckweed.learn.model.presets import PRESETS
from duckweed.run.defaults import SIZES

# With the byte tokenizer's 257 entries, and with the vocabulary that the shape was published with.
COUNTS = {
    ("llama-0.5m", 257): 511_008,
    ("llama-0.6m", 257): 667_856,
    ("llama-1m", 257): 1_070_720,
    ("llama-15m", 257): 14_359_680,
    ("llama-125m", 257): 113_666_304,
    ("llama-125m", 8192): 125_854_464,
    ("llama-1b", 257): 973_672_448,
    ("llama-1b", 128_256): 1_235_814_400,
    ("qwen3-0.6b", 257): 440_730_624,
    ("qwen3-0.6b", 151_936): 596_049_920,
    ("deepseek-v3-mini", 257): 2_293_504,
}


@pytest.mark.parametrize(("preset", "vocabulary"), COUNTS)
def test_every_preset_has_its_number_of_parameters(tmp_path, preset, vocabulary):
    config = models.configuration(preset, tmp_path, vocabulary, 128)
    model = models.skeleton(config)
    assert all(p.is_meta for p in model.parameters())
    assert models.layout_of(model).total == COUNTS[preset, vocabulary]
    assert config.vocab_size == vocabulary


def test_counts_cover_all_presets_and_meet_the_published_sizes():
    assert {preset for preset, _ in COUNTS} == set(PRESETS)
    over_bytes = {preset: count for (preset, words), count in COUNTS.items() if words == 257}
    assert pytest.approx(over_bytes, rel=0.01) == SIZES
    assert COUNTS["llama-1b", 128_256] == pytest.approx(1.24e9, rel=0.01)
    assert COUNTS["qwen3-0.6b", 151_936] == pytest.approx(0.6e9, rel=0.01)


def written(folder, facts, name="config.json"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(facts if isinstance(facts, str) else json.dumps(facts))


def test_a_folder_and_a_file_say_the_same(tmp_path):
    written(tmp_path / "mine", CONFIG | {"vocab_size": 32_000, "bos_token_id": 31_999})
    for source in ("mine", "mine/config.json", str(tmp_path / "mine")):
        config = models.configuration(source, tmp_path, 257, 4096)
        assert (config.hidden_size, config.vocab_size) == (32, 257)
        assert config.max_position_embeddings == 4096
        assert config.bos_token_id is None
        assert not config.use_cache


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("{", "not a transformers configuration"),
        ("[1]", "names no model_type"),
        ('{"hidden_size": 3}', "names no model_type"),
        (CONFIG | {"model_type": "lama"}, "lama"),
        (CONFIG | {"hidden_size": "wide"}, "'hidden_size' expected int"),
        (CONFIG | {"num_attention_heads": 5}, "attention heads"),
        (CONFIG | {"hidden_act": "sine"}, "sine"),
        ({"model_type": "vit"}, "causal language model"),
    ],
)
def test_configurations_that_cannot_be_used(tmp_path, facts, message):
    written(tmp_path, facts, "c.json")
    with pytest.raises(ModelError, match=message) as error:
        models.skeleton(models.configuration("c.json", tmp_path, 257, 64))
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("source", ["./none", "none.json", "/none/config.json"])
def test_a_file_that_is_not_there(tmp_path, source):
    with pytest.raises(ModelError, match="no such file or folder"):
        models.configuration(source, tmp_path, 257, 64)


def test_an_unknown_name_says_what_is_known(tmp_path):
    with pytest.raises(ModelError, match="did you mean 'llama-15m'"):
        models.configuration("lama-15m", tmp_path, 257, 64)
    with pytest.raises(ModelError, match=r"neither a preset.*llama-1m.*hub did not give it"):
        models.configuration("nobody/nothing", tmp_path, 257, 64)


def tiny(tmp_path, **changes):
    written(tmp_path, CONFIG | changes)
    return models.configuration("config.json", tmp_path, 257, 64)


def test_the_seed_decides_the_weights(tmp_path):
    config = tiny(tmp_path)
    one, two, other = (models.read_weights(models.build(config, "cpu", s)) for s in (3, 3, 4))
    assert one.tobytes() == two.tobytes() != other.tobytes()
    assert one.dtype == np.float32


@pytest.mark.parametrize("tied", [False, True])
def test_weights_go_out_and_in_as_one_vector(tmp_path, tied):
    model = models.build(tiny(tmp_path, tie_word_embeddings=tied))
    layout = models.layout_of(model)
    assert layout.total == sum(p.numel() for p in model.parameters())
    wanted = np.arange(layout.total, dtype=np.float32)
    models.write_weights(model, wanted)
    assert models.read_weights(model).tobytes() == wanted.tobytes()
    parts = dict(zip(layout.names, layout.slices(), strict=True))
    weight = model.get_input_embeddings().weight
    part = wanted[parts["model.embed_tokens.weight"]]
    assert weight.detach().numpy().reshape(-1).tobytes() == part.tobytes()
    assert ("lm_head.weight" in layout.names) != tied


def test_an_exported_model_is_read_by_transformers_with_the_same_output(tmp_path):
    model = models.build(tiny(tmp_path, tie_word_embeddings=True), "cpu", 1)
    flat = models.read_weights(model) * np.float32(3)
    models.write_weights(model, flat)
    models.export(model, tmp_path / "out", 256)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(model(input_ids=tokens).logits, again(input_ids=tokens).logits)
    assert again.config.eos_token_id == 256


def test_given_weights_are_used_and_their_vocabulary_stays(tmp_path):
    model = models.build(tiny(tmp_path), "cpu", 1)
    flat = models.read_weights(model)
    models.export(model, tmp_path / "given", 256)
    found = given_weights("given", tmp_path)
    assert models.read_weights(found).tobytes() == flat.tobytes()
    config = models.configuration("given", tmp_path, 100, 64, given=True)
    assert config.vocab_size == 257
    with pytest.raises(ModelError, match=r"257 tokens.*300.*data\.tokenizer"):
        models.configuration("given", tmp_path, 300, 64, given=True)
    with pytest.raises(ModelError, match="no weights"):
        given_weights("nowhere", tmp_path)
