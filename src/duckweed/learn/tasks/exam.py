"""How many problems a model solves: problems that nobody trains on, several answers to each."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.permutation import derive
from duckweed.learn.device import precision_for
from duckweed.learn.model.given import model_in
from duckweed.learn.tasks.problems import Problems, Wording, right
from duckweed.learn.tasks.rollout import write
from duckweed.run.task.sections import Environment, Reinforce

AT_ONCE = 256  # answers that are written together
Z = 1.96  # deviations of a normal distribution that hold 95 %


class Sample(msgspec.Struct, frozen=True):
    """One question and what was written."""

    question: str
    written: str
    answer: str
    """A right one, as the environment has it."""
    right: bool


class Result(msgspec.Struct, frozen=True):
    """What came of the problems of one environment."""

    name: str
    samples: int
    """Answers to each problem."""
    right: list[int]
    """Of each problem: how many of them were right."""
    tokens: float
    """Mean length of an answer."""
    failed: int
    """Checks that raised or took too long."""
    shown: list[Sample] = []
    """The first answers to the first problems."""

    def pass_at(self, k: int) -> float:
        """The share of problems of which at least one of k answers is right, without bias: the mean of
        1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374)."""
        n = self.samples
        each = [1 - math.comb(n - c, k) / math.comb(n, k) for c in self.right]
        return sum(each) / len(each)

    def interval(self, k: int) -> tuple[float, float]:
        """In which that share of all problems lies with 95 % confidence: Wilson's score interval (1927) for
        as many independent problems; for a mean of shares, whose variance is less, it is too wide."""
        p, n = self.pass_at(k), len(self.right)
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
        return max(0.0, middle - half), min(1.0, middle + half)


@torch.no_grad()
def examine(
    folder: Path,
    task: Reinforce,
    problems: int,
    samples: int,
    device: str,
    seed: int,
    share: float,
    say: Callable[[str], None],
    rows: list[tuple[str, str]] | None = None,
) -> list[Result]:
    """Let the model in a folder write `samples` answers to each of `problems` held-out problems of each
    environment of a task. share: of the problems that are held out. Raises DataError, ModelError."""
    model: Any = model_in(folder).to(device)
    wording = Wording(tokenizers.load(folder))
    found = []
    each = task.environments.items() or [("rows", Environment())]
    for name, environment in each:
        own = {name: environment} if task.environments else {}
        alone = Problems(msgspec.structs.replace(task, environments=own), seed, share, rows)
        try:
            found.append(
                _examined(model, wording, alone, name, problems, samples, device, seed, say)
            )
        finally:
            alone.verifier.close()
    return found


def _examined(
    model: Any,
    wording: Wording,
    problems: Problems,
    name: str,
    count: int,
    samples: int,
    device: str,
    seed: int,
    say: Callable[[str], None],
) -> Result:
    task, dtype = problems.task, precision_for(device, "auto")
    right_ones, tokens, shown = [], 0, []
    at_once = max(1, AT_ONCE // samples)
    for first in range(0, count, at_once):
        say(f"{name}: {first} of {count} problems")
        asked = [problems.at(place, True) for place in range(first, min(count, first + at_once))]
        prompts = [wording.prompt(problems.conversation(x)) for x in asked]
        keys = [
            derive(seed, 3, first + n, sample)
            for n in range(len(asked))
            for sample in range(samples)
        ]
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        answers = write(model, repeated, keys, task.tokens, task.temperature, wording.stops, dtype)
        texts, tokens = wording.texts(answers), tokens + int(answers.lengths.sum())
        for n, problem in enumerate(asked):
            own = [
                right(problems.score(problem, x)) for x in texts[n * samples : (n + 1) * samples]
            ]
            right_ones.append(sum(own))
            shown.append(Sample(problem.question, texts[n * samples], problem.answer, own[0]))
    return Result(name, samples, right_ones, tokens / (count * samples), problems.failed, shown[:4])
