"""Given weights are used with the tokenizer that lies with them, unless another one is named."""

from duckweed.run.spec import RunSpec, override, with_own_tokenizer


def given(source):
    return override(RunSpec(), {"model.source": source, "model.weights": "given"})


def test_a_folder_that_holds_a_tokenizer_is_used_with_it(tmp_path):
    (tmp_path / "m").mkdir()
    assert with_own_tokenizer(given("m"), tmp_path).data.tokenizer == "bytes"
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    (tmp_path / "m" / "config.json").write_text("{}")
    for source in ("m", "m/config.json"):
        assert with_own_tokenizer(given(source), tmp_path).data.tokenizer == "m"
    assert with_own_tokenizer(given("someone/model"), tmp_path).data.tokenizer == "someone/model"
    scratch = override(given("m"), {"model.weights": "scratch"})
    assert with_own_tokenizer(scratch, tmp_path) == scratch
