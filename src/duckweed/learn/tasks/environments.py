"""Environments: problems, each a pure function of its number, and the check of an answer. Without torch: they
run in a process of their own (duckweed.learn.tasks.verifier).

Those of reasoning-gym are found by name; it is an extra and imported only where one is asked for. Those of
one's own are registered by a plug-in, or are rows of one's own with a question and its answer.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from blake3 import blake3

from duckweed.learn.data.permutation import derive
from duckweed.learn.data.reading import DataError
from duckweed.learn.tasks.evaluated import EVALUATED, UNREAD

NUMBERS = 1 << 31  # problems are numbered from 0 to this
TRIES = 2000  # problems that are looked at to find one of a side
LIBRARY = "reasoning-gym"
HELD_OUT, TRAINED = 1, 2  # sides, as keys of `derive`


class Environment(Protocol):
    """Problems by number. The same number gives the same problem on every machine."""

    def question(self, number: int) -> str:
        """What the model is asked."""
        ...

    def answer(self, number: int) -> str:
        """A right answer, as the environment would write it."""
        ...

    def score(self, number: int, answer: str) -> float:
        """From 0 to 1: how good an answer is; 1: right."""
        ...


Make = Callable[[Mapping[str, Any]], Environment]
"""Of the settings in the specification. Raises ValueError where one of them is wrong."""
OWN: dict[str, Make] = {}


def register_environment(name: str, make: Make) -> None:
    """Add an environment of one's own, for `task.environments` in run.toml. It goes before one of
    reasoning-gym of that name."""
    OWN[name] = make


class Gym:
    """An environment of reasoning-gym."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import reasoning_gym
        except ImportError as error:
            raise DataError(
                f"task.environments: {name!r} is of reasoning-gym, which is not installed here: pip install "
                "'duckweed[reason]'"
            ) from error
        known = reasoning_gym.factory.DATASETS
        if name not in known or name in LEFT_OUT:
            raise DataError(_unknown(name, [x for x in known if x not in LEFT_OUT]))
        try:
            self._data = reasoning_gym.create_dataset(
                name, **{"seed": 0, "size": MADE_AT_ONCE.get(name, NUMBERS), **settings}
            )
        except (TypeError, AssertionError, ValueError, KeyError) as error:
            import dataclasses

            fields = [
                x.name for x in dataclasses.fields(known[name][1]) if x.name not in ("seed", "size")
            ]
            raise DataError(
                f"task.environments: {name!r} refuses its settings: {error} (it has {', '.join(fields)})"
            ) from error
        size = len(self._data)
        self._safe = EVALUATED.get(name, lambda answer: True)
        self._entry = lru_cache(4096)(lambda number: self._data[number % size])

    def question(self, number: int) -> str:
        return str(self._entry(number)["question"])

    def answer(self, number: int) -> str:
        return str(self._entry(number)["answer"])

    def score(self, number: int, answer: str) -> float:
        given = answer if self._safe(answer) else UNREAD
        return float(self._data.score_answer(given, self._entry(number)))


class Rows:
    """Rows of one's own. verifier: "exact"; "regex": the row's answer is a pattern for the whole answer; "math":
    the answer must have the same value, as math-verify finds it. Raises DataError where that is not installed."""

    def __init__(self, rows: Sequence[tuple[str, str]], verifier: str) -> None:
        self._rows, self._verifier = rows, verifier
        if verifier == "math":
            _math_verify()

    def question(self, number: int) -> str:
        return self._rows[number % len(self._rows)][0]

    def answer(self, number: int) -> str:
        return self._rows[number % len(self._rows)][1]

    def score(self, number: int, answer: str) -> float:
        wanted = self.answer(number)
        if self._verifier == "regex":
            return float(re.fullmatch(wanted, answer) is not None)
        if self._verifier == "math":
            return float(
                _math_verify().verify(_value(wanted), _value(answer), timeout_seconds=None)
            )
        return float(answer.strip() == wanted.strip())


