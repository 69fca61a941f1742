"""A contribution, done again: it is a pure function of the state that its round follows on, the span of
data, and what its peer carried on from the one before it.

Nothing here computes anything of its own: the functions are those by which a peer works. On the same
machine with as many threads the result is the same to the last bit. Elsewhere it differs in a few codes
(duckweed.audit.difference).
"""

import msgspec

from duckweed.learn.learner import Learner, Report
from duckweed.round.answers import Given
from duckweed.round.blocks import Span
from duckweed.round.worker import Carried, Contribution, Worker
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State


class Replayed(msgspec.Struct):
    """A contribution that was done again."""

    contribution: Contribution
    carried: Carried
    """What its peer carried over to the next rounds, if it counted."""


def replay(
    spec: RunSpec,
    layout: Layout,
    learner: Learner,
    state: State,
    span: Span,
    carried: Carried | None = None,
    *,
    peer: int = 0,
    earlier: State | None = None,
    given: Given | None = None,
    report: Report | None = None,
) -> Replayed:
    """The contribution of a span to the round that follows on `state`.

    carried: what the peer carried over; None: nothing, as before its first contribution. It
    stays as it is. earlier: the state one round before, where the first steps were trained ahead from it
    (rounds.overlap). given: answers of others that it was made from. report: is told of the steps. Raises Diverged, WireError.
    """
    worker = Worker(spec, layout, learner)
    if carried is not None:
        worker.carried = msgspec.structs.replace(carried)  # compressing forgets a field of it
    begun = worker.ahead(earlier, span, report) if earlier is not None else None
    made = worker.compress(state, peer, worker.train(state, span, report, begun, given))
    worker.close_round(True)
    return Replayed(made, worker.carried)
