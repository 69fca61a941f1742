"""A process of its own for work that may hang, eat memory or need modules that its user must not import: it is
ended, and the user goes on.

One line of JSON is a question to it, one line its answer. The other end is a module with `serve` in its `main`.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

BEGIN = 120.0  # seconds that imports may take
PATIENCE = 5.0  # times as long as it may compute, its process may take on a busy machine, or asleep


class HelperFailed(RuntimeError):
    """What was asked for raised, took too long, or ended the process."""


class HelperFault(ValueError):
    """What the process found wrong with its question; the message is for a person."""


class Helper:
    """The process, begun with the first question, and anew where it was ended. module: that it runs; begin: its
    first question, answered with "ready"."""

    def __init__(self, module: str, begin: dict[str, Any]) -> None:
        self.module, self._begin = module, begin
        self._process: subprocess.Popen[str] | None = None
        self._account: psutil.Process | None = None  # of what that process computes
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def begin(self) -> None:
        """Begin it now, and not with the first question. Raises HelperFault."""
        self._running()

    def ask(self, question: dict[str, Any], seconds: float) -> Any:
        """The answer. seconds: of a processor that it may take, so that whether an answer comes in time does not
        hang on what else the machine does. Raises HelperFailed; HelperFault, also where the process cannot begin."""
        return self._ask(self._running(), question, seconds)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _ask(
        self, process: "subprocess.Popen[str]", question: dict[str, Any], seconds: float
    ) -> Any:
        assert process.stdin is not None
        try:
            before = self._computed()
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = self._wait(before, seconds)
        except queue.Empty:
            self.close()
            raise HelperFailed(f"it took longer than {seconds:g} s") from None
        except (OSError, psutil.Error):
            line = ""
        if not line:
            self.close()
            raise HelperFailed("its process ended")
        found = json.loads(line)
        if "error" in found:
            raise (HelperFault if found.get("fault") else HelperFailed)(found["error"])
        return found["value"]

    def _wait(self, before: float, seconds: float) -> str:
        """The next line, "" if there is none. before: what its process had computed when it was asked; seconds: of a
        processor that it may take. Raises queue.Empty, psutil.Error."""
        late, left = time.monotonic() + PATIENCE * seconds, seconds
        while left > 0:
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=max(left, 0.05))
            left = min(before + seconds - self._computed(), late - time.monotonic())
        raise queue.Empty

    def _computed(self) -> float:
        """Seconds of a processor that the process has taken. Raises psutil.Error."""
        assert self._account is not None
        taken = self._account.cpu_times()
        return float(taken.user + taken.system)

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None:
            return self._process
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for those who use it
            # Some environments draw from sets, whose order is another in every process without it.
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )  # fmt: skip
        self._account, self._answers = psutil.Process(process.pid), queue.SimpleQueue()
        threading.Thread(
            target=_pass_on, args=(process, self._answers), daemon=True, name=self.module
        ).start()
        try:
            self._ask(process, self._begin, BEGIN)
        except HelperFailed as error:
            self.close()
            raise HelperFault(f"the process cannot begin: {error}") from error
        except HelperFault:
            self.close()
            raise
        return process


def _pass_on(process: "subprocess.Popen[str]", answers: "queue.SimpleQueue[str]") -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):
        for line in process.stdout:
            answers.put(line)
    answers.put("")


# --- the other end


def serve(
    begin: Callable[[dict[str, Any]], Callable[[dict[str, Any]], Any]],
    faults: type[Exception] | tuple[type[Exception], ...],
) -> None:
    """Answer questions until the one who asks is gone. begin: takes the first question, and gives what answers
    the others. faults: what they raise where the question is at fault."""
    out, sys.stdout = sys.stdout, sys.stderr  # what is printed here is no answer
    answered: Callable[[dict[str, Any]], Any] | None = None
    with contextlib.suppress(BrokenPipeError):  # who asked was killed
        for line in sys.stdin:
            question = json.loads(line)
            try:
                if answered is None:
                    answered, value = begin(question), "ready"
                else:
                    value = answered(question)
                reply: dict[str, Any] = {"value": value}
            except faults as error:
                reply = {"error": str(error), "fault": True}
            except Exception as error:  # of whatever kind is raised there
                reply = {"error": f"{type(error).__name__}: {error}"[:300]}
            out.write(json.dumps(reply) + "\n")
            out.flush()
    os._exit(0)