UNCHECKED = "it gives no right answer, so that nobody can tell whether its check is in order"
LEFT_OUT: dict[str, str] = {
    "boxnet": UNCHECKED,
    "composite": "it mixes environments; name each in a section [task.environments.NAME] of its own instead",
    "game_of_life_halting": "its check takes every answer as right",
    "graph_color": UNCHECKED,
    "propositional_logic": UNCHECKED,
    "rubiks_cube": UNCHECKED,
    "rush_hour": UNCHECKED,
}
"""Environments of reasoning-gym that are not offered, and why (bench/reason/environments.py finds them)."""
MADE_AT_ONCE = dict.fromkeys(("acre", "gsm_symbolic", "list_functions", "word_ladder"), 2000)
"""Environments that make all problems as they begin, and how many; another number is set as `size`."""


def make(name: str, settings: Mapping[str, Any]) -> Environment:
    """The environment of that name. Raises DataError."""
    if name not in OWN:
        return Gym(name, settings)
    try:
        return OWN[name](settings)
    except (TypeError, ValueError) as error:
        raise DataError(f"task.environments: {name!r} refuses its settings: {error}") from error


def draw(environment: Environment, key: int, held_out: bool, share: float) -> int:
    """The number of a problem, drawn with a key; held_out: of those that are never trained on, which is a
    `share` of them. On which side a problem is follows from its question, so that one that comes under two
    numbers is on one side. Raises DataError where none of a side is found."""
    bound = int(share * 2.0**64)
    for turn in range(TRIES):
        number = derive(key, turn) % NUMBERS
        digest = blake3(environment.question(number).encode()).digest()
        if (int.from_bytes(digest[:8], "big") < bound) == held_out:
            return number
    side = "held-out" if held_out else "training"
    raise DataError(
        f"none of {TRIES:,} problems is on the {side} side: there are too few different ones; make the "
        "environment more varied, or change data.held_out"
    )


def problem_of(question: str, answer: str) -> Callable[[Any, str, str], str | None]:
    """What reads a row: its question and its answer, by these names of fields, as JSON. Raises DataError."""

    def of(row: Any, field: str, where: str) -> str | None:
        if not isinstance(row, dict):
            raise DataError(f"data: {where}: expected an object with {question!r} and {answer!r}")
        found = []
        for name in (question, answer):
            if name not in row:
                raise DataError(
                    f"data: {where}: there is no field {name!r}, only {', '.join(row) or 'none'}; name it with "
                    "task.question and task.answer"
                )
            value = row[name]
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str) or not value:
                raise DataError(
                    f"data: {where}: {name!r} holds {type(value).__name__}; expected text"
                )
            found.append(value)
        return (
            "\0" if any("\0" in text for text in found) else json.dumps(found, ensure_ascii=False)
        )

    return of


def check_answer(verifier: str, answer: str, question: str) -> None:
    """Raises DataError if the verifier cannot compare anything with the answer of a row."""
    if verifier == "regex":
        try:
            re.compile(answer)
        except re.error as error:
            raise DataError(
                f"data: the answer to {question[:60]!r} is no regular expression: {error}"
            ) from error
    if verifier == "math" and not _value(answer):
        raise DataError(
            f"data: the answer to {question[:60]!r} is nothing that has a value: {answer[:60]!r}"
        )


def _value(text: str) -> list[Any]:
    """What a text says as mathematics, in LaTeX or plainly; empty: nothing."""
    marked = text if "$" in text or "\\boxed" in text else f"${text}$"
    found: list[Any] = _math_verify().parse(marked, parsing_timeout=None)  # its process has a limit
    return found


def _math_verify() -> Any:
    """The library. Raises DataError."""
    try:
        import math_verify
    except ImportError as error:
        raise DataError(
            "task.verifier = 'math' needs math-verify, which is not installed here: pip install 'duckweed[reason]'"
        ) from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # says each time that it has no limit
    return math_verify


def _unknown(name: str, known: list[str]) -> str:
    import difflib

    if name in LEFT_OUT:
        return f"task.environments: {name!r} is not offered: {LEFT_OUT[name]}"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"task.environments: reasoning-gym has no {name!r}{hint} It has {len(known)}, such as chain_sum, countdown, "
        "mini_sudoku. One of your own comes from a plug-in"
    )
