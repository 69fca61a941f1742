"""How fast this machine writes, checks and trains in reinforcement learning: a few seconds of each, with the run's own
model and problems. Leaves no trace."""

import time
from collections.abc import Callable
from statistics import median

import msgspec
import torch

from duckweed.learn.learner import Part
from duckweed.learn.memory import trim
from duckweed.learn.optim.registry import make_optimizer
from duckweed.learn.single import SingleDevice, rows
from duckweed.learn.tasks.reinforce import IDS, Reinforcement
from duckweed.learn.tasks.rollout import write
from duckweed.run.task.pace import Pace

FEW, MANY = 16, 64  # answers written at once
POSITIONS = 6  # tokens written for a measurement
GROUPS = 8  # written and checked to see what answers are like
AGAIN = 5  # times; the median counts: in a run, too, a part takes now more and now less


def measure(one: SingleDevice) -> Pace:
    """The pace of a learner whose model has the weights that it is to begin with."""
    task, model = one.task, one.model
    assert isinstance(task, Reinforcement)
    inner = msgspec.structs.replace(one.spec.inner, batch=GROUPS * task.task.samples)
    small = Reinforcement(msgspec.structs.replace(one.spec, inner=inner), task.dataset)
    if task.task.kl:
        small.hold(lambda: model)  # what it says does not matter here
    batch = next(small.batches(Part(0, 0, 1), model))
    told, rollouts = small.written, small.rollouts
    assert told
    assert rollouts
    questions = [len(small.prompt_of(place)) for place in range(told.problems)]
    question = sum(questions) / len(questions)
    read, few = _writing(one, FEW, round(question))
    _, many = _writing(one, MANY, round(question))
    _, late = _writing(one, MANY, round(question) + task.task.tokens)
    row = max(0.0, many - few) / (MANY - FEW)
    past = max(0.0, late - many) / MANY / task.task.tokens
    texts = small.wording.text(rollouts.answers()[0])
    problem = small.problems.at(0, False)
    model.train()
    few_rows = {name: array[: max(1, len(array) // 4)] for name, array in batch.items()}
    part = _typical(lambda: one.loss(few_rows).backward())
    whole = _typical(lambda: one.loss(batch).backward())
    anew = _typical(lambda: one.loss(batch).backward(), before=trim)
    # What a pass takes whatever its tokens is at most half of it: the rest, by noise, would be nothing.
    size, more = batch[IDS].size, batch[IDS].size - few_rows[IDS].size
    train = min(whole / size, max(whole / size / 2, (whole - part) / max(1, more)))
    stepper = make_optimizer(model, one.spec.inner)
    step = whole - train * size + _typical(lambda: stepper.step(0.0, 1))
    model.zero_grad(set_to_none=True)
    return Pace(
        position=max(0.0, few - FEW * row),
        row=max(0.0, row - past * question),
        past=past,
        read=read,
        check=_typical(lambda: small.problems.score(problem, texts)),
        train=train,
        fresh=max(0.0, anew - whole) / size,
        step=step,
        question=question,
        filled=float(rollouts.lengths.max()) / task.task.tokens,
        spread=0.0 if told.flat == told.problems else rows(batch) / told.answers,
    )


def _writing(one: SingleDevice, answers: int, before: int) -> tuple[float, float]:
    """Seconds of a token of a question, and of one position of all answers, behind so many tokens. Each answer is to a
    question of its own, because one that comes several times is read once."""
    task = one.task
    assert isinstance(task, Reinforcement)
    one.model.eval()
    keys = list(range(answers))
    prompts = [[key] + [task.wording.stops[0]] * (before - 1) for key in keys]

    def written(tokens: int) -> float:
        return _typical(
            lambda: write(
                one.model,
                prompts,
                keys,
                tokens,
                task.task.temperature,
                task.wording.stops,
                one.dtype,
            )
        )

    first = written(1)
    position = max(0.0, written(1 + POSITIONS) - first) / POSITIONS
    return max(0.0, first - position) / answers / before, position


def _typical(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Seconds of it; the first time does not count. before: what is done before each, whose time does not count."""
    found = []
    for _ in range(1 + AGAIN):
        before()
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return median(found[1:])
