"""`duckweed join` on a simulated computer: every inner step lasts so many seconds.

    python -m bench.wan.paced SECONDS join INVITATION --home FOLDER

The steps are real and so is what comes of them; what is left of the time of each is slept, as if a
slower machine were at work. So two cores can stand for many computers, as long as the real work of
all of them together takes less than the simulated time.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from duckweed import cli
from duckweed.learn.trainer import Trainer, Work
from duckweed.swarm import joining


def paced(batches: Iterable[np.ndarray], seconds: float) -> Iterator[np.ndarray]:
    """The same batches; the n-th step ends n * seconds after the beginning, or later."""
    began = time.monotonic()
    for number, one in enumerate(batches, 1):
        yield one
        time.sleep(max(0.0, began + number * seconds - time.monotonic()))


class PacedTrainer(Trainer):
    """A trainer whose steps last `step_seconds`."""

    step_seconds = 0.0

    def train(
        self, weights: np.ndarray, batches: Iterable[np.ndarray], *rest: Any, **more: Any
    ) -> Work:
        return super().train(weights, paced(batches, self.step_seconds), *rest, **more)


if __name__ == "__main__":
    PacedTrainer.step_seconds = float(sys.argv.pop(1))
    joining.Trainer = PacedTrainer  # type: ignore[misc]
    cli.main()
