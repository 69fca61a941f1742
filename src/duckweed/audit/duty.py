"""One contribution, done again from what its peer carried, as a duty among the peers of a run. In contrast
to duckweed.audit.contributions nothing of the peer's past is needed: what it carried is shown, and bound by the
hashes of its announcements."""

import msgspec

from duckweed.audit import verdict
from duckweed.audit.difference import difference
from duckweed.audit.replay import Replayed, replay
from duckweed.learn.learner import Diverged, Learner, Report
from duckweed.round.blocks import Span
from duckweed.round.carried import Carried, Handed, distances, unpacked
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State
from duckweed.wire.codec import codec_of


class Claim(msgspec.Struct, frozen=True):
    """What a peer says of a contribution, and shows of what it carried."""

    span: Span
    tokens: int
    """That it was trained on."""
    loss: float
    """Mean training loss, nats per token."""
    blob: bytes
    before: bytes
    """What it carried before (round.carried.packed); b"": nothing."""
    after: bytes


class Unable(RuntimeError):
    """This machine cannot do the audit."""


FAULTS = (Diverged, ValueError, ArithmeticError, KeyError, RuntimeError)
"""What training raises where numbers, names or shapes make no sense."""


class Examined(msgspec.Struct, frozen=True):
    """What came out."""

    detail: str
    """What was compared."""
    wrong: list[str]
    """What is further off than honest machines are, in words; none: it fits."""


def examine(
    spec: RunSpec,
    layout: Layout,
    learner: Learner,
    state: State,
    claim: Claim,
    report: Report | None = None,
) -> Examined:
    """Do a contribution again and compare it, its loss, and what its peer carries on. state: that its round
    follows on. report: is told of the steps. Raises Unable where the fault may be this machine's; nothing
    that a peer can show raises anything."""
    try:
        before = unpacked(claim.before, layout) if claim.before else None
        after = unpacked(claim.after, layout)
    except ValueError as error:
        return Examined("what the peer carried", [f"{error}"])
    try:
        done = replay(spec, layout, learner, state, claim.span, before, report=report)
    except FAULTS as error:
        _try_without(spec, layout, learner, state, claim.span, error)
        return Examined("no honest peer can have made it", [f"{error}"])
    try:
        return _compared(spec, layout, state, claim, after, done)
    except FAULTS as error:
        return Examined("no honest peer can have made it", [f"{error}"])


def _try_without(
    spec: RunSpec, layout: Layout, learner: Learner, state: State, span: Span, error: Exception
) -> None:
    """Whether this machine can train the span at all, with nothing carried. Raises Unable."""
    try:
        replay(spec, layout, learner, state, span)
    except FAULTS:
        raise Unable(f"this machine cannot train the span: {error}") from error


def _compared(
    spec: RunSpec, layout: Layout, state: State, claim: Claim, after: Carried, done: Replayed
) -> Examined:
    """Raises ValueError and the like for a blob that is not one, or parts that are not those of the optimizer."""
    allowed = verdict.limits(spec.inner.precision)
    made, wrong = done.contribution, []
    detail = f"{claim.span.steps} steps, all codes the same"
    if made.blob != claim.blob:
        found = difference(spec, layout, state.shared, claim.blob, made.blob)
        detail = (
            f"{claim.span.steps} steps, {found.differ:,} of {found.codes:,} codes differ, "
            f"distance {found.distance:.3g}"
        )
        wrong = list(verdict.faults(found, allowed))
    wrong += verdict.misstated(claim.tokens, claim.loss, made.announcement)
    if not wrong:
        codec, limit = codec_of(spec.wire, layout), verdict.carried_limit(spec.inner.precision)
        theirs = Handed(codec.decode(claim.blob, state.shared).values, after)
        ours = Handed(codec.decode(made.blob, state.shared).values, done.carried)
        wrong = [
            f"carries on {name} at a distance of {distance:.3g}, where at most {limit} is honest"
            for name, distance in distances(theirs, ours).items()
            if distance > limit
        ]
    return Examined(detail, wrong)
