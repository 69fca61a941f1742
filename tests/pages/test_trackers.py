"""A run's figures as TensorBoard reads them."""

import pytest

from duckweed.pages.trackers import TensorBoard, TrackerError, check, tracked
from duckweed.run.events import FinalLoss, RoundClosed, Sampled

from .made import BIT, close, record, run

pytest.importorskip("tensorboard")


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder.path / "tensorboard"))
    found.Reload()
    return {
        tag: [(x.step, pytest.approx(x.value)) for x in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_the_whole_run_is_there_also_after_a_restart(tmp_path):
    folder, _ = run(tmp_path / "run", 3)
    for number in (0, 1):
        close(folder, number, 8.0)
        record(folder, number, (80 * (number + 1), 40, 10, 20), held_out=8.0 - number)
    TensorBoard(folder).close()

    def live():
        yield RoundClosed(round=2, seconds=4.0, tokens=200, loss=3.0, accepted=[0, 1])
        yield Sampled(3, "green")
        yield FinalLoss(2.0, 3, 100)

    assert len(list(tracked(folder, ["tensorboard"], live()))) == 3
    found = read(folder)
    assert found["eval/loss"] == [(0, 8 * BIT), (1, 7 * BIT), (3, 2.0)]
    assert found["train/loss"] == [(3, 3.0)]  # the rounds before were recorded without who counted
    assert found["time/tokens_per_second"][-1] == (3, 50.0)
    assert found["traffic/up_bytes"][:2] == [(1, 90), (2, 170)]


def test_a_tool_that_is_not_known_is_refused():
    with pytest.raises(TrackerError, match="expected tensorboard"):
        check(["tensorbord"])
