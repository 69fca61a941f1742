"""A round, closed and applied: from announced contributions to the next state of every peer."""

from collections.abc import Sequence

import msgspec
import numpy as np
from blake3 import blake3

from duckweed.ledger.entries import Closed, OfPath, Trunk
from duckweed.merge import check, trunk, trust
from duckweed.merge.announcement import Announcement
from duckweed.merge.arrivals import Arrivals, Read
from duckweed.merge.filter import Compared
from duckweed.merge.gram import Gram
from duckweed.merge.outer import outer_step
from duckweed.merge.rules import WEIGHT_LIMIT, find_rule, weights_of
from duckweed.run.family import paths_of
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State
from duckweed.wire.codec import Codec, codec_of, finite
from duckweed.wire.total import Total

PEER_LIMIT = 4096


class MergeError(ValueError):
    """A closed round that does not lead to valid weights."""


def blob_hash(blob: bytes) -> str:
    return blake3(blob).hexdigest()


def empty_hash(codec: Codec, shared: Sequence[float]) -> str:
    """Hash of a contribution of zeros: what a peer sends that had nothing to learn from. Many may send it, again
    and again, and none of them has copied it. shared: what it is encoded with, [K]."""
    zeros = np.zeros(codec.layout.total, np.float32)
    return blob_hash(codec.encode(zeros, np.array(shared, np.float32)).blob)


def fetch_limit(spec: RunSpec, layout: Layout) -> int:
    """The most bytes of a blob that leads to the next state."""
    codec = codec_of(spec.wire, layout)
    most = WEIGHT_LIMIT**2 if spec.in_common else WEIGHT_LIMIT  # paths have weights, too
    return codec.update_limit(PEER_LIMIT, most) if codec.additive else codec.blob_limit


def close(
    spec: RunSpec,
    layout: Layout,
    shared: Sequence[float],
    announcements: Sequence[Announcement],
    read: Read,
    memory: trust.Memory = trust.NOTHING,
    arrivals: Arrivals | None = None,
) -> tuple[Closed, dict[str, bytes]]:
    """Check, weigh and merge the contributions of one round, in the order of their peers.

    shared: what the contributions were encoded with, [K]. read: gives the bytes of a contribution;
    one at a time is held. memory: what the rounds before have left, where the rule remembers. arrivals: what was
    done with some of them as they came; used up, and without effect on the result. Returns the
    record and the blobs that it names, by their hashes: for additive wires the update; of a path that holds something in common with
    others the one of its own tensors, and what it gives to the common ones. A round in which nothing was accepted
    changes nothing.
    """
    announcements = sorted(announcements, key=lambda a: a.peer)
    number = announcements[0].round
    codec = codec_of(spec.wire, layout)
    copies = check.copies([a.blob for a in announcements])
    if copies:
        empty = empty_hash(codec, shared)
        copies = {p: reason for p, reason in copies.items() if announcements[p].blob != empty}
    objections = ((position, codec.objection(a.rms)) for position, a in enumerate(announcements))
    faults = {position: reason for position, reason in objections if reason}
    # Most rounds accept all of these, so they are added up as they are checked.
    hoped = [p for p in range(len(announcements)) if p not in copies | faults]
    filter_, standing = find_rule(spec.rule).filter, dict[int, trust.Standing]()
    gram = Gram(layout, [a.blob for a in announcements]) if filter_ else None
    # What a filter looks at depends on all that was handed in.
    if gram or arrivals is None or not arrivals.sound:
        arrivals = Arrivals(codec, shared, gram)
    hoped_for = _weighed(spec, [announcements[p] for p in hoped], memory)
    for position, weight in zip(hoped, hoped_for, strict=True):
        arrivals.take(announcements[position], read, weight)
        if reason := arrivals.fault(announcements[position]):
            faults[position] = reason
    norms = {p: arrivals.norm(announcements[p]) for p in hoped if p not in faults}
    large = check.too_large({p: norm for p, norm in norms.items() if norm is not None})
    if gram and filter_:
        position_of = {announcements[p].peer: p for p in norms}
        weights = weights_of([announcements[p].tokens for p in norms])
        known = [memory.get(peer, trust.NEW) for peer in position_of]
        says, away = [one.work for one in known], [one.last != number - 1 for one in known]
        compared = Compared(
            list(position_of), weights, layout.names, gram.sizes, gram.tables(), says, away
        )
        found, standing = trust.judge(memory, compared, filter_(compared), spec.tokens_per_block)
        large |= {position_of[peer]: reason for peer, reason in sorted(found.items())}
    reasons = copies | dict(sorted(faults.items())) | large
    kept = [position for position in hoped if position not in reasons]
    accepted = [announcements[p] for p in kept]
    weights = _weighed(spec, accepted, standing)
    total = arrivals.total(accepted, weights, read) if kept else None
    if split := trunk.split_of(spec, layout):
        given, made = trunk.give(spec, split, total, sum(a.tokens for a in accepted))
    else:
        given, made = None, [codec.update(total)] if total else []
    blobs = {blob_hash(blob): blob for blob in made}
    standing = trust.counted(standing, {a.peer: a.tokens for a in accepted}, number)
    return (
        Closed(
            number,
            [a.peer for a in accepted],
            [a.blob for a in accepted],
            weights,
            {announcements[p].peer: reason for p, reason in reasons.items()},
            next(iter(blobs), None),
            codec.next_shared([a.rms for a in accepted], shared) if kept else list(shared),
            standing or msgspec.UNSET,
            _alone(spec, given) if given else msgspec.UNSET,
        ),
        blobs,
    )


