"""The process in which problems are made and answers are checked: what hangs or eats memory there is ended, and
the run goes on.

One line of JSON is a question to it, one line its answer. `python -m duckweed.learn.tasks.verifier` is the other end.
"""

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from duckweed.learn.data.reading import DataError
from duckweed.learn.tasks.environments import Environment, Rows, draw, make

log = logging.getLogger(__name__)
BEGIN = 120.0  # seconds that importing the environments may take on a busy machine
MAKE = 30.0  # seconds that making a problem may take
MEMORY = 4 << 30  # bytes that the process may use, where the system can hold it to that
RIGHT = 0.999  # a score from which an answer is right


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
        self._begin = {
            "environments": list(environments), "rows": rows, "plugins": list(plugins), "share": share
        }  # fmt: skip
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

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
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _ask(self, question: dict[str, Any], seconds: float) -> Any:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise VerifierFailed(f"it took longer than {seconds:g} s") from None
        except OSError:
            line = ""
        if not line:
            self.close()
            raise VerifierFailed("its process ended")
        found = json.loads(line)
        if "error" in found:
            raise (DataError if found.get("fault") else VerifierFailed)(found["error"])
        return found["value"]

    def _running(self) -> subprocess.Popen[str]:
        """The process, begun anew where it was ended. Raises DataError."""
        if self._process is not None:
            return self._process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "duckweed.learn.tasks.verifier"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for those who use it
            # Some environments draw from sets, whose order is another in every process without it.
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )  # fmt: skip
        self._answers = queue.SimpleQueue()
        threading.Thread(
            target=_pass_on, args=(self._process, self._answers), daemon=True, name="verifier"
        ).start()
        try:
            if self._ask_first() != "ready":
                raise VerifierFailed("it did not begin")
        except VerifierFailed as error:
            raise DataError(f"the environments cannot be begun: {error}") from error
        return self._process

    def _ask_first(self) -> Any:
        before = self._process
        assert before is not None
        return self._ask(self._begin, BEGIN)


def _pass_on(process: "subprocess.Popen[str]", answers: "queue.SimpleQueue[str]") -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):
        for line in process.stdout:
            answers.put(line)
    answers.put("")


# --- the other end


def _environments(begin: dict[str, Any]) -> list[Environment]:
    if begin["plugins"]:
        from duckweed.run import plugins

        plugins.load(begin["plugins"])
    if begin["rows"]:
        rows, verifier = begin["rows"]
        return [Rows([(q, a) for q, a in rows], verifier)]
    return [make(name, settings) for name, settings in begin["environments"]]


def _answered(environments: list[Environment], share: float, question: dict[str, Any]) -> Any:
    if "draw" in question:
        which, key, held_out = question["draw"]
        one = environments[which]
        number = draw(one, key, held_out, share)
        return number, one.question(number), one.answer(number)
    which, number, answer = question["score"]
    return environments[which].score(number, answer)


def _reply(out: Any, value: Any) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


def main() -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # what an environment prints is no answer
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    environments: list[Environment] = []
    share = 0.0
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if "environments" in question:
                environments, share = _environments(question), question["share"]
                _reply(out, {"value": "ready"})
            else:
                _reply(out, {"value": _answered(environments, share, question)})
        except DataError as error:
            _reply(out, {"error": str(error), "fault": True})
        except Exception as error:  # of whatever kind an environment raises
            _reply(out, {"error": f"{type(error).__name__}: {error}"[:300]})
    os._exit(0)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # who asked was killed
        main()
