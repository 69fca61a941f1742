"""Problems of environments, and how their answers are verified."""

import json

import pytest
from fixtures import puzzle

from duckweed.learn.data.reading import DataError
from duckweed.learn.tasks import problems as problems_of
from duckweed.learn.tasks.environments import Rows
from duckweed.learn.tasks.verifier import Verifier
from duckweed.run.spec import SpecError


def test_problems_follow_from_seed_and_place_and_held_out_ones_are_the_same_in_every_run(tmp_path):
    spec, ground = puzzle.prepared(tmp_path)
    one = problems_of.of(spec, ground.dataset)
    two = problems_of.Problems(spec.task, spec.seed + 1, spec.data.held_out)
    trained = {one.at(n, False).question for n in range(30)}
    held = {one.at(n, True).question for n in range(30)}
    assert not trained & held
    assert [one.at(n, True) for n in range(5)] == [two.at(n, True) for n in range(5)]
    assert one.at(3, False) != two.at(3, False)
    assert one.at(3, False) == problems_of.of(spec, ground.dataset).at(3, False)


def test_a_check_that_raises_or_hangs_counts_as_wrong_and_the_next_one_works(tmp_path):
    spec, ground = puzzle.prepared(tmp_path, {"task.seconds": 0.5})
    found = problems_of.of(spec, ground.dataset)
    problem = found.at(0, False)
    assert found.score(problem, "raise") == 0
    assert found.score(problem, "hang") == 0
    assert found.failed == 2
    assert found.score(problem, "abcd") == 1


def test_too_few_different_problems_are_said(tmp_path):
    with pytest.raises(DataError, match="too few different ones"):
        puzzle.prepared(tmp_path, {"task.environments": {"letters": {"settings": {"few": True}}},
                            "data.held_out": 1e-6})  # fmt: skip


def test_an_environment_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(DataError, match="did you mean 'chain_sum'"):
        puzzle.prepared(tmp_path, {"task.environments": {"chainsum": {}}})
    with pytest.raises(DataError, match="it has min_terms, max_terms"):
        puzzle.prepared(tmp_path, {"task.environments": {"chain_sum": {"settings": {"terms": 3}}}})
    with pytest.raises(DataError, match="of its own instead"):
        puzzle.prepared(tmp_path, {"task.environments": {"composite": {}}})


def test_the_same_number_is_the_same_problem_in_every_process():
    """Also where an environment draws from a set."""
    pytest.importorskip("reasoning_gym")
    several = [Verifier([("isomorphic_strings", {}), ("word_ladder", {})]) for _ in range(2)]
    drawn = [[one.draw(which, 7, False) for which in (0, 1)] for one in several]
    for one in several:
        one.close()
    assert drawn[0] == drawn[1]


def test_an_environment_of_a_library_that_is_not_installed_names_the_extra(tmp_path):
    blocker = tmp_path / "blocker.py"
    blocker.write_text("import sys\nsys.modules['reasoning_gym'] = None\n")
    with pytest.raises(DataError, match=r"pip install 'duckweed\[reason\]'"):
        Verifier([("chain_sum", {})], plugins=[str(blocker)]).draw(0, 0, False)


def test_questions_that_leave_no_room_for_an_answer_are_said_at_the_start(tmp_path):
    with pytest.raises(DataError, match=r"raise model\.sequence, lower task\.tokens"):
        puzzle.prepared(tmp_path, {"task.tokens": 20})


def test_rows_of_ones_own_are_checked_by_text_or_by_pattern(tmp_path):
    rows = [{"question": f"{n}?", "answer": n} for n in range(200)]
    puzzle.specification(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"task.environments": {}, "data.path": "rows.jsonl", "data.held_out": 0.2}
    spec, ground = puzzle.prepared(tmp_path, facts)
    found = problems_of.of(spec, ground.dataset)
    problem = found.at(0, False)
    assert found.score(problem, problem.question[:-1]) == 1
    assert found.score(problem, "-1") == 0
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"question": f"{n}?", "answer": r"\d+ ducks?"}) + "\n" for n in range(200)
        )
    )
    spec, ground = puzzle.prepared(tmp_path, facts | {"task.verifier": "regex"})
    found = problems_of.of(spec, ground.dataset)
    assert found.score(found.at(0, False), "7 ducks") == 1
    assert found.score(found.at(0, False), "7 ducks swim") == 0
    (tmp_path / "rows.jsonl").write_text('{"question": "x", "answer": "("}\n')
    with pytest.raises(DataError, match="no regular expression"):
        puzzle.prepared(tmp_path, facts | {"task.verifier": "regex"})
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x", "answer": "("}\n')
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: there is no field 'question', only prompt, answer"
    ):
        puzzle.prepared(tmp_path, facts)


def test_mathematics_is_right_by_its_value():
    pytest.importorskip("math_verify")
    rows = Rows([("?", "1/2"), ("?", "x+1"), ("?", "\\sqrt{8}")], "math")
    for number, answer in ((0, "0.5"), (0, "$\\frac{2}{4}$"), (1, "1 + x"), (2, "2\\sqrt{2}")):
        assert rows.score(number, answer) == 1, answer
    for number, answer in ((0, "2"), (0, ""), (0, "1, 2, 1/2"), (1, "x"), (2, "8")):
        assert rows.score(number, answer) == 0, answer


def test_a_group_that_does_not_fit_into_a_batch_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"must be a multiple of task\.samples"):
        puzzle.specification(tmp_path, {"inner.batch": 60})
