"""A run's figures as TensorBoard reads them, and as Weights & Biases is given them."""

import sys
from types import SimpleNamespace

import pytest

from duckweed.pages.trackers import TrackerError, check, tracked
from duckweed.run.events import FinalLoss, RoundClosed, Sampled

from .made import BIT, close, record, run


def read(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder.path / "tensorboard"))
    found.Reload()
    return {
        tag: [(x.step, pytest.approx(x.value)) for x in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def live(events=3):
    """The last events of a run, the round number 2 first."""
    told = [
        RoundClosed(round=2, seconds=4.0, tokens=200, loss=3.0, accepted=[0, 1]),
        Sampled(3, "<b>green</b>"),
        FinalLoss(2.0, 3, 100),
    ]
    yield from told[:events]


class Standing:
    """A stand-in for the module wandb, which keeps what it is given; `before`: steps that it has."""

    def __init__(self, before=0):
        self.logged, self.given, self.starting_step, self.ended = [], {}, before, False
        self.Html = lambda text, inject: text
        self.Settings = SimpleNamespace

    def init(self, **given):
        self.given = given
        return self

    def log(self, figures, step):
        self.logged.append((step, figures))

    def finish(self):
        self.ended = True


def test_the_whole_run_is_there_also_after_a_restart(tmp_path):
    folder, _ = two_closed(tmp_path)
    list(tracked(folder, ["tensorboard"], live(0)))
    assert len(list(tracked(folder, ["tensorboard"], live()))) == 3
    found = read(folder)
    assert found["eval/loss"] == [(0, 8 * BIT), (1, 7 * BIT), (3, 2.0)]
    assert found["train/loss"] == [(3, 3.0)]  # the rounds before were recorded without who counted
    assert found["time/tokens_per_second"][-1] == (3, 50.0)
    assert found["traffic/up_bytes"][:2] == [(1, 90), (2, 170)]


def test_a_tool_that_is_not_known_is_refused():
    with pytest.raises(TrackerError, match="expected tensorboard, wandb"):
        check(["tensorbord"])


def two_closed(tmp_path):
    folder, spec = run(tmp_path / "run", 3)
    for number in (0, 1):
        close(folder, number, 8.0)
        record(folder, number, (80 * (number + 1), 40, 10, 20), held_out=8.0 - number)
    return folder, spec


def test_weights_and_biases_is_given_the_run_in_order_and_no_secret(tmp_path, monkeypatch):
    folder, spec = two_closed(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", tool := Standing())
    assert len(list(tracked(folder, ["wandb"], live()))) == 3
    steps = [step for step, _ in tool.logged]
    assert steps == sorted(steps)
    assert {"eval/loss": 2.0} in [x for _, x in tool.logged]
    assert [x["train/loss"] for step, x in tool.logged if "train/loss" in x] == [3.0]
    assert "<pre>&lt;b&gt;green" in next(x["sample"] for _, x in tool.logged if "sample" in x)
    assert spec.identity.startswith(tool.given["id"])
    assert tool.given["settings"].console == "off"
    assert tool.ended


def test_weights_and_biases_is_not_given_again_what_it_has(tmp_path, monkeypatch):
    folder, _ = two_closed(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", tool := Standing(before=3))
    list(tracked(folder, ["wandb"], live()))
    assert [step for step, _ in tool.logged] == [3, 3, 3]


def test_a_tool_that_fails_is_left_out_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    folder, _ = run(tmp_path / "run", 3)
    monkeypatch.setitem(sys.modules, "wandb", tool := Standing())
    monkeypatch.setattr(tool, "log", lambda *_, **__: 1 / 0)
    assert len(list(tracked(folder, ["wandb"], live()))) == 3
    assert caplog.text.count("is left out") == 1


def test_a_tool_that_cannot_begin_is_told_with_what_to_do(tmp_path, monkeypatch):
    folder, _ = run(tmp_path / "run", 3)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackerError, match=r"pip install 'duckweed\[wandb\]'"):
        next(tracked(folder, ["wandb"], live()))
    monkeypatch.setitem(sys.modules, "wandb", tool := Standing())
    monkeypatch.setattr(tool, "init", lambda **_: 1 / 0)
    with pytest.raises(TrackerError, match="WANDB_MODE=offline"):
        next(tracked(folder, ["wandb"], live()))
