"""A round, closed and applied: from announced contributions to the next state of every peer."""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from blake3 import blake3

from duckweed.ledger.entries import Closed
from duckweed.merge import check
from duckweed.merge.exact import median, squared_norm
from duckweed.merge.outer import outer_step
from duckweed.merge.rules import pseudo_gradient, pseudo_gradient_of_sums, weights_of
from duckweed.run.layout import Layout
from duckweed.run.sections import Integer
from duckweed.run.spec import RunSpec
from duckweed.run.state import State
from duckweed.wire.contribution import Decoded, decode
from duckweed.wire.frame import WireError
from duckweed.wire.update import Update, decode_update, encode_update

PEER_LIMIT = 4096


class MergeError(ValueError):
    """A closed round that does not lead to valid weights."""


class Announcement(msgspec.Struct, forbid_unknown_fields=True):
    """What a peer says of its contribution: blob (blake3, hex), its size in bytes, the block of data
    that it was trained on (`steps` inner steps from `first` on), tokens, mean loss, and sizes: RMS per
    tensor of what it wanted to send, from which the next common scale is taken. ahead: how
    many of the steps were trained from the state one round before (rounds.overlap)."""

    round: int
    peer: int
    block: int
    blob: str
    size: int
    tokens: int
    steps: int
    loss: float
    sizes: list[float]
    first: int = 0
    ahead: int = 0


def blob_hash(blob: bytes) -> str:
    return blake3(blob).hexdigest()


def close(
    spec: RunSpec,
    layout: Layout,
    scales: Sequence[float],
    contributions: Sequence[tuple[Announcement, bytes]],
) -> tuple[Closed, bytes | None]:
    """Check, weigh and merge the contributions of one round, in the order of their peers.

    scales: the common scale [T] that this round was encoded with. Returns the record and, for
    additive wires, the merged blob. A round in which nothing was accepted changes nothing.
    """
    contributions = sorted(contributions, key=lambda pair: pair[0].peer)
    round_ = contributions[0][0].round
    decoded, rejected = _checked(spec, layout, scales, contributions)
    kept = [(a, d) for (a, _), d in zip(contributions, decoded, strict=True) if d is not None]
    accepted = [announcement for announcement, _ in kept]
    if not kept:
        return Closed(round_, [], [], [], rejected, None, list(scales)), None
    weights = weights_of([announcement.tokens for announcement in accepted])
    update = None
    if isinstance(spec.wire, Integer):
        codes = [d.codes for _, d in kept if d.codes is not None]
        update = encode_update(*summed(layout, codes, weights), layout, spec.wire.levels)
    return (
        Closed(
            round_,
            [a.peer for a in accepted],
            [a.blob for a in accepted],
            weights,
            rejected,
            blob_hash(update) if update else None,
            next_scales([a.sizes for a in accepted]),
        ),
        update,
    )


def _checked(
    spec: RunSpec,
    layout: Layout,
    scales: Sequence[float],
    contributions: Sequence[tuple[Announcement, bytes]],
) -> tuple[list[Decoded | None], dict[int, str]]:
    """Decoded contributions, None where one is refused, and peer -> reason."""
    reasons = check.copies([a.blob for a, _ in contributions])
    decoded: list[Decoded | None] = []
    norms: dict[int, float] = {}
    for position, (announcement, blob) in enumerate(contributions):
        reason = check.announced_sizes(announcement.sizes, len(layout.names))
        found = None
        try:
            if reason is None and position not in reasons:
                found = decode(spec.wire, blob, layout, np.array(scales, np.float32))
        except WireError as error:
            reason = f"cannot be decoded: {error}"
        if reason:
            reasons[position] = reason
        decoded.append(found)
        if found and not isinstance(spec.wire, Integer):
            norms[position] = math.sqrt(squared_norm(found.values))
    reasons |= check.too_large(norms)
    for position in reasons:
        decoded[position] = None
    return decoded, {contributions[p][0].peer: reason for p, reason in reasons.items()}


def summed(layout: Layout, codes: Sequence[np.ndarray], weights: Sequence[int]) -> Update:
    """The exact sum of contributions' codes, int8[P] each, by their integer weights."""
    sums = np.zeros(layout.total, np.int32)
    squares = np.zeros((len(codes), len(layout.names)), np.int64)
    for i, (one, weight) in enumerate(zip(codes, weights, strict=True)):
        sums += np.multiply(one, np.int32(weight), dtype=np.int32)
        for t, part in enumerate(layout.slices()):
            squares[i, t] = np.square(one[part], dtype=np.int64).sum()
    return Update(sums, squares, list(weights))


def next_scales(sizes: Sequence[Sequence[float]]) -> list[float]:
    """Per tensor the median of the announced sizes, as float32."""
    return [float(np.float32(median(list(column)))) for column in zip(*sizes, strict=True)]


def advance(
    spec: RunSpec, layout: Layout, state: State, closed: Closed, blob: Callable[[str], bytes]
) -> State:
    """The state after a closed round; blob(hash) gives the bytes of a needed blob.

    Raises MergeError if the round does not follow on the state or leads to weights that are not
    finite, WireError if a blob cannot be decoded.
    """
    if closed.round != state.round:
        raise MergeError(f"round {closed.round} does not follow on state {state.round}")
    scales = np.array(closed.scales, np.float32)
    if not closed.accepted:
        return msgspec.structs.replace(state, round=state.round + 1, scales=scales)
    gradient = _gradient(spec, layout, state, closed, blob)
    weights, momentum = outer_step(spec.outer, state.weights, state.momentum, gradient)
    if not np.isfinite(weights).all():
        raise MergeError(f"round {closed.round} leads to weights that are not finite")
    return State(state.round + 1, state.layout, weights, momentum, scales)


def _gradient(
    spec: RunSpec, layout: Layout, state: State, closed: Closed, blob: Callable[[str], bytes]
) -> np.ndarray:
    """The pseudo-gradient f32[P] of a round in which something was accepted."""
    if isinstance(spec.wire, Integer):
        assert closed.update is not None
        update = decode_update(blob(closed.update), layout, spec.wire.levels, PEER_LIMIT)
        if list(update.weights) != list(closed.weights):
            raise MergeError("the update does not hold the contributions that the ledger names")
        return pseudo_gradient_of_sums(
            spec.merge.rule, layout, update, state.scales, spec.wire.value
        )
    decoded = [decode(spec.wire, blob(digest), layout, state.scales) for digest in closed.blobs]
    return pseudo_gradient(spec.merge.rule, layout, decoded, closed.weights)
