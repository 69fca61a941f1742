"""The steps of a span, trained by a learner; those that are trained ahead are in duckweed.round.ahead."""

import msgspec
import numpy as np

from duckweed.learn.learner import Learner, Part, Report, Work
from duckweed.learn.optim.optimizer import OptimizerState
from duckweed.round.answers import Given
from duckweed.round.blocks import Span
from duckweed.run.spec import SEED_LIMIT, RunSpec
from duckweed.run.state import State
from duckweed.run.task.rollouts import Rollouts
from duckweed.run.task.written import Written


class Trained(msgspec.Struct):
    """What the first `steps` inner steps of a span gave."""

    round: int  # that the work is for
    span: Span
    steps: int  # done so far, of those of the span
    ahead: int  # how many of them began from the state before the one that the round follows on
    delta: np.ndarray  # pseudo-gradient f32[P]
    tokens: int
    loss: float  # mean, nats per token
    seconds: float
    optimizer: OptimizerState  # to go on from, in this span or the next
    guess: OptimizerState = msgspec.field(default_factory=dict)  # what training ahead began with
    written: Written | None = None  # by the model; None: it writes nothing
    rollouts: Rollouts | None = None  # the same in full


def part_of(
    spec: RunSpec, round_: int, span: Span, steps: range, given: Given | None = None
) -> Part:
    """Some of the steps of a span, counted within it, as a learner is told of them."""
    return Part(
        block=span.block,
        first=span.first + steps.start,
        steps=len(steps),
        number=spec.schedule.begins(round_) + steps.start,
        seed=(spec.seed + span.block + span.first + (steps.start << 32)) % SEED_LIMIT,
        given=given or {},
    )


def steps_of(
    learner: Learner,
    spec: RunSpec,
    weights: np.ndarray,
    round_: int,
    span: Span,
    steps: range,
    optimizer: OptimizerState,
    report: Report | None,
    given: Given | None = None,
) -> Work:
    """Some of the steps of a span, counted within it. Their optimizer state is kept if a later step
    begins with it: one of the same span, or, unless inner.state = "fresh", of the next."""
    inner, part = spec.inner, part_of(spec, round_, span, steps, given)
    keep = inner.state != "fresh" or steps.stop < span.steps
    return learner.train(weights, part, optimizer, report, keep)


def whole(
    learner: Learner,
    spec: RunSpec,
    state: State,
    weights: np.ndarray,
    span: Span,
    carried: OptimizerState,
    report: Report | None,
    given: Given | None = None,
) -> Trained:
    """All steps of a span, for the round that follows on the state. weights: that they begin from, f32[P]. Raises
    Diverged."""
    optimizer, steps = learner.begin_round(carried, state.momentum), range(span.steps)
    work = steps_of(learner, spec, weights, state.round, span, steps, optimizer, report, given)
    return Trained(
        state.round, span, span.steps, 0,
        work.delta, work.tokens, work.loss, work.seconds, work.optimizer,
        written=work.written, rollouts=work.rollouts,
    )  # fmt: skip
