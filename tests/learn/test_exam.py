"""What a finished run is examined on, and what its figures are."""

import pytest
from fixtures import puzzle, tiny

from duckweed.learn.data.chat import PLAIN
from duckweed.learn.tasks.exam import Result
from duckweed.round import export
from duckweed.run import plugins


def test_pass_at_k_is_estimated_without_bias_and_with_an_interval():
    one = Result("x", 4, [0, 1, 4, 4], 3.0, 0)
    assert one.pass_at(1) == pytest.approx((0 + 0.25 + 1 + 1) / 4)
    assert one.pass_at(4) == pytest.approx(3 / 4)
    assert one.pass_at(2) == pytest.approx((0 + 0.5 + 1 + 1) / 4)
    low, high = one.interval(1)
    assert low < one.pass_at(1) < high
    assert Result("x", 1, [0] * 100, 3.0, 0).interval(1)[1] == pytest.approx(0.037, abs=0.001)


def test_a_finished_run_is_examined_on_its_own_problems(tmp_path):
    from duckweed import session

    spec = puzzle.specification(tmp_path, {"rounds.peers": 1, "inner.steps": 1})
    folder, ground, _ = tiny.found(tmp_path, "rl", spec)
    plugins.remember(folder, plugins.load([tmp_path / "letters_plugin.py"]))
    export.harvest(folder, spec, ground, "cpu")
    found = session.examine(folder.path, [], 4, 6, "cpu", (), lambda text: None)
    again = session.examine(folder.path, ["letters"], 4, 6, "cpu", (), lambda text: None)
    assert found == again
    assert [(x.name, x.samples, len(x.right)) for x in found] == [("letters", 4, 6)]
    assert (folder.model / "chat_template.jinja").read_text() == PLAIN
