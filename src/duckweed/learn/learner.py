"""The learner: what turns weights and a part of a block into work.

A round asks a learner for a pseudo-gradient and says nothing of devices, processes, optimizers or
loss. Whole-model numbers cross this seam as flat float32 vectors on the host, f32[P], in the order of
the run's layout. Several processes that train as one peer are one learner, too (duckweed.learn.site): its
first rank answers these calls. A learner of some tensors would be made with a specification that says which,
and P would be the length of what it holds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import nn

from duckweed.learn.fit import Fit, Say
from duckweed.learn.optim.optimizer import OptimizerState
from duckweed.run.task.rollouts import Rollouts
from duckweed.run.task.written import Written

Report = Callable[[int, float], None]
"""Told the steps done so far and their mean loss in nats per token. It may end the training by raising."""


class Diverged(RuntimeError):
    """The loss of a peer became NaN or infinite."""


class Part(msgspec.Struct, frozen=True):
    """Some inner steps of one block."""

    block: int  # which part of the data, counted over the run
    first: int  # the first of these steps, counted within the block
    steps: int  # how many
    number: int = (
        0  # the first of these steps, counted over the run: sets learning rate and momentum
    )
    seed: int = 0  # of whatever is random in training, such as dropout
    # Step within the block -> answers that others wrote, and that are learnt from instead of own ones.
    given: Mapping[int, Rollouts] = {}


class Work(msgspec.Struct):
    """What some inner steps gave."""

    delta: np.ndarray  # pseudo-gradient f32[P]: weights before minus weights after
    tokens: int  # trained on, as the task counts them
    loss: float  # mean over the steps, nats per token
    seconds: float  # wall time
    optimizer: OptimizerState  # to go on from; empty unless it was asked for
    written: Written | None = None  # by the model for this work; None: it writes nothing
    rollouts: Rollouts | None = None  # the same in full


class Learner(Protocol):
    """One model, trained from given weights, round after round. It keeps nothing from one call to the
    next that changes a result, so that several peers of one process may share a learner.

    A learner of one's own inherits from this class. `weights`, `train` and `evaluate` are enough for
    one without optimizer state.
    """

    def weights(self) -> np.ndarray:
        """The weights as the last call left them, f32[P]."""
        ...

    def train(
        self,
        weights: np.ndarray,
        part: Part,
        optimizer: OptimizerState | None = None,
        report: Report | None = None,
        keep: bool = False,
    ) -> Work:
        """Train some steps from `weights`, which stay as they are. optimizer: state to begin with,
        which is used up; None or empty: a fresh one. keep: whether the state at the end is wanted.
        report is called after steps, not necessarily after each, and after the last. Raises Diverged."""
        ...

    def write(self, weights: np.ndarray, part: Part, report: Report | None = None) -> Work:
        """Write the answers of a part and train nothing: what `train` would write before its first step, with an empty
        `delta`. report: is called after the answers of each step. Only for tasks that write."""
        raise NotImplementedError("this learner cannot write answers without training")

    def evaluate(
        self,
        weights: np.ndarray,
        limit: int | None,
        share: int = 0,
        shares: int = 1,
        batch: int = 8,
    ) -> tuple[float, int]:
        """Sum of nats and number of tokens over about `limit` held-out tokens (None: all), of which
        this is share number `share` of `shares`: every shares-th batch of `batch` sequences."""
        ...

    def fix(self, buffers: Mapping[str, torch.Tensor]) -> None:
        """Set the persistent buffers of the model, which are fixed in a run. Called once, after the
        learner is made, and only where the model has any."""
        raise NotImplementedError("this learner cannot train a model with persistent buffers")

    def hold(self, begin: Callable[[], nn.Module]) -> None:
        """Give the model with the weights that the run began from, on the CPU, to a task whose loss asks what they
        say. Called once, after the learner is made, and only for such a task; begin: is not called before it is
        needed, and raises ModelError."""
        raise NotImplementedError("this learner cannot hold the weights that a run began from")

    def fit(self, ways: Sequence[Fit], say: Say) -> None:
        """Fit inner steps into memory in the first of these ways; where the device runs out of memory,
        in the next. Called at most once, after the learner is made; one that fits them by itself may
        ignore it. say: takes what the user should know, now and later."""

    def compile(self, say: Say) -> None:
        """Compile what trains, if that is possible here. Called at most once, after `fit`; one that cannot says so and
        trains as before."""
        say("--compile: this learner is not compiled; it trains as without")

    def begin_round(self, carried: OptimizerState, merged: np.ndarray) -> OptimizerState:
        """The optimizer state that a round begins with, in copies: `carried` stays as it is. merged:
        the last merged step f32[P] (the outer momentum), zeros before the first merge."""
        return {name: value.copy() for name, value in carried.items()}

    # --- for peers that train ahead (rounds.overlap)

    def guess(self, begun: OptimizerState) -> OptimizerState:
        """Copies of what `correct` needs of a state that training ahead begins with."""
        return {}

    def correct(
        self, state: OptimizerState, guess: OptimizerState, right: OptimizerState, steps: range
    ) -> None:
        """Correct, in place, the state after `steps` (counted over the run) that began with `guess`,
        now that the state to begin with is known to be `right`."""
