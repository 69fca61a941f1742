"""One contribution, done again from what its peer carried, as a duty among the peers of a run. In contrast
to duckweed.audit.contributions nothing of the peer's past is needed: what it carried is shown, and bound by the
hashes of its announcements."""

import msgspec

from duckweed.audit import verdict
from duckweed.audit.difference import difference
from duckweed.audit.replay import replay
from duckweed.learn.learner import Diverged, Learner
from duckweed.round.blocks import Span
from duckweed.round.carried import distances, unpacked
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State


class Claim(msgspec.Struct, frozen=True):
    """What a peer says of a contribution, and shows of what it carried."""

    span: Span
    loss: float
    """Mean training loss, nats per token."""
    blob: bytes
    before: bytes
    """What it carried before (round.carried.packed); b"": nothing."""
    after: bytes


class Examined(msgspec.Struct, frozen=True):
    """What came out."""

    detail: str
    """What was compared."""
    wrong: list[str]
    """What is further off than honest machines are, in words; none: it fits."""


def examine(
    spec: RunSpec, layout: Layout, learner: Learner, state: State, claim: Claim
) -> Examined:
    """Do a contribution again and compare it, its loss, and what its peer carries on. state: that its round
    follows on. Nothing that a peer can show raises."""
    allowed = verdict.limits(spec.inner.precision)
    try:
        before = unpacked(claim.before, layout) if claim.before else None
        after = unpacked(claim.after, layout)
        done = replay(spec, layout, learner, state, claim.span, before)
        made, wrong = done.contribution, []
        detail = f"{claim.span.steps} steps, all codes the same"
        if made.blob != claim.blob:
            found = difference(spec, layout, state.shared, claim.blob, made.blob)
            detail = (
                f"{claim.span.steps} steps, {found.differ:,} of {found.codes:,} codes differ, "
                f"distance {found.distance:.3g}"
            )
            wrong = list(verdict.faults(found, allowed))
        if not verdict.near_loss(claim.loss, made.announcement.loss):
            reached = made.announcement.loss
            wrong.append(f"a training loss of {claim.loss:.4f} claimed, {reached:.4f} reached")
        if not wrong:
            wrong = [
                f"carries on {name} at a distance of {distance:.3g}"
                for name, distance in distances(after, done.carried).items()
                if distance > allowed.whole
            ]
        return Examined(detail, wrong)
    except (Diverged, ValueError, ArithmeticError, KeyError, RuntimeError) as error:
        return Examined("no honest peer can have made it", [f"{error}"])
