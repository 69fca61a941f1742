"""A process that this one starts: it is heard line by line, and ends when this one does."""

import contextlib
import enum
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable

from duckweed.process.environment import ask_to_end
from duckweed.process.forkserver import Process


class ExitCode(enum.IntEnum):
    """How a process of duckweed ends by itself."""

    DONE = 0
    FAILED = 1
    """It has told why before it ended."""


FORESEEN = frozenset({ExitCode.DONE, ExitCode.FAILED, -signal.SIGTERM})
"""Codes with which nothing is left to be told. Minus a signal: the process was ended by that signal."""


class Child:
    """A running process. Its standard input is held open until it is ended, so that it notices the end
    of this process.

    A thread passes on what it says: each line of its standard output to `heard`, and when it has ended,
    after the last line, the exit code to `ended`.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        heard: Callable[[bytes], None],
        ended: Callable[[int], None],
    ) -> None:
        self.name = name
        self._process, self._heard, self._ended = process, heard, ended
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                self._heard(line)
        self._ended(self._process.wait())

    def send(self, line: bytes) -> None:
        """Write to its standard input. Raises OSError if it is gone."""
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()

    def terminate(self) -> None:
        """Ask it to end."""
        ask_to_end(self._process.stdin)

    def wait(self, seconds: float) -> None:
        """Until it has ended; after `seconds` it is killed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):  # what it never read
            self._process.stdin.close()


def end(children: Iterable[Child], grace: float) -> None:
    """End all: those that have not ended `grace` seconds after they were asked are killed."""
    children = list(children)
    for child in children:
        child.terminate()
    closes = time.monotonic() + grace
    for child in children:
        child.wait(max(0.1, closes - time.monotonic()))
