"""The beginning of a run: a model is tried out, and what cannot be trained or exported is refused."""

import json
import shutil

import pytest
import torch
from fixtures import tiny
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from duckweed.learn.model.architecture import ModelError, Reason
from duckweed.process.simulation import Simulation
from duckweed.round import export, founding
from duckweed.run import state as states

SMALL = {"rounds.peers": 2, "rounds.count": 1, "inner.steps": 2, "inner.warmup": 1}
LLAMA = tiny.CONFIG | {"vocab_size": 256}
DEEPSEEK = {
    "model_type": "deepseek_v3", "hidden_size": 32, "intermediate_size": 64,
    "moe_intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "vocab_size": 256,
}  # fmt: skip
BERT = {
    "model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip
BIAS = "e_score_correction_bias"


def given(folder, facts, change=lambda model: None):
    """A folder of a model with weights."""
    torch.manual_seed(0)
    facts = dict(facts)
    config = AutoConfig.for_model(facts.pop("model_type"), **facts)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)


def byte_level(folder, facts, split=None):
    """A folder of a small BPE tokenizer."""
    backend = Tokenizer(models.BPE())
    ends = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, ends]) if split else ends
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [tiny.text(500), *(str(n * 7919) for n in range(500))]
    backend.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


def pieces(folder, facts):
    """A folder of a small unigram tokenizer, as sentencepiece makes them."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(tiny.text(500).split("the"), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


def founded(base, changes, source=None, warn=None):
    spec = tiny.specification(base, SMALL | changes)
    if source is not None:
        (base / "config.json").write_text(json.dumps(source))
    ground = founding.prepare(spec, base, lambda text: None)
    folder = tiny.folders.create(base / "runs", "run")
    founding.found(spec, ground, folder, "cpu", 1, lambda text: None, warn)
    return spec, ground, folder


def finished(spec, folder):
    """The run to its end, with what a new process reads from its folder."""
    ground, layout = founding.reopen(folder, spec), founding.layout(folder)
    state = states.load(folder.state(0), layout)
    Simulation(folder, spec, layout, ground, state, "cpu").run()
    export.harvest(folder, spec, ground, "cpu")
    return folder.model


def biased(model):
    for name, buffer in model.named_buffers():
        if BIAS in name:
            buffer.copy_(torch.linspace(-3, 3, buffer.numel()))


def test_persistent_buffers_are_those_of_the_given_weights_to_the_end(tmp_path):
    given(tmp_path / "given", DEEPSEEK, biased)
    changes = {"model.source": "given", "model.weights": "given"}
    spec, ground, folder = founded(tmp_path, changes)
    shutil.rmtree(tmp_path / "given" / "none", ignore_errors=True)
    (tmp_path / "given" / "model.safetensors").unlink()  # a run needs them at its start only
    after = load_file(finished(spec, folder) / "model.safetensors")
    kept = {name: value for name, value in after.items() if BIAS in name}
    assert len(kept) == 2
    for value in kept.values():
        assert torch.equal(value, torch.linspace(-3, 3, 4))
    assert set(ground.buffers) == set(kept)


def test_persistent_buffers_are_part_of_what_a_run_is(tmp_path):
    layouts = []
    for name, change in (("zero", lambda model: None), ("biased", biased)):
        given(tmp_path / name / "given", DEEPSEEK, change)
        changes = {"model.source": "given", "model.weights": "given"}
        spec, ground, folder = founded(tmp_path / name, changes)
        layouts.append(founding.layout(folder))
        again = founding.Ground(ground.base, ground.dataset)
        here = founding.layout_here(spec, again, founding.first_model(spec, ground))
        assert here.digest() == layouts[-1].digest()
        assert all(
            torch.equal(again.buffers[name], value) for name, value in ground.buffers.items()
        )
    assert layouts[0].names == layouts[1].names
    assert layouts[0].digest() != layouts[1].digest()
    _, _, folder = founded(tmp_path / "llama", {})
    assert b"fixed" not in (folder.path / "layout.json").read_bytes()


def test_the_exported_tokenizer_is_the_one_of_training_whatever_its_class(tmp_path):
    digits = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    facts = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    byte_level(tmp_path / "digits", facts, digits)
    spec, ground, folder = founded(tmp_path, {"data.tokenizer": "digits"})
    found = AutoTokenizer.from_pretrained(finished(spec, folder))
    text = "year 1234567"
    assert found(text)["input_ids"] == ground.dataset.tokenizer.encode([text])[0].tolist()


@pytest.mark.parametrize("name", ["bytes", "bpe:300", "gpt2", "unigram", "t5"])
def test_a_tokenizer_of_each_kind_gives_the_ids_of_training_in_transformers(tmp_path, name):
    facts = {"eos_token": "</s>", "unk_token": "<unk>"}
    byte_level(
        tmp_path / "gpt2", {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    )
    pieces(tmp_path / "unigram", facts | {"tokenizer_class": "PreTrainedTokenizerFast"})
    pieces(tmp_path / "t5", facts | {"tokenizer_class": "T5TokenizerFast"})
    spec, ground, folder = founded(tmp_path, {"data.tokenizer": name})
    found = AutoTokenizer.from_pretrained(finished(spec, folder))
    for text in ("pond water", "  leaf\n\troot 1234567", "ﬁve pönds 漢字🎉"):
        ids = ground.dataset.tokenizer.encode([text])[0].tolist()
        assert found(text, add_special_tokens=False)["input_ids"] == ids, text


def test_foreign_code_of_a_tokenizer_is_neither_asked_about_nor_exported(tmp_path):
    facts = {
        "tokenizer_class": "MyTokenizer", "eos_token": "<|endoftext|>",
        "auto_map": {"AutoTokenizer": ["tokenization_my.MyTokenizer", None]},
    }  # fmt: skip
    byte_level(tmp_path / "foreign", facts)
    (tmp_path / "foreign" / "tokenization_my.py").write_text("raise SystemExit('was run')")
    spec, _, folder = founded(tmp_path, {"data.tokenizer": "foreign"})
    model = finished(spec, folder)
    assert "auto_map" not in (model / "tokenizer_config.json").read_text()
    AutoTokenizer.from_pretrained(model)


def test_an_export_that_differs_is_not_called_a_model(tmp_path, monkeypatch):
    spec, ground, folder = founded(tmp_path, {})
    save = type(ground.dataset.tokenizer).save

    def other(self, place):
        save(self, place)
        file = place / "tokenizer.json"
        file.write_text(file.read_text().replace('"use_regex": false', '"use_regex": true'))
        facts = json.loads(file.read_text())
        vocab = facts["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
        file.write_text(json.dumps(facts))

    monkeypatch.setattr(type(ground.dataset.tokenizer), "save", other)
    with pytest.raises(ModelError, match="gives other ids than in training") as error:
        finished(spec, folder)
    assert error.value.reason is Reason.EXPORT
    assert not folder.model.exists()


def test_weights_that_know_less_than_a_guess_are_said_aloud(tmp_path):
    def wrong(model):
        model.lm_head.weight.mul_(300)

    said = []
    changes = {"model.source": "given", "model.weights": "given"}
    given(tmp_path / "bad" / "given", LLAMA, wrong)
    founded(tmp_path / "bad", changes, warn=said.append)
    assert "worse than guessing (5.55)" in said[0]
    said.clear()
    given(tmp_path / "good" / "given", LLAMA)
    founded(tmp_path / "good", changes, warn=said.append)
    assert not said


def test_an_encoder_is_refused_and_as_a_decoder_it_is_trained(tmp_path):
    with pytest.raises(ModelError, match=r"not causal.*is_decoder") as error:
        founded(tmp_path / "encoder", {}, BERT)
    assert error.value.reason is Reason.CAUSAL
    founded(tmp_path / "decoder", {}, BERT | {"is_decoder": True})


QUANTISED = LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}


def test_of_a_quantised_configuration_the_shape_is_taken_and_its_weights_are_refused(tmp_path):
    spec, _, folder = founded(
        tmp_path / "scratch", {}, QUANTISED | {"auto_map": {"AutoConfig": "x.Y"}}
    )
    config = json.loads((finished(spec, folder) / "config.json").read_text())
    assert not {"quantization_config", "auto_map"} & set(config)
    with pytest.raises(ModelError, match=r"quantised \(gptq\) and cannot be trained"):
        founded(tmp_path / "given", {"model.weights": "given"}, QUANTISED)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5000])


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 600000\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "cut off"),
        (pointer, "git lfs pull"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"\xff" * 100), "no safetensors file"),
        (lambda path: path.write_bytes(b"\x20" + b"\0" * 7 + b"x" * 50), "damaged"),
        (lambda path: path.unlink(), "no weights at 'given'"),
    ],
)
def test_damaged_weights_are_named(tmp_path, damage, message):
    given(tmp_path / "given", LLAMA)
    damage(tmp_path / "given" / "model.safetensors")
    with pytest.raises(ModelError, match=message) as error:
        founded(tmp_path, {"model.source": "given", "model.weights": "given"})
    assert "\n" not in str(error.value)


def test_given_weights_that_are_not_finite_are_named(tmp_path):
    def broken(model):
        model.model.norm.weight[3] = float("nan")

    given(tmp_path / "given", LLAMA, broken)
    with pytest.raises(ModelError, match=r"model\.norm\.weight has NaN"):
        founded(tmp_path, {"model.source": "given", "model.weights": "given"})


def test_given_weights_of_another_shape_are_refused(tmp_path):
    given(tmp_path / "given", LLAMA)
    facts = json.loads((tmp_path / "given" / "config.json").read_text())
    (tmp_path / "given" / "config.json").write_text(json.dumps(facts | {"intermediate_size": 96}))
    with pytest.raises(ModelError, match="given"):
        founded(tmp_path, {"model.source": "given", "model.weights": "given"})


def test_given_tensors_that_the_model_has_no_place_for_are_told(tmp_path):
    given(tmp_path / "given", LLAMA)
    path = tmp_path / "given" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"model.layers.0.adapter.weight": torch.ones(3)}, path, {"format": "pt"})
    told = []
    changes = {"model.source": "given", "model.weights": "given"}
    founded(tmp_path, changes, warn=told.append)
    assert any(
        "1 tensor that this model has no place for, model.layers.0.adapter" in x for x in told
    )


GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 256}


def test_learned_positions_are_those_of_the_weights(tmp_path):
    given(tmp_path / "given", GPT2 | {"n_positions": 48})
    changes = {"model.source": "given", "model.weights": "given"}
    spec, _, folder = founded(tmp_path, changes)
    assert json.loads((finished(spec, folder) / "config.json").read_text())["n_positions"] == 48


def test_a_sequence_longer_than_learned_positions_is_refused_with_what_would_fit(tmp_path):
    given(tmp_path / "given", GPT2 | {"n_positions": 48})
    changes = {"model.source": "given", "model.weights": "given", "model.sequence": 64}
    with pytest.raises(ModelError, match=r"set model\.sequence = 48 or less") as error:
        founded(tmp_path, changes)
    assert error.value.reason is Reason.LENGTH


COMPOSITE = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "sliding_window": 16, "vocab_size": 256,
    },
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28, "patch_size": 14,
    },
    "mm_tokens_per_image": 4, "image_token_index": 255, "boi_token_index": 254,
    "eoi_token_index": 253,
}  # fmt: skip


def test_of_a_composite_configuration_the_text_part_is_trained(tmp_path):
    spec, _, folder = founded(tmp_path / "scratch", {}, COMPOSITE)
    config = json.loads((finished(spec, folder) / "config.json").read_text())
    assert config["model_type"] == "gemma3_text"
    given(tmp_path / "g" / "given", COMPOSITE)
    source = load_file(tmp_path / "g" / "given" / "model.safetensors")
    spec, ground, _ = founded(tmp_path / "g", {"model.source": "given", "model.weights": "given"})
    tables = [value for name, value in source.items() if name.endswith("embed_tokens.weight")]
    assert torch.equal(founding.first_model(spec, ground).model.embed_tokens.weight, tables[0])


def test_a_matrix_without_a_gradient_stays_as_it_is(tmp_path):
    facts = {
        "model_type": "bart", "d_model": 32, "decoder_layers": 1, "encoder_layers": 1,
        "decoder_attention_heads": 2, "encoder_attention_heads": 2, "decoder_ffn_dim": 64,
        "encoder_ffn_dim": 64, "is_decoder": True,
    }  # fmt: skip
    finished(*founded(tmp_path, {}, facts)[::2])


MPT = {"model_type": "mpt", "d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 16}
MODERNBERT = {
    "model_type": "modernbert-decoder", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("facts", [MPT, MODERNBERT], ids=["mpt", "modernbert-decoder"])
def test_our_edits_of_a_configuration_leave_it_valid(tmp_path, facts):
    spec, _, folder = founded(tmp_path, {}, facts)
    finished(spec, folder)


def test_what_a_step_takes_is_known_from_the_founding_whatever_the_wire(tmp_path):
    for name, wire in (("measured", {}), ("dense", {"wire.kind": "dense"})):
        _, _, folder = founded(tmp_path / name, wire)
        assert 0 < folder.local()["step_seconds"] < 60


def test_a_model_that_cannot_write_is_refused_at_the_start(tmp_path, monkeypatch):
    def fault(*given, **named):
        raise RuntimeError("no cache of this kind")

    monkeypatch.setattr("transformers.GenerationMixin.generate", fault)
    with pytest.raises(ModelError, match=r"cannot continue a text.*no cache of this kind") as error:
        founded(tmp_path, {})
    assert error.value.reason is Reason.GENERATE
