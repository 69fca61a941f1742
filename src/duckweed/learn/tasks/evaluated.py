"""Answers that a check of reasoning-gym would execute: it reads them with `eval`, or with SymPy's `parse_expr`, which
is `eval` too. Answers come from strangers, so what is more than data or a formula never gets that far."""

import ast
import re
from collections.abc import Callable

UNREAD = "?"  # what such a check gets instead: no check can read it
FUNCTIONS = (
    "sin cos tan sec csc cot asin acos atan sinh cosh tanh log ln exp sqrt abs Abs pi Integral"
)
_FORMULA = re.compile(
    rf"(?:[\d\s+\-*/^().,]|\b(?:[A-Za-z]|{FUNCTIONS.replace(' ', '|')})\b)*", re.ASCII
)


def data(answer: str) -> bool:
    """Whether Python would read an answer as data (a list of numbers, say), or not at all."""
    try:
        read = ast.parse(answer.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return True
    except (RecursionError, MemoryError):
        return False
    if isinstance(read, ast.Name):
        return read.id.isupper()  # in small letters it may name what the check knows
    try:
        ast.literal_eval(read)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def formula(answer: str) -> bool:
    """Whether an answer has numbers, operators, variables of one letter and well-known functions alone."""
    return _FORMULA.fullmatch(answer) is not None


_DATA = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
_FORMULAS = (
    "countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24",
    "simple_integration",
)  # fmt: skip
EVALUATED: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(_DATA, data), **dict.fromkeys(_FORMULAS, formula),
}  # fmt: skip
"""Environments of reasoning-gym 0.1 whose check does that, and which answers it may have."""
