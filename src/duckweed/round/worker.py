"""A peer's half of a round, without network or process: the same for a real peer and a simulated one."""

import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET
from safetensors import SafetensorError, safe_open

from duckweed.learn.learner import Learner, Report
from duckweed.learn.memory import own_moments
from duckweed.ledger.entries import Closed, Writing
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.round import ahead, beginning, training
from duckweed.round.answers import Given
from duckweed.round.blocks import Span
from duckweed.round.carried import Carried, packed
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.training import Trained
from duckweed.run import tensors
from duckweed.run.folder import write_atomically
from duckweed.run.layout import Layout
from duckweed.run.sections import Inner
from duckweed.run.spec import RunSpec
from duckweed.run.state import State
from duckweed.run.task import rollouts as packing
from duckweed.run.task.written import Written
from duckweed.wire import feedback
from duckweed.wire.codec import codec_of, warm_up


class Contribution(msgspec.Struct):
    """What a peer made of one span."""

    announcement: Announcement
    blob: bytes
    compress_seconds: float
    written: Written | None = None
    rollouts: bytes = b""
    """What the model wrote for it, as a blob (duckweed.run.task.rollouts); b"": it writes nothing."""


class Wrote(NamedTuple):
    """What a peer that only writes made of one span."""

    writing: Writing
    written: Written
    blob: bytes
    seconds: float


