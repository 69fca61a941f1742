"""`duckweed join` on a simulated computer: every inner step lasts so many seconds.

    python -m bench.wan.paced SECONDS LATER join INVITATION --home FOLDER

The steps are real and so is what comes of them; what is left of the time of each is slept, as if a
slower machine were at work. So two cores can stand for many computers, as long as the real work of
all of them together takes less than the simulated time.

LATER: seconds after which it begins with its first block. Computers that share nothing end their
blocks at different moments; these would all compress at the same one, on the same two cores.
At its end it prints what it took, as a line of JSON: most resident memory (bytes, pages of libraries
that others share included) and processor seconds.
"""

import atexit
import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from duckweed import cli
from duckweed.learn import registry
from duckweed.learn.learner import Part
from duckweed.learn.task import Batch
from duckweed.learn.tasks.text import NextToken
from duckweed.round.worker import Trained, Worker
from duckweed.run.task import work
from duckweed.swarm.peer import preparation


def paced(batches: Iterable[Batch], seconds: float) -> Iterator[Batch]:
    """The same batches; the n-th step ends n * seconds after the beginning, or later."""
    began = time.monotonic()
    for number, one in enumerate(batches, 1):
        yield one
        time.sleep(max(0.0, began + number * seconds - time.monotonic()))


class Paced(NextToken):
    """Next-token text whose steps last `step_seconds`."""

    step_seconds = 0.0

    def batches(self, part: Part, model: nn.Module) -> Iterator[Batch]:
        return paced(super().batches(part, model), self.step_seconds)


class LateWorker(Worker):
    """A worker that begins with its first block `later` seconds after it was told to."""

    later = 0.0

    def train(self, *what: Any) -> Trained:
        time.sleep(self.later)
        self.later = 0.0
        return super().train(*what)


def _tell() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    taken = {"memory": 1024 * used.ru_maxrss, "processor": round(used.ru_utime + used.ru_stime, 1)}
    print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    Paced.step_seconds = float(sys.argv.pop(1))
    LateWorker.later = float(sys.argv.pop(1))
    atexit.register(_tell)
    registry.TASKS[work.TEXT] = Paced
    preparation.Worker = LateWorker  # type: ignore[misc]
    cli.main()
