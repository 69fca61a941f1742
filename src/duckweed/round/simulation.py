"""A run in one process, with a virtual clock: the same functions as the real swarm, so that the same
specification reaches the same state hash. It tells what the links would have cost."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from duckweed.learn.data.dataset import sequences
from duckweed.learn.model import model as models
from duckweed.learn.trainer import Trainer
from duckweed.ledger.ledger import Ledger
from duckweed.merge.round import Announcement, Closed, advance, gathered
from duckweed.net.identity import load_or_create
from duckweed.round.blocks import Blocks, Span, budgets
from duckweed.round.founding import Ground, configuration
from duckweed.round.link_spec import Links
from duckweed.round.round_record import epoch, ledger_body, round_event
from duckweed.round.virtual_clock import Clock, Costs
from duckweed.round.worker import (
    Contribution,
    Trained,
    Worker,
    forget_before,
    residual_path,
)
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State


class Simulation:
    """All peers of a run, one after the other, on one model in memory."""

    def __init__(
        self,
        folder: RunFolder,
        spec: RunSpec,
        layout: Layout,
        ground: Ground,
        state: State,
        device: str,
        links: Sequence[Links] | None = None,
        step_seconds: float | Sequence[float] | None = None,
        tell: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        self.folder, self.spec, self.layout, self.state = folder, spec, layout, state
        model = models.build(configuration(spec, ground), device)
        self.workers = [
            Worker(
                spec, layout, ground.dataset, Trainer(model, spec.inner, spec.total_steps, device)
            )
            for _ in range(spec.rounds.peers)
        ]
        self.links = list(links or [Links()] * spec.rounds.peers)
        self.tell = tell
        self.paces: list[float] | None = None  # seconds per step of each peer, where given
        if step_seconds is not None:
            if isinstance(step_seconds, int | float):
                step_seconds = [float(step_seconds)] * spec.rounds.peers
            self.paces = list(step_seconds)
        self.windows = sequences(ground.dataset, spec.model.sequence)
        self.blocks = Blocks(spec.inner.steps)
        self._clock = Clock(spec.rounds.peers)
        self.coming: dict[int, Span] = {}  # who trains what for the next round
        self.ahead: dict[int, Trained] = {}  # and what they have done of it
        self.traffic = {"contributions": [0, 0], "updates": [0, 0], "control": [0, 0]}

    def run(self) -> State:
        """All rounds; the ledger and the metrics are written as a real run writes them."""
        ledger = Ledger(self.folder.ledger, load_or_create(self.folder.coordinator_key).sign)
        for index in range(len(self.workers)):
            key = load_or_create(self.folder.peer(index) / "key").id
            ledger.append("peer", 0, {"index": index, "key": key})
        try:
            for _ in range(self.state.round, self.spec.rounds.count):
                self._round(ledger)
            self.state.save(self.folder.state(self.state.round))
        finally:
            ledger.close()
        return self.state

    @property
    def clock(self) -> float:
        """Virtual seconds since the run began."""
        return self._clock.now

    def _round(self, ledger: Ledger) -> None:
        spec, state = self.spec, self.state
        assigned = self.coming or self._assign()
        nats = self._evaluate()
        made = self._contribute(assigned)
        handed = [(c.announcement, c.blob) for c in made]
        closed, blobs = gathered(spec, self.layout, [float(s) for s in state.shared], handed)
        for digest, blob in blobs.items():
            write_atomically(self.folder.blob(digest), blob)
        began = time.perf_counter()
        self.state = advance(spec, self.layout, state, closed, blobs.__getitem__)
        apply_seconds = time.perf_counter() - began
        self._settle(state, closed)
        ledger.append(
            "round",
            state.round,
            ledger_body(closed, assigned, [a for a, _ in handed], spec.inner.steps),
        )
        ledger.append(
            "state", self.state.round, {"hash": self.state.hash(), "peers": len(self.workers)}
        )
        self.blocks.settle(assigned, closed.accepted)
        down = sum(len(blobs[digest]) for digest in closed.needed())
        began = self._clock.now
        timings = self._clock.round(self._costs(made, down, apply_seconds))
        self._count(made, down)
        self._report(closed, {a.peer: a for a, _ in handed}, blobs, nats, timings, began)

    def _contribute(self, assigned: dict[int, Span]) -> list[Contribution]:
        """What each peer hands in; with overlap the work for the round after is begun as well."""
        state, made = self.state, []
        for peer, worker in enumerate(self.workers):
            span, begun = assigned[peer], self.ahead.get(peer)
            trained = worker.train(state, span, self._stepped(peer), begun)
            made.append(worker.compress(state, peer, trained))
            worker.save(residual_path(self.folder.peer(peer), state.round))
        self.coming, self.ahead = {}, {}
        if self.spec.rounds.overlap and state.round + 1 < self.spec.rounds.count:
            self.coming = self._assign()
            for peer in range(len(self.workers)):
                self._train_ahead(state, peer)
        return made

    def _train_ahead(self, state: State, peer: int) -> None:
        worker, span = self.workers[peer], self.coming[peer]
        self.ahead[peer] = worker.ahead(state, span, self._stepped(peer))

    def _settle(self, state: State, closed: Closed) -> None:
        """state: before the round that has closed."""
        for peer, worker in enumerate(self.workers):
            accepted = peer in closed.accepted
            worker.settle(accepted, closed.round)
            if accepted:
                forget_before(self.folder.peer(peer), closed.round)
            elif peer in self.ahead:
                self._train_ahead(state, peer)  # what was ahead built on what did not count

    def _assign(self) -> dict[int, Span]:
        """As the coordinator does it, with the speeds that were given as the measured ones."""
        peers, rounds = range(len(self.workers)), self.spec.rounds
        paces = dict(zip(peers, self.paces or [0.0] * len(peers), strict=True))
        given = budgets(paces, self.spec.inner.steps, rounds.patience)
        return self.blocks.share(given)

    def _evaluate(self) -> tuple[float, int]:
        if self.state.round % self.spec.rounds.evaluate:
            return 0.0, 0
        return self.workers[0].evaluate(self.state, 0, 1)

    def _costs(self, made: Sequence[Contribution], down: int, apply_seconds: float) -> list[Costs]:
        """Virtual seconds of each peer; training and links as given, the rest as it was measured."""
        costs = []
        for peer, (work, link) in enumerate(zip(made, self.links, strict=True)):
            train, said = work.train_seconds, work.announcement
            if self.paces is not None:
                train = self.paces[peer] * said.steps
            costs.append(
                Costs(
                    train=train,
                    compress=work.compress_seconds,
                    send=link.latency + 8 * len(work.blob) / link.up,
                    fetch=2 * link.latency + 8 * down / link.down,
                    apply=apply_seconds,
                    ahead=train * said.ahead / said.steps,
                )
            )
        return costs

    def _count(self, made: Sequence[Contribution], down: int) -> None:
        self.traffic["contributions"][0] += sum(len(work.blob) for work in made)
        self.traffic["updates"][1] += down * len(made)

    def _report(
        self,
        closed: Closed,
        announcements: dict[int, Announcement],
        blobs: dict[str, bytes],
        nats: tuple[float, int],
        timings: dict[int, dict[str, float]],
        began: float,
    ) -> None:
        event = round_event(
            closed.round,
            seconds=self._clock.now - began,
            announcements=announcements,
            closed=closed,
            update_size=len(blobs[closed.update]) if closed.update else 0,
            nats=nats,
            timings=timings,
            traffic={purpose: list(counts) for purpose, counts in self.traffic.items()},
            epoch=epoch(self.spec, (a.block for a in announcements.values()), self.windows),
        ) | {"virtual_clock": self._clock.now}
        self.folder.record(**event)
        self.tell(event)

    def _stepped(self, peer: int) -> Callable[[int, float], None]:
        def report(step: int, loss: float) -> None:
            doing = {"peer": peer, "doing": "training", "step": step, "loss": loss}
            self.tell({"event": "peers", "round": self.state.round, "peers": [doing]})

        return report
