"""Training ahead (rounds.overlap): the first steps of a span, begun while the round before is exchanged.

The merge in between is guessed: the steps begin where the outer step would lead if all peers had sent
what this one has ("eager updates", arXiv 2502.12996), or from the state at hand if it has sent nothing.
When the merge is known the rest goes on from the right weights, moved by what was done ahead, and with
the optimizer state corrected.
"""

import msgspec
import numpy as np

from duckweed.learn.learner import Learner, Report
from duckweed.learn.optim.optimizer import OptimizerState
from duckweed.merge.outer import outer_step
from duckweed.round import beginning
from duckweed.round.blocks import Span, lead
from duckweed.round.carried import Carried
from duckweed.round.training import Trained, steps_of
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State


def begin(
    learner: Learner,
    spec: RunSpec,
    layout: Layout,
    state: State,
    span: Span,
    carried: Carried,
    sent: np.ndarray | None,
    report: Report | None,
) -> Trained:
    """As many steps as rounds.overlap says, for the round *after* the one that follows on `state`.
    sent: what this peer sent for that one, f32[P]. Raises Diverged."""
    weights, merged = state.weights, state.momentum
    if sent is not None:
        weights, merged = outer_step(spec.outer, weights, merged, sent)
    weights = beginning.weights(spec, layout, weights, carried.residual)
    steps = range(lead(spec.rounds.overlap, span.steps))
    optimizer = learner.begin_round(carried.optimizer, merged)
    guess = learner.guess(optimizer)
    work = steps_of(learner, spec, weights, state.round + 1, span, steps, optimizer, report)
    return Trained(
        state.round + 1, span, len(steps), len(steps),
        work.delta, work.tokens, work.loss, work.seconds, work.optimizer, guess,
        work.written, work.rollouts,
    )  # fmt: skip


def finish(
    learner: Learner,
    spec: RunSpec,
    state: State,
    weights: np.ndarray,
    begun: Trained,
    carried: OptimizerState,
    report: Report | None,
) -> Trained:
    """The steps that are left of a span that was begun ahead, for the round that follows on the state. weights: that
    the whole span would begin from, f32[P]. Uses up `begun`. Raises Diverged."""
    span, first = begun.span, spec.schedule.begins(begun.round)
    right = learner.begin_round(carried, state.momentum)
    learner.correct(begun.optimizer, begun.guess, right, range(first, first + begun.steps))
    steps = range(begun.steps, span.steps)
    if not steps:
        return msgspec.structs.replace(begun, guess={})
    work = steps_of(
        learner,
        spec,
        weights - begun.delta,
        begun.round,
        span,
        steps,
        begun.optimizer,
        report,
    )
    tokens = begun.tokens + work.tokens
    written = begun.written + work.written if begun.written and work.written else None
    rollouts = begun.rollouts + work.rollouts if begun.rollouts and work.rollouts else None
    return Trained(
        begun.round, span, span.steps, begun.ahead, work.delta + begun.delta, tokens,
        (begun.loss * begun.tokens + work.loss * work.tokens) / max(1, tokens),
        begun.seconds + work.seconds, work.optimizer, written=written, rollouts=rollouts,
    )  # fmt: skip
