"""Answers that a check would execute: they come from strangers too."""

from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym")
from duckweed.learn.tasks import environments
from duckweed.learn.tasks.evaluated import EVALUATED

CALLS = (
    "open({!r}, 'w')",
    "[open({!r}, 'w').name]",
    " \n [open({!r}, 'w').name]",
    "[x for x in [open({!r}, 'w').name]]",
    "sympify(\"open({!r}, 'w')\")",
)


@pytest.mark.parametrize("name", EVALUATED)
def test_an_answer_is_never_executed(name, tmp_path):
    one = environments.make(name, {})
    for call in CALLS:
        assert one.score(3, call.format(str(tmp_path / "made"))) < 0.5
    assert not list(Path(tmp_path).iterdir())
    for known in ("entry['answer']", "oracle_answer"):  # what the check itself holds
        assert one.score(3, known) < 0.1


@pytest.mark.parametrize("name", EVALUATED)
def test_the_right_answers_of_such_checks_are_right(name):
    one = environments.make(name, {})
    assert [one.score(n, one.answer(n)) for n in range(30)] == [1.0] * 30


def test_lists_are_still_read():
    one = environments.make("string_insertion", {})
    assert [one.score(n, str(list(one.answer(n)))) for n in range(5)] == [0.1] * 5
