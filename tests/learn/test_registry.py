"""Learners of one's own: the smallest one takes part in a run."""

import numpy as np
import pytest
from fixtures import tiny

from duckweed.learn import registry
from duckweed.learn.learner import Learner, Work
from duckweed.learn.model import model as models
from duckweed.learn.registry import register_learner
from duckweed.learn.single import SingleDevice
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run.events import RoundClosed
from duckweed.run.task import work

FACTS = {
    "wire.kind": "dense", "wire.dtype": "fp32", "wire.feedback": 0.0,
}  # fmt: skip


class Shrink(Learner):
    """Every step takes a hundredth of the weights away; has no optimizer."""

    def __init__(self, spec, config, task, device):
        self.spec, self.task, self.model = spec, task, models.build(config, device)

    def weights(self):
        return models.read_weights(self.model)

    def train(self, weights, part, optimizer=None, report=None, keep=False):
        counted = sum(self.task.count(batch) for batch in self.task.batches(part, self.model))
        after = weights * np.float32(0.99**part.steps)
        return Work(weights - after, counted, 1.0, 0.1, {})

    def evaluate(self, weights, limit, share=0, shares=1, batch=8):
        return float(np.square(weights).sum()), 1


@pytest.fixture(autouse=True)
def learners(monkeypatch):
    monkeypatch.setattr(registry, "LEARNERS", dict(registry.LEARNERS))


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_learner_without_optimizer_trains_a_run(tmp_path, overlap):
    register_learner("shrink", Shrink)
    spec = tiny.specification(tmp_path, FACTS | {"rounds.overlap": overlap})
    folder, ground, state = tiny.found(tmp_path, "run", spec)
    end = Simulation(folder, spec, founding.layout(folder), ground, state, "cpu").run()
    # 3 rounds of 3 steps, of which none is late: all peers do the same.
    np.testing.assert_allclose(end.weights, state.weights * 0.99**9, rtol=2e-3, atol=1e-7)
    rounds = list(folder.records(RoundClosed))
    assert [e.held_out for e in rounds] == sorted([e.held_out for e in rounds], reverse=True)


def test_the_last_learner_that_fits_is_taken(tmp_path):
    spec = tiny.specification(tmp_path)
    ground = founding.prepare(spec, tmp_path, lambda text: None)
    register_learner("shrink", Shrink, lambda spec, device: device != "cpu" or spec.seed == 1)
    assert isinstance(founding.learner(spec, ground, "cpu"), SingleDevice)
    other = tiny.specification(tmp_path, {"seed": 1})
    assert isinstance(founding.learner(other, ground, "cpu"), Shrink)
    register_learner("shrink", Shrink)  # the same name again replaces it
    assert isinstance(founding.learner(spec, ground, "cpu"), Shrink)
    assert len(registry.LEARNERS) == 2


def test_text_has_as_many_tokens_as_its_windows_have_targets(tmp_path):
    spec = tiny.specification(tmp_path)
    assert work.objection(spec, spec.inner.steps, spec.tokens_per_block) is None
    assert work.objection(spec, 2, 2 * 2 * 32) is None
    assert work.objection(spec, 2, 127) == "2 steps have 128 tokens, not 127"
    assert work.objection(spec, 2, 129) is not None


def test_every_kind_of_task_can_be_made_and_counted():
    assert set(registry.TASKS) == set(work.EXPECTED)
