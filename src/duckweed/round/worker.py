"""A peer's half of a round, without network or process: the same for a real peer and a simulated one."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from duckweed.learn.data.dataset import Dataset, batch, held_out_batches
from duckweed.learn.memory import own_moments
from duckweed.learn.optim.optimizer import MUON, guide, momentum
from duckweed.learn.trainer import Trainer, Work, rows
from duckweed.merge.outer import outer_step
from duckweed.merge.round import Announcement, blob_hash
from duckweed.round.blocks import Span, lead
from duckweed.run.layout import Layout
from duckweed.run.sections import Inner
from duckweed.run.spec import SEED_LIMIT, RunSpec
from duckweed.run.state import State
from duckweed.run.tensors import write_arrays
from duckweed.wire import feedback
from duckweed.wire.codec import codec_of


class Trained(msgspec.Struct):
    """What the first `steps` inner steps of a span gave for round `round`: pseudo-gradient f32[P],
    tokens, mean loss, seconds. ahead: how many of them began from the state before the one that the round follows
    on. moments: what is to be gone on with, in this span or the next. guess: Muon's momenta that
    those ahead began with."""

    round: int
    span: Span
    steps: int
    ahead: int
    delta: np.ndarray
    tokens: int
    loss: float
    seconds: float
    moments: dict[str, torch.Tensor]
    guess: dict[str, torch.Tensor] = msgspec.field(default_factory=dict)


class Contribution(msgspec.Struct):
    """What a peer made of one block, and the seconds that training and compressing took."""

    announcement: Announcement
    blob: bytes
    train_seconds: float
    compress_seconds: float


class Left(msgspec.Struct):
    """What a contribution to round `round` leaves behind if it counts: residual f32[P], moments
    and, with overlap, what it said, f32[P]."""

    round: int
    residual: np.ndarray
    moments: dict[str, torch.Tensor]
    sent: np.ndarray | None = None


class Worker:
    """Trains blocks and keeps the one thing a peer carries from round to round: its residual (and,
    unless inner.state = "fresh", its moments). What was not accepted leaves no trace in it.

    Training and compressing are apart, so that a block can be begun for the round after the one that
    is being exchanged. It is compressed when that one has closed: only then are the common scale, the
    residual and the fate of the contribution before it known.
    """

    def __init__(self, spec: RunSpec, layout: Layout, dataset: Dataset, trainer: Trainer) -> None:
        self.spec, self.layout, self.dataset, self.trainer = spec, layout, dataset, trainer
        self.left = Left(-1, np.zeros(layout.total, np.float32), {})  # by the last that counted
        self._pending: Left | None = None  # by the one that is on its way

    def ahead(
        self,
        state: State,
        span: Span,
        report: Callable[[int, float], None] | None = None,
    ) -> Trained:
        """The first steps of a span for the round *after* the one that follows on `state`, as many as
        rounds.overlap says. The merge in between is guessed: they begin where the outer step would
        lead if all peers had sent what this one has ("eager updates", arXiv 2502.12996), or from
        `state` if it has sent nothing. Touches nothing that is kept. Raises trainer.Diverged."""
        steps = range(lead(self.spec.rounds.overlap, span.steps))
        weights, merged = state.weights, state.momentum
        pending = self._pending
        own = pending if pending and pending.round == state.round else self.left
        if own.round == state.round and own.sent is not None:
            weights, merged = outer_step(self.spec.outer, weights, merged, own.sent)
        moments = self._moments(own, merged)
        guess = _copied({name: x for name, x in moments.items() if name.startswith(MUON)})
        work = self._steps(weights, state.round + 1, span, steps, moments, report)
        ahead = len(steps)
        return Trained(
            state.round + 1, span, ahead, ahead,
            work.delta, work.tokens, work.loss, work.seconds, work.moments, guess,
        )  # fmt: skip

    def train(
        self,
        state: State,
        span: Span,
        report: Callable[[int, float], None] | None = None,
        begun: Trained | None = None,
    ) -> Trained:
        """All steps of a span for the round that follows on `state`; or, where it was `begun` ahead,
        those that are left, which use it up: they go on from `state`, moved by what was begun. report:
        is given the steps done in this call and their mean loss after each. Raises trainer.Diverged."""
        if begun is None:
            moments = self._moments(self.left, state.momentum)
            work = self._steps(state.weights, state.round, span, range(span.steps), moments, report)
            return Trained(
                state.round, span, span.steps, 0, work.delta,
                work.tokens, work.loss, work.seconds, work.moments,
            )  # fmt: skip
        assert (begun.round, begun.span) == (state.round, span)
        steps, moments = range(begun.steps, span.steps), begun.moments
        delta, tokens, loss, seconds = begun.delta, begun.tokens, begun.loss, begun.seconds
        self._put_right(begun, state)
        if steps:
            work = self._steps(state.weights - delta, state.round, span, steps, moments, report)
            loss = (loss * tokens + work.loss * work.tokens) / (tokens + work.tokens)
            delta, moments = work.delta + delta, work.moments
            tokens, seconds = tokens + work.tokens, seconds + work.seconds
        return Trained(
            state.round, span, span.steps, begun.ahead,
            delta, tokens, loss, seconds, moments,
        )  # fmt: skip

    def _put_right(self, begun: Trained, state: State) -> None:
        """Let what was begun with guessed momenta go on with the right ones. After k steps a momentum
        still holds the one it began with, times the product of the k factors of Muon; what the
        guess missed is added at that weight."""
        began_at = begun.round * self.spec.inner.steps
        factors = (momentum(self.spec.inner, began_at + step) for step in range(begun.steps))
        weight = math.prod(factors)
        right = self._moments(self.left, state.momentum)
        for name, guessed in begun.guess.items():
            begun.moments[name].add_(right[name] - guessed, alpha=weight)

    def _moments(self, own: Left, merged: np.ndarray) -> dict[str, torch.Tensor]:
        """What a round begins with: a peer's own moments, Muon's turned towards the last merged step
        f32[P]. With outer momentum that is the outer optimizer's: the
        merged steps so far, the last weighing most."""
        moments = _copied(own.moments)
        guide(moments, merged, self.layout, self.spec.inner.guide)
        return moments

    def _steps(
        self,
        weights: np.ndarray,
        round_: int,
        span: Span,
        steps: range,
        moments: dict[str, torch.Tensor],
        report: Callable[[int, float], None] | None,
    ) -> Work:
        """Some of the steps of a span, counted within it. Their moments are kept if the next step is
        to go on with them: that of the same span, or, unless inner.state = "fresh", any."""
        inner, seed = self.spec.inner, self.spec.seed
        batches = (
            batch(
                self.dataset, seed, span.block, span.first + step, inner.steps, inner.batch,
                self.spec.model.sequence,
            )
            for step in steps
        )  # fmt: skip
        drawn = (seed + span.block + (steps.start << 32)) % SEED_LIMIT
        began_at = round_ * inner.steps + steps.start
        keep = inner.state != "fresh" or steps.stop < span.steps
        return self.trainer.train(weights, batches, began_at, report, drawn, moments, keep)

    def compress(self, state: State, peer: int, trained: Trained) -> Contribution:
        """The contribution to the round that follows on `state`. Nothing is final before `settle`; an
        attempt before it that was never closed leaves nothing behind. Uses up `trained`. Raises
        WireError."""
        spec, began = self.spec, time.perf_counter()
        assert (trained.round, trained.steps) == (state.round, trained.span.steps)
        wanted = feedback.carry(trained.delta, self.left.residual, spec.wire.feedback)
        codec = codec_of(spec.wire, self.layout)
        encoded = codec.encode(wanted, state.shared)
        said = codec.announce(wanted)
        kept = feedback.keep(wanted, encoded.sent, out=wanted)
        sent = encoded.sent if spec.rounds.overlap else None
        self.left.sent = None  # part of the state by now: nothing begins from it any more
        self._pending = Left(state.round, kept, trained.moments, sent)
        announcement = Announcement(
            round=state.round,
            peer=peer,
            block=trained.span.block,
            blob=blob_hash(encoded.blob),
            size=len(encoded.blob),
            tokens=trained.tokens,
            steps=trained.span.steps,
            loss=trained.loss,
            rms=said,
            first=trained.span.first,
            ahead=trained.ahead,
        )
        return Contribution(
            announcement, encoded.blob, trained.seconds, time.perf_counter() - began
        )

    def contribute(
        self,
        state: State,
        peer: int,
        block: int,
        report: Callable[[int, float], None] | None = None,
        first: int = 0,
        steps: int = 0,
    ) -> Contribution:
        """Train `steps` steps of a block from step `first` on (0: all of it) from the state, and
        compress what came of it. Raises trainer.Diverged, WireError."""
        span = Span(block, first, steps or self.spec.inner.steps)
        return self.compress(state, peer, self.train(state, span, report))

    def settle(self, accepted: bool, round_: int | None = None) -> None:
        """A round is closed (None: that of what is pending). If the contribution counted, what it
        left unsent becomes the residual; if not, its data goes back to the pool and nothing of it
        is kept. Rounds before that of what is pending change nothing."""
        pending = self._pending
        if pending is None or (round_ is not None and round_ < pending.round):
            return
        if accepted and round_ in (None, pending.round):
            self.left = pending
        self._pending = None

    def evaluate(self, state: State, share: int, shares: int) -> tuple[float, int]:
        """Sum of nats and number of tokens over this peer's share of the held-out windows."""
        spec = self.spec
        windows = held_out_batches(
            self.dataset, spec.model.sequence, spec.rounds.evaluate_tokens, batch=8
        )
        return self.trainer.evaluate(state.weights, rows(windows, share, shares))

    def save(self, path: Path) -> None:
        """Write what `settle(True)` would keep, atomically, before the contribution is sent."""
        left = self._pending or self.left
        arrays = {name: value.numpy() for name, value in left.moments.items()}
        said = {} if left.sent is None else {"sent": left.sent}
        write_arrays(path, {"residual": left.residual, **said, **arrays}, {})

    def load(self, path: Path, round_: int) -> bool:
        """Take up what `save` wrote of a round that counted; False if there is no such file or it is
        damaged."""
        if found := self._read(path, round_):
            self.left = found
        return found is not None

    def load_pending(self, path: Path, round_: int) -> bool:
        """Take up what `save` wrote for a contribution that is in hand and whose round is open. False
        if it is lost; then nothing is carried over from it should it count."""
        found = self._read(path, round_)
        self._pending = found or Left(round_, np.zeros_like(self.left.residual), {})
        return found is not None

    def _read(self, path: Path, round_: int) -> Left | None:
        try:
            tensors = load_file(path)
            residual = tensors.pop("residual").numpy()
        except (OSError, KeyError, SafetensorError):
            return None
        sent = tensors.pop("sent").numpy() if "sent" in tensors else None
        fits = all(x.shape == (self.layout.total,) for x in (residual, sent) if x is not None)
        return Left(round_, residual, tensors, sent) if fits else None


def _copied(moments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Moments to go on with, of which those at hand are still needed."""
    return {name: value.clone() for name, value in moments.items()}


def disk_needed(inner: Inner, layout: Layout, peers: int = 1) -> int:
    """Bytes that a machine with so many peers surely writes: three states (weights and outer
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
