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
    fresh: float
    """More in the first step of a round."""

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
    trained = batch * (pace.spread or 1.0) * (question + positions)
    passes = 1 + FORWARD * (task.kl > 0)
    train = trained * pace.train * passes + pace.step
    return Step(write, batch * pace.check, train, trained * pace.fresh)


@dataclass(frozen=True)
class Planned:
    """A run on machines of one pace. The exchange between rounds is not in it."""

    step: Step
    batch: int
    """Answers of a step."""
    steps: int
    """Inner steps of a round, in the mean."""
    rounds: int
    trainers: int
    writers: int
    """Peers that only write."""
    lag: int
    """Rounds that these have for their answers."""
    pace: Pace

    @property
    def alone(self) -> float:
        """Seconds of a round in which the trainers write all that they learn from."""
        return self.steps * self.step.seconds + self.step.fresh

    @property
    def fed(self) -> bool:
        """Whether every trainer learns from the answers of others. A peer that only writes hands in a span in every
        `lag`-th round; one trainer that has to write itself makes a round as long as if all had to."""
        return bool(self.writers) and self.writers // self.lag >= self.trainers

    @property
    def round(self) -> float:
        """Seconds of the steps of a round, but for the first rounds, for which nobody has written yet."""
        if not self.fed:
            return self.alone
        return max(self.learning, self.steps * (self.step.write + self.step.check) / self.lag)

    @property
    def learning(self) -> float:
        """Seconds of the steps of a round in which others have written all; a trainer checks rewards itself."""
        return self.steps * (self.step.check + self.step.train) + self.step.fresh

    @property
    def run(self) -> float:
        """Seconds of the steps of all rounds."""
        first = min(self.lag, self.rounds)
        return first * self.alone + (self.rounds - first) * self.round

    @property
    def slower(self) -> float:
        """How many times the time of this machine one that only writes may take without holding the others up."""
        return self.lag * self.round / (self.steps * (self.step.write + self.step.check))

    def words(self) -> list[str]:
        """For a person."""
        step, show = self.step, units.show_time
        answers = self.steps * self.batch * self.trainers
        spread = f"{self.pace.spread:.0%} of the groups had spread"
        if not self.pace.spread:
            spread = "no group of answers had spread, so that training is counted as if all had"
        longest = f"the longest answer took {self.pace.filled:.0%} of task.tokens"
        return [
            f"A step of {self.batch} answers takes {show(step.seconds)} on this machine: {show(step.write)} to write "
            f"them, {show(step.check)} to check them, {show(step.train)} to train on them",
            *self._written(),
            f"A round of {self.steps} step{'s' * (self.steps > 1)} takes {show(self.round)} and gives {answers:,} answers to {self.trainers} "
            f"such peers that train; {self.rounds} rounds take {show(self.run)}. Exchange comes on top of it",
            f"As measured with the first weights: {spread}, and {longest}; both change as the model learns",
        ]

    def _written(self) -> list[str]:
        """What the peers that only write are worth, where there are some."""
        if not self.writers:
            return []
        if self.fed:
            text = f"{units.show_time(self.alone)} a round without them"
        else:
            need = self.trainers * self.lag
            text = (
                f"too few to make rounds shorter: with task.staleness = {self.lag} that takes {need}, {self.lag} for each "
                "peer that trains"
            )
        who = f"{self.writers} peers only write" if self.writers > 1 else "1 peer only writes"
        return [
            f"{who}, {text}. Such a peer may take {self.slower:.1f} times as long as this "
            "machine before others wait for it"
        ]

    def tree(self) -> dict[str, Any]:
        """For programs; seconds."""
        return {
            "step": {**asdict(self.step), "seconds": self.step.seconds},
            "answers": self.batch, "steps": self.steps, "round": self.round, "rounds": self.rounds,
            "peers": self.trainers + self.writers, "writers": self.writers, "staleness": self.lag,
            "round without writers": self.alone, "run": self.run, "pace": msgspec.structs.asdict(self.pace),
        }  # fmt: skip


def plan(spec: RunSpec, pace: Pace) -> Planned:
    """A run of reinforcement learning as it is specified."""
    task = spec.task
    assert isinstance(task, Reinforce)
    rounds = spec.schedule
    steps = max(1, round(rounds.steps / rounds.rounds))
    one = step(task, spec.inner.batch, pace)
    trainers = spec.rounds.peers - spec.writers
    return Planned(
        one, spec.inner.batch, steps, rounds.rounds, trainers, spec.writers, task.lag, pace
    )
