"""A trial of several peers: the rounds of a swarm in one process, and what was handed in at each.

A run's own functions train, compress, merge and step, so that wire, merge and outer settings are
tried as they are used. The contributions lie beside the exported weights: the evaluator closes the
same rounds again and must reach the same weights, so that bytes are counted, not claimed.
"""

from typing import Any

import msgspec
import numpy as np

from duckweed.learn.data.dataset import Dataset
from duckweed.learn.model import model as models
from duckweed.learn.optim.optimizer import exchanged
from duckweed.learn.trainer import Trainer
from duckweed.merge.round import Announcement, Closed, advance, blob_hash, gathered
from duckweed.round.founding import first_scales
from duckweed.round.worker import Worker
from duckweed.run.layout import Layout
from duckweed.run.sections import Integer
from duckweed.run.spec import RunSpec
from duckweed.run.state import State, first

Contributions = list[tuple[Announcement, bytes]]
"""Of one round, in the order of the peers."""


class ExchangeError(ValueError):
    """Rounds that differ from those of the trial's specification."""


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that peers handed in."""

    scales: list[float]  # of the first round, one per tensor
    rounds: list[Contributions]


class ExchangedBytes(msgspec.Struct, frozen=True):
    """Bytes that a trial's exchange takes."""

    sent: int = 0  # contributions of the busiest peer
    fetched: int = 0  # updates, by each peer


def train(spec: RunSpec, model: Any, dataset: Dataset) -> tuple[np.ndarray, Exchange]:
    """Weights f32[P] after all rounds. Raises trainer.Diverged, MergeError, WireError."""
    layout = exchanged(model, spec.inner)
    state = first(layout, models.read_weights(model))
    if isinstance(spec.wire, Integer):
        state.scales = first_scales(spec, layout, dataset, model, state, "cpu")
    exchange = Exchange([float(scale) for scale in state.scales], [])
    workers = [
        Worker(spec, layout, dataset, Trainer(model, spec.inner, spec.total_steps, "cpu"))
        for _ in range(spec.rounds.peers)
    ]
    for number in range(spec.rounds.count):
        handed: Contributions = []
        for peer, worker in enumerate(workers):
            made = worker.contribute(state, peer, number * len(workers) + peer)
            handed.append((made.announcement, made.blob))
        state, closed, _ = _close(spec, layout, state, handed)
        for peer, worker in enumerate(workers):
            worker.settle(peer in closed.accepted, number)
        exchange.rounds.append(handed)
    return state.weights, exchange


def replay(
    spec: RunSpec, layout: Layout, weights: np.ndarray, exchange: Exchange
) -> tuple[np.ndarray, ExchangedBytes]:
    """The last weights f32[P] that follow from the first ones and the contributions, and the bytes
    exchanged. Raises ExchangeError, MergeError, WireError."""
    if len(exchange.rounds) != spec.rounds.count or len(exchange.scales) != len(layout.names):
        raise ExchangeError(f"{len(exchange.rounds)} rounds, not {spec.rounds.count}")
    state = first(layout, weights)
    state.scales = np.array(exchange.scales, np.float32)
    sent, fetched = [0] * spec.rounds.peers, 0
    for number, handed in enumerate(exchange.rounds):
        if [_said(a) for a, _ in handed] != [
            (number, peer, spec.inner.steps, spec.tokens_per_block)
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
    closed, blobs = gathered(spec, layout, [float(s) for s in state.scales], handed)
    down = sum(len(blobs[digest]) for digest in closed.needed())
    return advance(spec, layout, state, closed, blobs.__getitem__), closed, down
