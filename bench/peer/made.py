"""Made-up tokens to train on, and the memory that it takes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import nn

from duckweed.learn.learner import Part
from duckweed.learn.task import Batch
from duckweed.learn.tasks.text import TOKENS, NextToken


class Made(NextToken):
    """Text of random tokens, `batch` sequences of a step."""

    def __init__(self, vocabulary: int, batch: int, sequence: int) -> None:
        self.vocabulary, self.shape = vocabulary, (batch, sequence + 1)
        self.rng = np.random.default_rng(0)

    def batches(self, part: Part, model: nn.Module) -> Iterator[Batch]:
        for _ in range(part.steps):
            yield Batch({TOKENS: self.rng.integers(0, self.vocabulary, self.shape)})


def forget() -> None:
    """Count the peak of this process anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak(process: int | str = "self") -> int:
    """Most bytes that a process has had resident since that was cleared. Raises OSError; IndexError where it has ended."""
    said = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(said.partition("VmHWM:")[2].split()[0])
