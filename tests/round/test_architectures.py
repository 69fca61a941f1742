"""Every causal architecture of transformers: it is founded, trained, exported, read back with the same loss;
or refused at the start for a reason of a short list."""

import json
import shutil

import numpy as np
import pytest
import torch
from fixtures import tiny
from fixtures.architectures import KINDS, REFUSED
from fixtures.architectures import tiny as facts

from duckweed.learn.learner import Part
from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import ModelError
from duckweed.round import founding

pytestmark = pytest.mark.slow
SETTINGS = {"rounds.peers": 1, "rounds.count": 1, "inner.steps": 2, "inner.warmup": 1, "inner.batch": 1, "wire.kind": "dense", "model.sequence": 16, "inner.precision": "fp32"}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("architectures")


@pytest.fixture(scope="module")
def dataset(base):
    spec = tiny.specification(base, SETTINGS)
    return founding.prepare(spec, base, lambda text: None).dataset


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_is_trained_and_read_back_or_refused_at_the_start(base, dataset, kind):
    spec = tiny.specification(base, SETTINGS)
    (base / "config.json").write_text(json.dumps(facts(kind)))
    ground = founding.Ground(base, dataset)
    folder = tiny.folders.create(base / "runs", kind)
    refused: ModelError | None = None
    try:
        state = founding.found(spec, ground, folder, "cpu", 1, lambda text: None)
    except ModelError as error:
        refused = error
    assert (refused and refused.reason) is REFUSED.get(kind), str(refused)
    if refused:
        return
    one = founding.learner(spec, ground, "cpu")
    one.train(state.weights, Part(0, 0, 2))
    trained = one.weights()
    assert not np.array_equal(trained, state.weights)
    nats, tokens = one.evaluate(trained, 64)
    model = founding.model(spec, ground)
    models.write_weights(model, trained)
    network, _ = founding.written(model, ground, folder.path / "model")
    losses = [
        torch.nn.functional.cross_entropy(
            network(input_ids=window[:, :-1]).logits.flatten(0, 1), window[:, 1:].flatten()
        ).item()
        for batch in one.task.held_out(64, 8)
        for window in [torch.from_numpy(batch["tokens"])]
    ]
    assert abs(np.mean(losses) - nats / tokens) < 1e-3
    shutil.rmtree(folder.path)


def test_a_model_that_bf16_breaks_is_refused_where_peers_may_use_it(base, dataset):
    """It adds what its experts give, in bf16, to float32 in place."""
    spec = tiny.specification(base, SETTINGS | {"inner.precision": "auto"})
    (base / "config.json").write_text(json.dumps(facts("dbrx")))
    folder = tiny.folders.create(base / "runs", "bf16")
    with pytest.raises(ModelError, match=r'inner\.precision = "fp32"'):
        founding.found(spec, founding.Ground(base, dataset), folder, "cpu", 1, lambda text: None)
