"""How near a contribution must come to the one that was done again."""

from collections.abc import Iterator

from duckweed.audit.difference import Difference

DISTANCE = 0.3
"""Of a whole contribution (Difference.distance)."""
TENSOR = 0.4
"""Of one tensor with at least LARGE codes."""
LARGE = 1000
LOSS = 0.01
"""By what share a mean training loss may be off."""


def faults(found: Difference) -> Iterator[str]:
    """What is further off than honest machines of different kinds are from each other."""
    if found.distance > DISTANCE:
        yield f"distance {found.distance:.2f}, where at most {DISTANCE} is honest"
    for one in found.tensors:
        if one.codes >= LARGE and one.distance > TENSOR:
            yield (
                f"{one.name}: {one.differ:,} of {one.codes:,} codes differ, distance {one.distance:.2f}, "
                f"where at most {TENSOR} is honest"
            )


def near_loss(claimed: float, reached: float) -> bool:
    """Whether a claimed training loss, nats per token, is what was reached here."""
    return abs(claimed - reached) <= LOSS * abs(reached)
