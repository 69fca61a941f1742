"""What is fetched from the hub is no larger than the model can be."""

from types import SimpleNamespace

import pytest
from fixtures import tiny
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModelForCausalLM

from duckweed.learn.model.architecture import ModelError
from duckweed.learn.model.given import given_weights


def hub(monkeypatch, **sizes):
    """A hub that keeps files of these sizes under any name, and gives none."""
    files = [SimpleNamespace(rfilename=name.replace("_", "."), size=n) for name, n in sizes.items()]
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    asked = []

    def fetched(*_, **__):
        asked.append(1)
        raise OSError("not fetched in a test")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fetched)
    return asked


@pytest.mark.parametrize(
    ("sizes", "fetched"),
    [
        ({"model_safetensors": 10**12}, False),
        ({"pytorch_bin": 10**12}, False),
        ({"model_safetensors": 100_000, "pytorch_bin": 10**12}, True),
        ({"model_safetensors": 100_000}, True),
    ],
)
def test_weights_that_are_larger_than_the_models_are_not_fetched(
    tmp_path, monkeypatch, sizes, fetched
):
    asked = hub(monkeypatch, **sizes)
    config = AutoConfig.for_model(**tiny.CONFIG, vocab_size=256)
    with pytest.raises(ModelError) as error:
        given_weights("owner/name", tmp_path, config)
    assert bool(asked) == fetched
    if not fetched:
        assert "are 1" in str(error.value)
        assert "at most 1" in str(error.value)
        assert "not fetched" in str(error.value)
