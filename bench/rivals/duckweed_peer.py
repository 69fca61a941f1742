"""`duckweed join` with the fault of RIVALS_FAULT, if there is one, in what this peer has learnt: the rest is the
product's own, so that it is the wire and the coordinator which have to do with it."""

import math
import os
from typing import Any

from duckweed.cli import main
from duckweed.learn.learner import Part, Work
from duckweed.learn.single import SingleDevice

FAULTS = {"nan": math.nan, "x1000": 1000.0}


def spoil(factor: float, after: int) -> None:
    """From that inner step on, multiply the pseudo-gradients of this process."""
    honest = SingleDevice.train

    def train(self: SingleDevice, weights: Any, part: Part, *rest: Any, **more: Any) -> Work:
        work = honest(self, weights, part, *rest, **more)
        if part.number >= after:
            work.delta *= factor
        return work

    SingleDevice.train = train  # type: ignore[method-assign]


if __name__ == "__main__":
    if fault := os.environ.get("RIVALS_FAULT"):
        spoil(FAULTS[fault], int(os.environ["RIVALS_STEPS"]) // 3)
    main()
