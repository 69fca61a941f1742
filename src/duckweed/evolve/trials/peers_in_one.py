"""A trial of several peers: the rounds of a swarm in one process, and what was handed in at each.

A run's own functions train, compress, merge and step, so that wire, merge and outer settings are
tried as they are used. The contributions lie beside the exported weights: the evaluator closes the
same rounds again and must reach the same weights, so that bytes are counted, not claimed.
"""

import msgspec
import numpy as np

from duckweed.learn.learner import Learner
from duckweed.ledger.entries import Closed
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.round.blocks import Blocks
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.founding import first_gradient
from duckweed.round.worker import Worker
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State, first
from duckweed.wire.codec import codec_of

Contributions = list[tuple[Announcement, bytes]]
"""Of one round, in the order of the peers."""


class ExchangeError(ValueError):
    """Rounds that differ from those of the trial's specification."""


class Exchange(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"shared": "scales"}
):
    """All that peers handed in."""

    shared: list[float]  # what peers share in the first round (State.shared), [K]
    rounds: list[Contributions]


class ExchangedBytes(msgspec.Struct, frozen=True):
    """Bytes that a trial's exchange takes."""

    sent: int = 0  # contributions of the busiest peer
    fetched: int = 0  # updates, by each peer


def train(
    spec: RunSpec, layout: Layout, weights: np.ndarray, learner: Learner
) -> tuple[np.ndarray, Exchange]:
    """Weights f32[P] after all rounds, from those given. Raises Diverged, MergeError, WireError."""
    shared = codec_of(spec.wire, layout).first_shared(
        lambda: first_gradient(spec, learner, weights)
    )
    state = first(layout, weights, shared)
    exchange = Exchange([float(x) for x in shared], [])
    workers = [Worker(spec, layout, learner) for _ in range(spec.rounds.peers)]
    blocks = Blocks(spec.block_steps)
    for number in range(spec.schedule.rounds):
        steps = spec.schedule.steps_of(number)
        handed: Contributions = []
        for peer, worker in enumerate(workers):
            made = worker.compress(state, peer, worker.train(state, blocks.take(steps, steps)))
            handed.append((made.announcement, made.blob))
        state, closed, _ = _close(spec, layout, state, handed)
        for peer, worker in enumerate(workers):
            worker.close_round(peer in closed.carrying(), number)
        exchange.rounds.append(handed)
    return state.weights, exchange


def replay(
    spec: RunSpec, layout: Layout, weights: np.ndarray, exchange: Exchange
) -> tuple[np.ndarray, ExchangedBytes]:
    """The last weights f32[P] that follow from the first ones and the contributions, and the bytes
    exchanged. Raises ExchangeError, MergeError, WireError."""
    if len(exchange.rounds) != spec.schedule.rounds:
        raise ExchangeError(f"{len(exchange.rounds)} rounds, not {spec.schedule.rounds}")
    state = first(layout, weights, np.array(exchange.shared, np.float32))
    sent, fetched = [0] * spec.rounds.peers, 0
    for number, handed in enumerate(exchange.rounds):
        if [_said(a) for a, _ in handed] != [
            (number, peer, spec.schedule.steps_of(number), spec.tokens_of(number))
            for peer in range(spec.rounds.peers)
        ]:
            raise ExchangeError(f"round {number} is not one block of each peer")
        if any(a.blob != blob_hash(blob) for a, blob in handed):
            raise ExchangeError(f"round {number}: a blob is not the one that was announced")
        state, _, down = _close(spec, layout, state, handed)
        sent = [total + len(blob) for total, (_, blob) in zip(sent, handed, strict=True)]
        fetched += down
    return state.weights, ExchangedBytes(max(sent), fetched)


def _said(a: Announcement) -> tuple[int, int, int, int]:
    return a.round, a.peer, a.steps, a.tokens


def _close(
    spec: RunSpec, layout: Layout, state: State, handed: Contributions
) -> tuple[State, Closed, int]:
    """The next state, how the round closed, and the bytes that lead from one to the other."""
    blobs = MemoryBlobs({announcement.blob: blob for announcement, blob in handed})
    engine = Engine(spec, layout, blobs)
    closed = engine.close([float(s) for s in state.shared], [a for a, _ in handed])
    down = sum(len(blobs[digest]) for digest in closed.needed())
    return engine.advance(state, closed), closed, down
