"""Checks of a model before it is trained."""

from types import SimpleNamespace

import pytest
import torch

from duckweed.learn.model.architecture import ModelError, Reason
from duckweed.learn.model.checks import check_trains


class Peeks(torch.nn.Module):
    """A model whose logits see the next token: the mistake that gives a loss of nearly nothing."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.ahead = ahead

    def forward(self, input_ids):
        seen = torch.roll(input_ids, -self.ahead, dims=1)
        logits = torch.nn.functional.one_hot(seen, 64).float() * 20
        return type("Out", (), {"logits": logits})()


class Counts(torch.nn.Module):
    """A model that counts its steps of training in a persistent buffer."""

    config = SimpleNamespace()

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(64, 64)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, input_ids):
        if self.training:
            self.steps += 1
        return SimpleNamespace(logits=self.table(input_ids))


def test_buffers_that_training_changes_are_refused():
    with pytest.raises(ModelError, match="steps; buffers are fixed") as error:
        check_trains(Counts(), 8, 64)
    assert error.value.reason is Reason.BUFFERS


class Broken(Counts):
    def forward(self, input_ids):
        return SimpleNamespace(logits=self.table(input_ids) / 0.0)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ModelError) as error:
        check_trains(Broken(), 8, 64)
    assert error.value.reason is Reason.FINITE
