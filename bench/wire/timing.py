"""How long some work takes, on a machine that does other work too."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import numpy as np

from bench.wire.record import Row
from duckweed.wire import threads

Work = Callable[[], object]


def seconds(work: Work, repeat: int) -> float:
    """Processor seconds of the best of several runs, so that a busy machine does not count."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


class Used(NamedTuple):
    """Seconds."""

    all: float
    """Of the processors."""
    this: float
    """Of the processors, by this thread."""
    clock: float


def used(work: Work) -> Used:
    all_, this, clock = time.process_time(), time.thread_time(), time.perf_counter()
    work()
    return Used(time.process_time() - all_, time.thread_time() - this, time.perf_counter() - clock)


class InTurn:
    """Some work and copying a vector of its size, in turn; and the work with one and with two threads, in turn; so that what
    else the machine does meets both. The work finds `spare` filled with x."""

    def __init__(self, x: np.ndarray, repeat: int) -> None:
        self.x, self.spare, self.repeat = x, x.copy(), repeat

    def figures(self, work: Work) -> Row:
        """In processor time, medians: MB/s of float32, the share of a copy's speed, and of two threads the part that the
        first does alone. By the clock: how much faster two threads are, the median of pairs and that of the best of each."""
        self._warm_up(work)
        copies, ones, twos = [], [], []
        for _ in range(self.repeat):
            copies.append(used(lambda: np.copyto(self.spare, self.x)))
            ones.append(self._timed(work, 1))
            twos.append(self._timed(work, 2))
        megabytes = self.x.nbytes / 1e6
        one, two = min(run.clock for run in ones), min(run.clock for run in twos)
        faster = median(a.clock / b.clock for a, b in zip(ones, twos, strict=True))
        return {
            "MB/s": round(megabytes / median(run.all for run in ones)),
            "of a copy": round(median(c.all / o.all for c, o in zip(copies, ones, strict=True)), 3),
            "not shared": f"{100 * median(run.this / run.all for run in twos):.0f} %",
            "1 thread": round(megabytes / one),
            "2 threads": round(megabytes / two),
            "faster": round(one / two, 2),
            "faster, median": round(faster, 2),
        }

    def _warm_up(self, work: Work) -> None:
        """Afterwards all is compiled, the threads have started, and their memory is there."""
        work()
        for count in (1, 2):
            self._timed(work, count)

    def _timed(self, work: Work, count: int) -> Used:
        np.copyto(self.spare, self.x)
        threads.use(count)
        measured = used(work)
        threads.use(1)
        return measured