class Worker:
    """Trains blocks and keeps the one thing a peer carries from round to round: its residual (and,
    unless inner.state = "fresh", its optimizer state). What was not accepted leaves no trace in it.

    Training and compressing are apart, so that a block can be begun for the round after the one that
    is being exchanged. It is compressed when that one has closed: only then are the common scale, the
    residual and the fate of the contribution before it known.
    """

    def __init__(self, spec: RunSpec, layout: Layout, learner: Learner) -> None:
        warm_up(spec.wire)
        self.spec, self.layout, self.learner = spec, layout, learner
        self.carried = Carried(
            -1, np.zeros(layout.total, np.float32), {}
        )  # from the last one that left something (Closed.carrying)
        self._pending: Carried | None = None  # from the one whose round is open
        self._unsaved = b""  # the same as auditors are shown it, until it is on disk
        self.pace = 0.0  # seconds of an inner step, as measured before the run; 0: it was not

    def ahead(self, state: State, span: Span, report: Report | None = None) -> Trained:
        """The first steps of a span for the round *after* the one that follows on `state`
        (duckweed.round.ahead). Touches nothing that is kept. Raises Diverged."""
        pending = self._pending
        own = pending if pending and pending.round == state.round else self.carried
        sent = own.sent if own.round == state.round else None
        return ahead.begin(self.learner, self.spec, self.layout, state, span, own, sent, report)

    def train(
        self,
        state: State,
        span: Span,
        report: Report | None = None,
        begun: Trained | None = None,
        given: Given | None = None,
    ) -> Trained:
        """All steps of a span for the round that follows on `state`; or, where it was `begun` ahead,
        those that are left, which use it up. report: is told of the steps of this call. given: answers of others to
        learn from, in runs where nothing is begun ahead. Raises Diverged."""
        residual, carried = self.carried.residual, self.carried.optimizer
        weights = beginning.weights(self.spec, self.layout, state.weights, residual)
        if begun is None:
            return training.whole(
                self.learner, self.spec, state, weights, span, carried, report, given
            )
        assert (begun.round, begun.span) == (state.round, span)
        return ahead.finish(self.learner, self.spec, state, weights, begun, carried, report)

    def compress(self, state: State, peer: int, trained: Trained) -> Contribution:
        """The contribution to the round that follows on `state`. Nothing is final before `close_round`; an
        attempt before it that was never closed leaves nothing behind. Uses up `trained`. Raises
        WireError."""
        spec, began = self.spec, time.perf_counter()
        assert (trained.round, trained.steps) == (state.round, trained.span.steps)
        delta, residual = trained.delta, self.carried.residual
        wanted = feedback.carry(delta, residual, spec.wire.feedback, out=delta)
        codec = codec_of(spec.wire, self.layout)
        said, sent = codec.announce(wanted), None
        if spec.rounds.overlap:
            blob, sent = codec.encode(wanted, state.shared)
            kept = feedback.keep(wanted, sent, out=wanted)
        else:
            blob, kept = codec.compress(wanted, state.shared), wanted
        self.carried.sent = None  # part of the state by now: nothing begins from it any more
        pending = self._pending = Carried(state.round, kept, trained.optimizer, sent)
        if spec.audits:
            self._unsaved = packed(pending)
            pending.hash = blob_hash(self._unsaved)
        rollouts = packing.encode(trained.rollouts) if trained.rollouts else b""
        announcement = Announcement(
            round=state.round,
            peer=peer,
            block=trained.span.block,
            blob=blob_hash(blob),
            size=len(blob),
            tokens=trained.tokens,
            steps=trained.span.steps,
            loss=trained.loss,
            rms=said,
            first=trained.span.first,
            ahead=trained.ahead,
            before=self.carried.hash,
            after=pending.hash,
            rollouts=blob_hash(rollouts) if rollouts else UNSET,
        )
        seconds = time.perf_counter() - began
        return Contribution(announcement, blob, seconds, trained.written, rollouts)

    def write(self, state: State, peer: int, span: Span, report: Report | None = None) -> Wrote:
        """Answers for a span, by the weights of the state, for others to learn from; nothing is trained, and nothing
        kept."""
        part = training.part_of(self.spec, state.round, span, range(span.steps))
        work = self.learner.write(state.weights, part, report)
        assert work.written
        assert work.rollouts
        blob = packing.encode(work.rollouts)
        writing = Writing(
            state.round, peer, span.block, span.first, span.steps, work.tokens, work.loss,
            blob_hash(blob),
        )  # fmt: skip
        return Wrote(writing, work.written, blob, work.seconds)

    def contribute(self, state: State, peer: int, block: int) -> Contribution:
        """Train a whole block from the state and compress the result. Raises Diverged, WireError."""
        return self.compress(state, peer, self.train(state, Span(block, 0, self.spec.inner.steps)))

    def close_round(self, accepted: bool, round_: int | None = None) -> None:
        """Note that a round has closed (None: the round of the pending contribution). accepted: whether
        this peer carries on what the contribution left (`Closed.carrying`); if not, nothing of it is kept.
        Earlier rounds change nothing."""
        pending = self._pending
        if pending is None or (round_ is not None and round_ < pending.round):
            return
        if accepted and round_ in (None, pending.round):
            self.carried = pending
        self._pending = None

    def advance(self, state: State, closed: Closed, blobs: dict[str, bytes]) -> State:
        """The state after a closed round; blobs: those that it needs. Raises MergeError, WireError."""
        return Engine(self.spec, self.layout, MemoryBlobs(blobs)).advance(state, closed)

    def evaluate(self, state: State, share: int, shares: int) -> tuple[float, int]:
        """Sum of nats and number of tokens over this peer's share of the held-out windows."""
        limit = self.spec.rounds.evaluate_tokens
        return self.learner.evaluate(state.weights, limit, share, shares)

    def save(self, path: Path) -> None:
        """Write what `close_round(True)` would keep, atomically, before the contribution is sent. It is there if the
        process is killed. If the machine fails it may be lost, and is then known to be: to wait for the disk would cost
        more in every round than what one contribution left out is worth."""
        carried = self._pending or self.carried
        if self._unsaved and self._pending:
            write_atomically(path, self._unsaved)
            self._unsaved = b""
            return
        sent = {} if carried.sent is None else {"sent": carried.sent}
        arrays = {"residual": carried.residual, **sent, **carried.optimizer}
        tensors.write_arrays(path, arrays, {"hash": tensors.digest(arrays)}, sync=False)

    def load(self, path: Path, round_: int) -> bool:
        """Carry on what `save` wrote for a round that left it. False if the file is missing or damaged."""
        if found := self._read(path, round_):
            self.carried = found
        return found is not None

    def load_pending(self, path: Path, round_: int) -> bool:
        """Carry on what `save` wrote for a contribution whose round is still open. False if the file is
        missing or damaged; then nothing is carried over from that contribution if it counts."""
        found = self._read(path, round_)
        self._pending = found or Carried(round_, np.zeros_like(self.carried.residual), {})
        return found is not None

    def _read(self, path: Path, round_: int) -> Carried | None:
        try:
            with safe_open(path, framework="numpy") as file:
                said = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if "hash" in said and said["hash"] != tensors.digest(arrays):
                return None
            residual = arrays.pop("residual")
        except (OSError, KeyError, SafetensorError):
            return None
        sent = arrays.pop("sent", None)
        fits = all(x.shape == (self.layout.total,) for x in (residual, sent) if x is not None)
        digest = blob_hash(path.read_bytes()) if self.spec.audits else ""
        return Carried(round_, residual, arrays, sent, digest) if fits else None


def disk_needed(inner: Inner, layout: Layout, peers: int = 1) -> int:
    """Bytes that a machine with `peers` peers will certainly write: three states (weights and outer
    momentum), two residuals of each peer with its moments, and the model or blobs on their way."""
    state = 2 * layout.total
    carried = layout.total + own_moments(inner, layout)
    return 4 * (3 * state + 2 * peers * carried + layout.total)


def residual_path(home: Path, round_: int) -> Path:
    """Where a peer keeps the residual that its contribution of a round leaves."""
    return home / f"residual-{round_:08d}.safetensors"


def forget_before(home: Path, round_: int) -> None:
    """Remove the residuals of the rounds before one that has counted."""
    for path in home.glob("residual-*.safetensors"):
        if int(path.stem.split("-")[1]) < round_:
            path.unlink(missing_ok=True)
