"""Reinforcement learning on answers that can be checked.

A part of a block names problems. The model writes a group of answers to each, from the weights that it has
as the part begins; they are checked; groups without spread are left out; the others are trained on, once
each, in as many inner steps as the part has.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from duckweed.learn.data.dataset import Dataset
from duckweed.learn.data.permutation import derive
from duckweed.learn.data.reading import DataError
from duckweed.learn.device import precision_for
from duckweed.learn.learner import Part, Report
from duckweed.learn.model.network import Network
from duckweed.learn.task import Batch, Forward
from duckweed.learn.tasks import problems as found
from duckweed.learn.tasks.policy import (
    advantages,
    cispo_loss,
    has_spread,
    policy_loss,
    start_divergence,
)
from duckweed.learn.tasks.problems import Problem, Wording, right
from duckweed.learn.tasks.rewards import UNDONE
from duckweed.learn.tasks.rollout import Answers, write
from duckweed.run.spec import RunSpec
from duckweed.run.task import rollouts as packing
from duckweed.run.task.rollouts import Rollouts
from duckweed.run.task.sections import Reinforce
from duckweed.run.task.written import Written

log = logging.getLogger(__name__)
IDS, WRITTEN, THEN, START = "ids", "written", "then", "start"
GAIN, MISSED, PLACE = "gain", "missed", "place"
ENDLESS = 1 << 31  # problems to train on: as many as are numbered
MOST = 1024  # held-out problems that are measured: a share of them is known to 3 points then
READ = 32  # answers that the weights of the start read at once
MEASURED = 64  # held-out problems at a time, at least: writing few takes as long as writing many


class Group(NamedTuple):
    """The answers to one problem."""

    prompt: list[int]
    answers: Answers  # of this problem
    rewards: NDArray[np.float32]  # [s]


class PolicyLoss:
    """Its loss, once answers are written and checked. Needs no data."""

    def __init__(self, spec: RunSpec) -> None:
        assert isinstance(spec.task, Reinforce)
        self.task = spec.task

    def loss(self, forward: Forward, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The gradient is that of the policy loss; the value, which people look at, is the mean reward that
        was missed, for the loss itself is about zero whatever the model can do."""
        ids, task = batch[IDS], self.task
        nats = forward.nats(ids[:, 1:], task.temperature, input_ids=ids[:, :-1])
        then, gain, written = batch[THEN][:, 1:], batch[GAIN], batch[WRITTEN][:, 1:]
        if task.ratio == "cispo":
            policy = cispo_loss(nats, then, gain, written, task.bound, task.pull)
        else:
            policy = policy_loss(nats, then, gain, written, task.trust, task.pull)
        if task.kl:
            start = batch[START][:, 1:]
            policy = policy + task.kl * start_divergence(nats, then, start, written)
        return policy + (batch[MISSED].mean() - policy.detach())

    def count(self, batch: Batch) -> int:
        return len(batch[PLACE]) if PLACE in batch else int(batch[WRITTEN].sum())

    def measure(self, forward: Forward, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Held-out problems are measured where the problems are."""
        raise NotImplementedError


class Reinforcement(PolicyLoss):
    """Problems, answers and their rewards: a function of seed, block, step and weights."""

    def __init__(self, spec: RunSpec, dataset: Dataset) -> None:
        super().__init__(spec)
        self.spec, self.dataset = spec, dataset
        self.problems = found.of(spec, dataset)
        self.wording = Wording(dataset.tokenizer)
        self.room = spec.model.sequence - self.task.tokens  # for a question
        self.written: Written | None = None
        self.rollouts: Rollouts | None = None
        self._begin: Callable[[], nn.Module] | None = None
        self._start: Network | None = None

    def hold(self, begin: Callable[[], nn.Module]) -> None:
        self._begin = begin

    @property
    def sequences(self) -> int:
        return ENDLESS

    def check(self, needed: int) -> None:
        """There are always enough problems."""

    def batches(self, part: Part, model: nn.Module) -> Iterator[Batch]:
        """Answers in groups with spread, at most one batch for each step of the part: fewer where there are
        fewer groups than steps."""
        groups = self._asked(part, model)
        # Where none has spread all are taken: their gradient is zero, and only weights decay.
        kept = [g for g in groups if has_spread(g.rewards[None])[0]] or groups
        batches = min(part.steps, len(kept))
        edges = [len(kept) * n // max(1, batches) for n in range(batches + 1)]
        for first, last in pairwise(edges):
            yield self._batch(kept[first:last], model)

    def write(self, part: Part, model: nn.Module, report: Report | None = None) -> None:
        """Note the answers of a part, and train on none."""
        self._asked(part, model, report)

    def _asked(self, part: Part, model: nn.Module, report: Report | None = None) -> list[Group]:
        """The groups of a part, noted. report: is told of each step."""
        training, failed = model.training, self.problems.failed
        asked: list[Group | None] = []
        model.eval()
        try:
            for done in range(part.steps):
                step = part.first + done
                asked += self._groups(part.block, step, model, part.given.get(step))
                if report:
                    rewards = [float(g.rewards.mean()) for g in asked if g]
                    report(done + 1, 1 - sum(rewards) / max(1, len(rewards)))
        finally:
            model.train(training)
        groups = [group for group in asked if group]
        if not groups:
            raise DataError(
                f"no question of block {part.block} leaves room for an answer; raise model.sequence, or lower "
                "task.tokens"
            )
        self._tell(asked, groups, self.problems.failed - failed)
        return groups

    def _groups(
        self, block: int, step: int, model: nn.Module, given: Rollouts | None
    ) -> list[Group | None]:
        """The answers of one step, written together, or `given`; None for a question that leaves no room for
        them."""
        task = self.task
        places = list(found.places(self.spec, block, [step]))
        problems = [self.problems.at(place, False) for place in places]
        prompts = [self._prompt(problem) for problem in problems]
        fitting = [n for n, prompt in enumerate(prompts) if len(prompt) <= self.room]
        groups: list[Group | None] = [None] * len(places)
        if not fitting:
            return groups
        if given is not None and not self._fit(given, len(places), fitting):
            given = None
        if given is not None:
            answers = self._read(given)
        else:
            keys = [
                derive(self.spec.seed, block, places[n], sample)
                for n in fitting
                for sample in range(task.samples)
            ]
            repeated = [prompts[n] for n in fitting for _ in range(task.samples)]
            answers = self._write(model, repeated, keys)
        failed = self.problems.failed
        for at, n in enumerate(fitting):
            rows = slice(at * task.samples, (at + 1) * task.samples)
            own = answers.of(rows)
            if given is not None and self.problems.failed - failed > UNDONE:
                # A stranger's may be made to hang; the coordinator has checked those that are called right.
                groups[n] = Group(prompts[n], own, given.rewards[rows])
                continue
            texts = self.wording.texts(own)
            rewards = [self.problems.score(problems[n], text) for text in texts]
            groups[n] = Group(prompts[n], own, np.array(rewards, np.float32))
        return groups

    def _fit(self, given: Rollouts, count: int, fitting: list[int]) -> bool:
        """Whether these can be the answers to `count` questions, of which some leave room for them. Where the coordinator
        could check nothing, anything may come."""
        asked = np.isin(np.arange(count), fitting)
        return np.array_equal(given.asked, asked) and bool(
            (given.ids < self.wording.tokenizer.size).all()
        )

    def _read(self, given: Rollouts) -> Answers:
        """Answers that another peer wrote. What a token costs is in the mean the entropy of what it was drawn from."""
        lengths, width = given.lengths, int(given.lengths.max())
        at = np.arange(width) < lengths[:, None]
        ids, nats = np.zeros(at.shape, np.int64), np.zeros(at.shape, np.float32)
        ids[at], nats[at] = given.ids, given.nats
        last = ids[np.arange(len(ids)), lengths - 1]
        return Answers(
            ids,
            lengths,
            nats,
            (nats.sum(1) / lengths).astype(np.float32),
            np.isin(last, self.wording.stops),
        )

    def _tell(self, asked: list[Group | None], groups: list[Group], failed: int) -> None:
        """Note what was written. failed: checks of it that did."""
        each = [g.answers for g in groups]
        self.rollouts = Rollouts(
            np.array([group is not None for group in asked]),
            np.concatenate([x.lengths for x in each]),
            np.concatenate(
                [ids[:n] for x in each for ids, n in zip(x.ids, x.lengths, strict=True)]
            ),
            np.concatenate(
                [nats[:n] for x in each for nats, n in zip(x.nats, x.lengths, strict=True)]
            ),
            np.concatenate([g.rewards for g in groups]),
        )
        entropy = sum(float((x.entropy * x.lengths).sum()) for x in each)
        ends = [bool(one) for x in each for one in x.ended]
        said = Written(failed=failed, entropy=entropy)
        self.written = packing.written(self.rollouts, self.task.samples, ends, said)

    def prompt_of(self, place: int) -> list[int]:
        """The question of a problem to train on, as the model reads it."""
        return self._prompt(self.problems.at(place, False))

    def _prompt(self, problem: Problem) -> list[int]:
        return self.wording.prompt(self.problems.conversation(problem))

    def _write(self, model: nn.Module, prompts: list[list[int]], keys: list[int]) -> Answers:
        device = next(model.parameters()).device.type
        dtype = precision_for(device, self.spec.inner.precision)
        return write(
            model, prompts, keys, self.task.tokens, self.task.temperature, self.wording.stops, dtype
        )

    def _batch(self, groups: list[Group], model: nn.Module) -> Batch:
        """Questions with their answers, filled up on the right to one length."""
        gains = [advantages(g.rewards[None], self.task.deviation)[0] for g in groups]
        rows = [
            (g.prompt, g.answers.ids[n, : g.answers.lengths[n]], g.answers.nats[n])
            for g in groups
            for n in range(len(g.rewards))
        ]
        shape = len(rows), max(len(prompt) + len(ids) for prompt, ids, _ in rows)
        batch: Batch = {
            IDS: np.full(shape, self.wording.tokenizer.end, np.int64),
            WRITTEN: np.zeros(shape, np.float32),
            THEN: np.zeros(shape, np.float32),
            GAIN: np.concatenate(gains),
            MISSED: 1 - np.concatenate([g.rewards for g in groups]),
        }
        for row, (prompt, ids, nats) in enumerate(rows):
            to = slice(len(prompt), len(prompt) + len(ids))
            batch[IDS][row, : to.start], batch[IDS][row, to] = prompt, ids
            batch[WRITTEN][row, to], batch[THEN][row, to] = 1, nats[: len(ids)]
        if self.task.kl:
            batch[START] = self._costs_at_start(batch[IDS], next(model.parameters()).device)
        return batch

    @torch.no_grad()
    def _costs_at_start(self, ids: NDArray[np.int64], device: torch.device) -> NDArray[np.float32]:
        """What each token costs by the weights that the run began from, f32[b, l]; the first one costs nothing."""
        if self._start is None:
            assert self._begin
            dtype = precision_for(device.type, self.spec.inner.precision)
            self._start = Network(self._begin().to(device).eval(), device.type, dtype)
        costs = np.zeros(ids.shape, np.float32)
        for first in range(0, len(ids), READ):
            some = torch.from_numpy(ids[first : first + READ]).to(device)
            nats = self._start.nats(some[:, 1:], self.task.temperature, input_ids=some[:, :-1])
            costs[first : first + READ, 1:] = nats.cpu().numpy()
        return costs

    def held_out(self, limit: int | None, batch: int) -> Iterator[Batch]:
        """Places of held-out problems, as many as there are answers in `limit` tokens, at most MOST."""
        count = MOST if limit is None else min(MOST, max(1, limit // self.task.tokens))
        size = max(batch, MEASURED)
        for first in range(0, count, size):
            yield {PLACE: np.arange(first, min(count, first + size))}

    def measure(self, forward: Forward, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The share of held-out problems that are not solved, by one answer to each (1 - pass@1)."""
        asked = [self.problems.at(int(place), True) for place in batch[PLACE]]
        prompts = [self._prompt(problem) for problem in asked]
        fitting = [n for n, prompt in enumerate(prompts) if len(prompt) <= self.room]
        solved = 0
        if fitting:
            keys = [derive(0, int(batch[PLACE][n])) for n in fitting]
            answers = self._write(forward.model, [prompts[n] for n in fitting], keys)
            for n, text in zip(fitting, self.wording.texts(answers), strict=True):
                solved += right(self.problems.score(asked[n], text))
        return torch.tensor(1 - solved / len(asked))
