"""How near a contribution must come to the one that was done again. The limits lie between what honest
machines of different kinds reach and what the smallest of the cheats tried does (bench/trust/audit.py, docs/audit.md)."""

from collections.abc import Iterator
from typing import NamedTuple

from duckweed.audit.difference import Difference
from duckweed.merge.announcement import Announcement

LARGE = 1000  # codes that a tensor has at least, to be judged alone
LOSS = 0.01  # by what share of itself a mean training loss may be off


class Limits(NamedTuple):
    """Distances (|a - b| / |b|) that may not be exceeded."""

    whole: float
    """Of a whole contribution."""
    tensor: float
    """Of one tensor with at least LARGE codes."""


STRICT = Limits(0.03, 0.1)
"""Where all multiply in float32."""
LOOSE = Limits(0.3, 0.5)
"""Where some machines may multiply in bf16, and others in float32."""


def limits(precision: str) -> Limits:
    """The limits of a run. precision: its `inner.precision`."""
    return STRICT if precision == "fp32" else LOOSE


CARRIED_STRICT, CARRIED_LOOSE = 0.001, 0.1
"""Distances of a part of what is carried on (duckweed.round.carried.distances) that may not be exceeded."""


def carried_limit(precision: str) -> float:
    """The limit of a run. precision: its `inner.precision`."""
    return CARRIED_STRICT if precision == "fp32" else CARRIED_LOOSE


GROWTH = 4.0
"""Times as far as at a peer's contribution before, where that did not come out the same: what it carried is
known only nearly then. Honest ones grew 1.8 times at most from one round to the next with a million parameters, and 3.3 times with 37
thousand."""
UNTOLD = 1.0
"""From this limit on nothing can be told any more: zeros in place of all codes are as far."""


def grown(allowed: Limits, before: Limits) -> Limits:
    """The limits of a contribution whose predecessor was off by `before`."""
    return Limits(*(max(a, GROWTH * b) for a, b in zip(allowed, before, strict=True)))


def distances(found: Difference | None) -> Limits:
    """How far off a contribution is: as a whole, and in the worst of its large tensors."""
    if found is None:
        return Limits(0.0, 0.0)
    return Limits(
        found.distance,
        max((one.distance for one in found.tensors if one.codes >= LARGE), default=0.0),
    )


def faults(found: Difference, allowed: Limits) -> Iterator[str]:
    """What is further off than honest machines of different kinds are from each other, in words."""
    if found.distance > allowed.whole:
        yield f"distance {found.distance:.3g}, where at most {allowed.whole} is honest"
        return
    for one in found.tensors:
        if one.codes >= LARGE and one.distance > allowed.tensor:
            yield f"{one.name}: distance {one.distance:.3g}, where at most {allowed.tensor} is honest"


def near_loss(claimed: float, reached: float) -> bool:
    """Whether a claimed training loss, nats per token, is what was reached here."""
    return abs(claimed - reached) <= LOSS * abs(reached)


def misstated(tokens: int, loss: float, made: Announcement) -> Iterator[str]:
    """What is wrong with the tokens and the training loss that a peer says, where the work done again gives others."""
    if tokens != made.tokens:
        yield f"{tokens:,} tokens claimed, {made.tokens:,} trained on"
    if not near_loss(loss, made.loss):
        yield f"a training loss of {loss:.4f} claimed, {made.loss:.4f} reached"
