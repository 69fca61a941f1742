"""Which answers may reach a check that would execute them; without the library of such checks."""

import pytest

from duckweed.learn.tasks.evaluated import data, formula


@pytest.mark.parametrize(
    "answer", ["[[0, 1], [1, 0]]", "['A', 'B']", "0 1\n1 0", "_ Q _\nQ _ _", "ABCDE", "(1, 2)", ""]
)
def test_lists_numbers_and_boards_are_data(answer):
    assert data(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "open('x', 'w')", "[open('x')]", "entry['answer']", "oracle_answer", "a.b", "[x for x in y]",
        "lambda: 1", "f'{open(1)}'", "1 if x else 2",
    ],
)  # fmt: skip
def test_what_would_be_executed_or_names_something_is_no_data(answer):
    assert not data(answer)


@pytest.mark.parametrize("answer", ["2*(3 + 4) - 1", "x**2/2 + C", "sin(x) + 3*exp(x)", "1.5"])
def test_formulas_of_known_functions_are_read(answer):
    assert formula(answer)


@pytest.mark.parametrize(
    "answer", ["__import__('os')", "open(1)", "x.func", "sympify('1')", "exec(x)", "[1]", "a_b"]
)
def test_any_other_name_or_sign_is_no_formula(answer):
    assert not formula(answer)
