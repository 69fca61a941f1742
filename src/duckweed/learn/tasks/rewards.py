"""The rewards of rollouts, checked again from their tokens alone: no model is needed, and no torch.

`python -m duckweed.learn.tasks.rewards` is the process in which a coordinator has it done
(duckweed.swarm.coordinator.rewards).
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from duckweed.learn.data.dataset import Dataset
from duckweed.learn.data.reading import DataError
from duckweed.learn.tasks import problems as found
from duckweed.learn.tasks.problems import Problem, Wording
from duckweed.run import plugins
from duckweed.run import spec as specs
from duckweed.run.folder import FolderError, RunFolder
from duckweed.run.spec import RunSpec
from duckweed.run.task import rollouts as packing
from duckweed.run.task.helper import serve
from duckweed.run.task.rollouts import ENOUGH, Rollouts, RolloutsError
from duckweed.run.task.written import Written

PATIENCE = 2.0
"""Times as long as at the peer that a check may take here, on a machine that is busier."""
UNDONE = 3
"""Checks of answers that are called right that may fail here. More: what is claimed cannot be checked."""
BUDGET = 20.0
"""Seconds for the checks of one contribution. What is called right is checked first; what is not reached is
believed."""


class Asked(NamedTuple):
    """A problem, and what was written to it."""

    problem: Problem
    answers: list[NDArray[np.int64]]
    rewards: NDArray[np.float32]


class Rewards:
    """What checks the rollouts of a run."""

    def __init__(self, spec: RunSpec, dataset: Dataset) -> None:
        self.spec, self.problems = spec, found.of(spec, dataset)
        # A time-out of this machine must not be held against a peer.
        self.problems.verifier.seconds *= PATIENCE
        self.wording = Wording(dataset.tokenizer)

    def check(self, blob: bytes, block: int, first: int, steps: int, said: Written) -> Written:
        """What the rollouts of a span add up to. said: by their peer. Raises RolloutsError where they are not
        what a peer can have written, or a reward is false."""
        rollouts = packing.decode(blob, self.spec, steps)
        asked = self._asked(rollouts, block, first, steps)
        ends = [self._ends(ids) for one in asked for ids in one.answers]
        self._check_rewards(asked, said)
        return packing.written(rollouts, self.problems.task.samples, ends, said)

    def _asked(self, rollouts: Rollouts, block: int, first: int, steps: int) -> list[Asked]:
        samples, answers = self.problems.task.samples, rollouts.answers()
        places = found.places(self.spec, block, range(first, first + steps))
        asked: list[Asked] = []
        for place, here in zip(places, rollouts.asked.tolist(), strict=True):
            problem = self.problems.at(place, False)
            length = len(self.wording.prompt(self.problems.conversation(problem)))
            if here != (length <= self.spec.model.sequence - self.problems.task.tokens):
                raise RolloutsError(
                    f"problem {place} has a question of {length} tokens, and was {'' if here else 'not '}asked"
                )
            if here:
                rows = slice(len(asked) * samples, (len(asked) + 1) * samples)
                asked.append(Asked(problem, answers[rows], rollouts.rewards[rows]))
        return asked

    def _ends(self, ids: NDArray[np.int64]) -> bool:
        """Whether a token ended an answer. Raises RolloutsError for an answer that ends otherwise."""
        if ids.max() >= self.wording.tokenizer.size:
            raise RolloutsError(f"token {ids.max()} is none of the model")
        stops = np.isin(ids, self.wording.stops)
        if stops[:-1].any():
            raise RolloutsError("an answer goes on behind its end")
        if not stops[-1] and len(ids) < self.problems.task.tokens:
            raise RolloutsError("an answer breaks off")
        return bool(stops[-1])

    def _check_rewards(self, asked: list[Asked], said: Written) -> None:
        """Raises RolloutsError for a reward that is false."""
        until, undone, denied = time.monotonic() + BUDGET, 0, 0
        for problem, ids, claimed in _in_order(asked):
            if time.monotonic() > until:
                return
            text = self.wording.text(ids)
            failed = self.problems.failed
            reward = np.float32(self.problems.score(problem, text))
            if self.problems.failed > failed:
                undone += claimed > 0
                if undone > UNDONE:
                    raise RolloutsError(
                        f"{undone} answers are called right whose check fails or takes too long here"
                    )
            elif abs(reward - claimed) > ENOUGH:
                denied += claimed == 0
                # A check that failed at the peer counted as wrong there.
                if claimed > 0 or denied > said.failed:
                    raise RolloutsError(
                        f"a reward of {claimed:.3g} is claimed for {text.strip()[-40:]!r}, which earns {reward:.3g}"
                    )


def _in_order(asked: list[Asked]) -> Iterator[tuple[Problem, NDArray[np.int64], float]]:
    """All answers with their problems and rewards: those that are called right first, each kind in an order that
    nobody can foresee, since the time may not suffice for all."""
    rows = [
        (one.problem, ids, float(reward))
        for one in asked
        for ids, reward in zip(one.answers, one.rewards, strict=True)
    ]
    random.SystemRandom().shuffle(rows)
    yield from sorted(rows, key=lambda row: row[2] == 0)


# --- the other end


def _begin(begin: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """begin: `folder` of the run, `plugins` that it needs."""
    plugins.load(begin["plugins"])
    folder = RunFolder(Path(begin["folder"]))
    local = folder.local()
    if "dataset" not in local:
        raise DataError(f"{folder.path} does not say where the problems of the run are")
    checks = Rewards(specs.load(folder.spec), Dataset.open(Path(local["dataset"])))
    checks.problems.at(0, False)  # says what is not installed

    def answered(question: dict[str, Any]) -> Any:
        said = msgspec.convert(question["said"], Written)
        blob = Path(question["blob"]).read_bytes()
        try:
            told = checks.check(blob, question["block"], question["first"], question["steps"], said)
        except RolloutsError as error:
            return {"wrong": str(error)}
        return {"written": msgspec.to_builtins(told)}

    return answered


if __name__ == "__main__":
    serve(_begin, (DataError, FolderError, plugins.PluginError))
