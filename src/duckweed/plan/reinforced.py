"""The time of a step of reinforcement learning, from how fast a machine writes, checks and trains.

Answers are written a token at a time, all answers of a step together, with the keys and values of the tokens before
kept; then they are checked, one after the other; then what has spread is trained on.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from duckweed.run import units
from duckweed.run.spec import RunSpec
from duckweed.run.task.pace import Pace
from duckweed.run.task.sections import Reinforce

FORWARD = 1 / 3
"""What a pass forward costs, as a share of one with its gradients (Kaplan et al. 2020, arXiv 2001.08361)."""


@dataclass(frozen=True)
class Step:
    """Seconds of the parts of an inner step."""

    write: float
    check: float
    train: float

    @property
    def seconds(self) -> float:
        return self.write + self.check + self.train


def step(task: Reinforce, batch: int, pace: Pace) -> Step:
    """An inner step of `batch` answers. `task` may differ from that of the run that was measured in samples, tokens and
    divergence; what answers are like is taken to stay the same.

    Writing P positions behind a question of Q tokens: the question is read, once for all answers to it, and of the
    positions behind the first the t-th has Q + t tokens before it.
    """
    question, positions = pace.question, max(1.0, math.ceil(pace.filled * task.tokens))
    read = pace.position + batch * (question * pace.read / task.samples + pace.row)
    before = (positions - 1) * question + positions * (positions - 1) / 2
    write = read + (positions - 1) * (pace.position + batch * pace.row) + before * batch * pace.past
    trained = batch * pace.spread * (question + positions)
    passes = 1 + FORWARD * (task.kl > 0)
    return Step(write, batch * pace.check, trained * pace.train * passes + pace.step)


@dataclass(frozen=True)
class Planned:
    """A run on machines of one pace. The exchange between rounds is not in it."""

    step: Step
    batch: int
    """Answers of a step."""
    steps: int
    """Inner steps of a round, in the mean."""
    rounds: int
    peers: int
    pace: Pace

    @property
    def round(self) -> float:
        """Seconds of the steps of a round."""
        return self.steps * self.step.seconds

    def words(self) -> list[str]:
        """For a person."""
        step, show = self.step, units.show_time
        answers = self.steps * self.batch * self.peers
        spread = (
            f"{self.pace.spread:.0%} of the groups had spread, and the longest answer {self.pace.filled:.0%} of "
            "task.tokens; both change as the model learns"
        )
        return [
            f"A step of {self.batch} answers takes {show(step.seconds)} on this machine: {show(step.write)} to write "
            f"them, {show(step.check)} to check them, {show(step.train)} to train on them",
            f"A round of {self.steps} steps takes {show(self.round)} and gives {answers:,} answers of {self.peers} "
            f"such peers; {self.rounds} rounds take {show(self.rounds * self.round)}. Exchange comes on top of it",
            f"As measured with the first weights: {spread}",
        ]

    def tree(self) -> dict[str, Any]:
        """For programs; seconds."""
        return {
            "step": {**asdict(self.step), "seconds": self.step.seconds},
            "answers": self.batch, "steps": self.steps, "round": self.round, "rounds": self.rounds,
            "peers": self.peers, "run": self.rounds * self.round, "pace": msgspec.structs.asdict(self.pace),
        }  # fmt: skip


def plan(spec: RunSpec, pace: Pace) -> Planned:
    """A run of reinforcement learning as it is specified."""
    assert isinstance(spec.task, Reinforce)
    rounds = spec.schedule
    steps = max(1, round(rounds.steps / rounds.rounds))
    one = step(spec.task, spec.inner.batch, pace)
    return Planned(one, spec.inner.batch, steps, rounds.rounds, spec.rounds.peers, pace)