def nothing(spec: RunSpec, number: int, shared: Sequence[float]) -> Closed:
    """A round to which nothing was handed in that could count. shared: as of `close`."""
    given = _alone(spec, OfPath(None, [], 0)) if spec.in_common else msgspec.UNSET
    return Closed(number, [], [], [], {}, None, list(shared), trunk=given)


def _alone(spec: RunSpec, given: OfPath) -> Trunk:
    """What a path knows of the trunk before the others have said what they give."""
    assert spec.path is not None
    return Trunk(None, {spec.path: given})


def _weighed(
    spec: RunSpec, announcements: Sequence[Announcement], memory: trust.Memory
) -> list[int]:
    """The weights of contributions that count, by tokens and by what is remembered of their peers."""
    block = spec.tokens_per_block
    worth = [trust.credit(memory.get(a.peer, trust.NEW), block) for a in announcements]
    # Somebody has to count, where all lack agreement: then by tokens alone.
    return weights_of(
        [a.tokens * (w if any(worth) else 1) for a, w in zip(announcements, worth, strict=True)]
    )


def advance(spec: RunSpec, layout: Layout, state: State, closed: Closed, read: Read) -> State:
    """The state after a closed round; read: gives the bytes of a needed blob.

    Raises MergeError if the round does not follow on the state or leads to weights that are not
    finite, WireError if a blob cannot be decoded.
    """
    if closed.round != state.round:
        raise MergeError(f"round {closed.round} does not follow on state {state.round}")
    shared = np.array(closed.shared, np.float32)
    if split := trunk.split_of(spec, layout):
        weights, momentum = _by_parts(spec, split, state, closed, read)
    elif closed.accepted:
        gradient = find_rule(spec.rule)(_total(spec, layout, state, closed, read))
        weights, momentum = outer_step(spec.outer, state.weights, state.momentum, gradient)
    else:
        weights, momentum = state.weights, state.momentum
    if not finite(weights):
        raise MergeError(f"round {closed.round} leads to weights that are not finite")
    return State(state.round + 1, state.layout, weights, momentum, shared)


def _by_parts(
    spec: RunSpec, split: trunk.Split, state: State, closed: Closed, read: Read
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and momentum after a round of a path that holds something in common with others. A part that nobody has
    trained stays as it is."""
    weights, momentum = state.weights.copy(), state.momentum.copy()
    if reason := trunk.objection(closed, paths_of(spec).count):
        raise MergeError(f"round {closed.round}: {reason}; the coordinator is at fault")
    assert closed.trunk is not msgspec.UNSET
    common = closed.trunk.update, trunk.weights(closed.trunk.paths)
    for part, (update, of) in zip(split, ((closed.update, closed.weights), common), strict=True):
        if update is None:
            continue
        shared = state.shared[list(part.numbers)]
        codec = codec_of(spec.wire, part.layout)
        total = codec.read_update(read(update), shared, len(of))
        gradient = find_rule(spec.rule)(_checked(total, of, closed.round))
        held = part.take(state.weights), part.take(state.momentum)
        for values, whole in zip(
            outer_step(spec.outer, *held, gradient), (weights, momentum), strict=True
        ):
            part.put(values, whole)
    return weights, momentum


def _total(spec: RunSpec, layout: Layout, state: State, closed: Closed, read: Read) -> Total:
    """The sum of a round in which something was accepted."""
    codec = codec_of(spec.wire, layout)
    if codec.additive:
        assert closed.update is not None
        return _checked(
            codec.read_update(read(closed.update), state.shared, len(closed.accepted)),
            closed.weights,
            closed.round,
        )
    total = codec.total(state.shared, find_rule(spec.rule).needs)
    for digest, weight in zip(closed.blobs, closed.weights, strict=True):
        total.add(codec.decode(read(digest), state.shared), weight)
    return total


def _checked(total: Total, weights: Sequence[int], round_: int) -> Total:
    """An update, if its contributions have the weights that the ledger names."""
    if list(total.weights) != list(weights):
        raise MergeError(
            f"the update of round {round_} is not the sum of the contributions that the ledger "
            "names; the coordinator is at fault"
        )
    return total
