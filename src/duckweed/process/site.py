"""The processes of a site on one machine, started by `duckweed join --processes`; each is then what it would be if
torchrun had started it.

Where one of them ends before its time the others are ended, in order, and all are started again: the peer says
good-bye, its block goes back, and it comes again.
"""

import queue
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from duckweed.learn.site.place import LOST
from duckweed.net.timeouts import PROCESS_GRACE, RANK_LAST_WORD, RANK_RESTART, RANKS_QUICK, VIEW
from duckweed.process import environment, forkserver
from duckweed.process.child import Child, ExitCode, end
from duckweed.process.forkserver import ForkServer

QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""What collectives warn of says nothing to a user."""
TRIES = 3
"""Times that a site is started, of which each comes to nothing within RANKS_QUICK seconds."""
Say = Callable[[str], None]


def run(
    module: str, words: Sequence[str], count: int, device: str, threads: int, logs: Path, say: Say
) -> int:
    """Start `count` processes until the first of them, which is the peer, ends by itself; returns its exit code.
    module: its `main` is called in each, with the words RANK, COUNT and PORT before `words`; device: as the user named
    it; logs: folder for what the others write; say: takes what the peer says, line by line."""
    logs.mkdir(parents=True, exist_ok=True)
    forks = None
    if device == "cpu":  # the driver of an accelerator does not stand a fork
        forks = ForkServer(environment.of_child(threads) | QUIET)
    quick = 0
    try:
        while True:
            began = time.monotonic()
            site = _Site(module, words, count, threads, logs, say, forks)
            try:
                first, codes = site.wait()
            finally:
                site.end()
            if codes[0] == ExitCode.FAILED or (first == 0 and 0 <= codes[0] != LOST):
                return codes[0]
            say(site.obituary(first, codes))
            if ExitCode.FAILED in codes.values():  # it would say the same again
                return ExitCode.FAILED
            quick = quick + 1 if time.monotonic() - began < RANKS_QUICK else 0
            if quick == TRIES:
                say(f"that was {TRIES} times in a row; giving up. What the processes wrote: {logs}")
                return ExitCode.FAILED
            say(f"starting all {count} processes again")
            time.sleep(RANK_RESTART)
    finally:
        if forks:
            forks.close()


class _Site:
    """One start of all processes."""

    def __init__(
        self,
        module: str,
        words: Sequence[str],
        count: int,
        threads: int,
        logs: Path,
        say: Say,
        forks: ForkServer | None,
    ) -> None:
        self._ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._codes: dict[int, int] = {}
        self._children: list[Child] = []
        self.logs, port = logs, _free_port()
        for rank in range(count):
            log = logs / f"process-{rank}.log"
            log.write_bytes(b"")
            given = [str(rank), str(count), str(port), *words]
            if forks:
                process = forks.start(module, given, log)
            else:
                process = forkserver.start(
                    module, given, environment.of_child(threads) | QUIET, log
                )
            self._children.append(
                Child(f"process {rank}", process, self._heard(rank, say), self._noted(rank))
            )

    def wait(self) -> tuple[int, dict[int, int]]:
        """Which process ended before its time, or process 0; and the exit codes of all, once all have ended."""
        first = self._next(None)
        while first and self._codes[first] == ExitCode.DONE:  # process 0 still writes the model
            first = self._next(None)
        assert first is not None
        closes = time.monotonic() + RANK_LAST_WORD  # they notice it, too, and can say why
        while len(self._codes) < len(self._children) and time.monotonic() < closes:
            self._next(closes - time.monotonic())
        self.end()
        while len(self._codes) < len(self._children):
            self._next(None)
        return first, self._codes

    def end(self) -> None:
        """The peer first, that it may say good-bye while it is whole."""
        end(self._children[:1], PROCESS_GRACE)
        end(self._children[1:], RANK_LAST_WORD)

    def obituary(self, first: int, codes: dict[int, int]) -> str:
        """What became of the process that ended first."""
        lost = [rank for rank, code in codes.items() if code not in (LOST, 0, 130)]
        who = first if first in lost or not lost else lost[0]
        code, log = codes[who], self.logs / f"process-{who}.log"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        said = f" ({lines[-1]})" if lines else ""
        return f"process {who} of this site {how}{said}"

    def _next(self, seconds: float | None) -> int | None:
        """The process that ends next; None after so many seconds."""
        closes = None if seconds is None else time.monotonic() + seconds
        while closes is None or time.monotonic() < closes:
            try:
                rank, code = self._ended.get(timeout=VIEW)
            except queue.Empty:
                continue
            self._codes[rank] = code
            return rank
        return None

    def _heard(self, rank: int, say: Say) -> Callable[[bytes], None]:
        return lambda line: say(line.decode("utf-8", "replace").rstrip())

    def _noted(self, rank: int) -> Callable[[int], None]:
        return lambda code: self._ended.put((rank, code))


def _free_port() -> int:
    """A TCP port of this machine alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
