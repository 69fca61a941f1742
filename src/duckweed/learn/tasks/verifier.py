"""The process in which problems are made and answers are checked: what hangs or eats memory there is ended, and
the run goes on. `python -m duckweed.learn.tasks.verifier` is the other end."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from duckweed.learn.data.reading import DataError
from duckweed.learn.tasks.environments import Environment, Rows, draw, make
from duckweed.run.task.helper import Helper, HelperFailed, HelperFault, serve

MAKE = 30.0  # seconds that making a problem may take
MEMORY = 4 << 30  # bytes that the process may use, where the system can hold it to that


class VerifierFailed(RuntimeError):
    """The check of an answer raised, or took too long."""


class Verifier:
    """Environments in a process of their own. environments: name and settings of each; rows: of one's own, in
    the place of environments; plugins: files that register environments."""

    def __init__(
        self,
        environments: Sequence[tuple[str, dict[str, Any]]],
        rows: tuple[list[tuple[str, str]], str] | None = None,
        plugins: Iterable[str] = (),
        seconds: float = 2.0,
        share: float = 0.05,
    ) -> None:
        begin = {
            "environments": list(environments), "rows": rows, "plugins": list(plugins), "share": share
        }  # fmt: skip
        self.seconds = seconds
        self._helper = Helper(__name__, begin)

    def draw(self, environment: int, key: int, held_out: bool) -> tuple[int, str, str]:
        """Number, question and right answer of a problem (duckweed.learn.tasks.environments.draw). Raises
        DataError."""
        try:
            found = self._ask({"draw": [environment, key, held_out]}, MAKE)
        except VerifierFailed as error:
            raise DataError(f"an environment gives no problem: {error}") from error
        return found[0], found[1], found[2]

    def score(self, environment: int, number: int, answer: str) -> float:
        """From 0 to 1. Raises VerifierFailed."""
        return float(self._ask({"score": [environment, number, answer]}, self.seconds))

    def close(self) -> None:
        self._helper.close()

    def _ask(self, question: dict[str, Any], seconds: float) -> Any:
        """Raises VerifierFailed, DataError."""
        try:
            return self._helper.ask(question, seconds)
        except HelperFault as error:
            raise DataError(str(error)) from error
        except HelperFailed as error:
            raise VerifierFailed(str(error)) from error


# --- the other end


def _environments(begin: dict[str, Any]) -> list[Environment]:
    if begin["plugins"]:
        from duckweed.run import plugins

        plugins.load(begin["plugins"])
    if begin["rows"]:
        rows, verifier = begin["rows"]
        return [Rows([(q, a) for q, a in rows], verifier)]
    return [make(name, settings) for name, settings in begin["environments"]]


def _begin(begin: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    environments, share = _environments(begin), begin["share"]

    def answered(question: dict[str, Any]) -> Any:
        if "draw" in question:
            which, key, held_out = question["draw"]
            one = environments[which]
            number = draw(one, key, held_out, share)
            return number, one.question(number), one.answer(number)
        which, number, answer = question["score"]
        return environments[which].score(number, answer)

    return answered


if __name__ == "__main__":
    serve(_begin, DataError)
