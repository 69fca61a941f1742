"""A peer's half of a round, without network or process: the same for a real peer and a simulated one."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from duckweed.learn.dataset import Dataset, batch, held_out_batches
from duckweed.learn.trainer import Trainer, rows
from duckweed.merge.outer import outer_step
from duckweed.merge.round import Announcement, blob_hash
from duckweed.run.layout import Layout
from duckweed.run.spec import SEED_LIMIT, RunSpec
from duckweed.run.state import State
from duckweed.run.tensors import write_arrays
from duckweed.swarm.rounds import Span
from duckweed.wire import feedback
from duckweed.wire.contribution import compress


class Trained(msgspec.Struct):
    """What training a span of a block for round `round` gave: pseudo-gradient delta f32[P], tokens,
    mean loss, seconds, and the moments it ended with. ahead: it began from the state before the one
    it is merged into. sent f32[P]: what its contribution says, once it is compressed."""

    round: int
    span: Span
    ahead: bool
    delta: np.ndarray
    tokens: int
    loss: float
    seconds: float
    moments: dict[str, torch.Tensor]
    sent: np.ndarray | None = None


class Contribution(msgspec.Struct):
    """What a peer made of one block, and the seconds that training and compressing took."""

    announcement: Announcement
    blob: bytes
    train_seconds: float
    compress_seconds: float


class Pending(msgspec.Struct):
    """What a contribution that was handed in leaves behind if it is accepted."""

    round: int
    residual: np.ndarray
    moments: dict[str, torch.Tensor]


def builds_on(spec: RunSpec) -> bool:
    """Whether what is trained ahead carries something of the contribution before it, and so must be
    dropped with it: the moments it left, or the step that it is expected to bring."""
    return spec.rounds.overlap == "eager" or spec.inner.state == "kept"


class Worker:
    """Trains blocks and keeps the one thing a peer carries from round to round: its residual (and,
    with inner.state = "kept", its moments). What was not accepted leaves no trace in it.

    Training and compressing are apart, so that a block can be trained for the round after the one
    that is being exchanged. It is compressed when that one has closed: only then are the common
    scale, the residual and the fate of the contribution before it known.
    """

    def __init__(self, spec: RunSpec, layout: Layout, dataset: Dataset, trainer: Trainer) -> None:
        self.spec, self.layout, self.dataset, self.trainer = spec, layout, dataset, trainer
        self.residual = np.zeros(layout.total, np.float32)
        self.moments: dict[str, torch.Tensor] = {}
        self._pending: Pending | None = None

    def train(
        self,
        state: State,
        span: Span,
        report: Callable[[int, float], None] | None = None,
        ahead: bool = False,
        after: Trained | None = None,
    ) -> Trained:
        """Train a span for the round that follows on `state`, or, ahead, for the one after that.

        after: the peer's own work for the round in between, if it is on its way: its moments are
        gone on with, and "eager" begins where the outer step would lead if all had sent the same.
        Touches neither residual nor what is pending. Raises trainer.Diverged.
        """
        inner, seed = self.spec.inner, self.spec.seed
        round_ = state.round + ahead
        self.trainer.moments = after.moments if after else self.moments
        batches = (
            batch(
                self.dataset, seed, span.block, step, inner.steps, inner.batch,
                self.spec.model.sequence,
            )
            for step in range(span.first, span.end)
        )  # fmt: skip
        start = state.weights
        if after and self.spec.rounds.overlap == "eager":
            assert after.sent is not None
            start, _ = outer_step(self.spec.outer, state.weights, state.momentum, after.sent)
        drawn = (seed + span.block) % SEED_LIMIT
        work = self.trainer.train(start, batches, round_ * inner.steps, report, drawn)
        return Trained(
            round_, span, ahead, work.delta, work.tokens, work.loss, work.seconds,
            self.trainer.moments,
        )  # fmt: skip

    def compress(self, state: State, peer: int, trained: Trained) -> Contribution:
        """The contribution to the round that follows on `state`. Nothing is final before `settle`; an
        attempt before it that was never closed leaves nothing behind. Raises WireError."""
        spec, began = self.spec, time.perf_counter()
        assert trained.round == state.round
        wanted = feedback.carry(trained.delta, self.residual, spec.wire.feedback)
        compressed = compress(spec.wire, wanted, self.layout, state.scales)
        trained.sent = compressed.sent if spec.rounds.overlap == "eager" else None
        kept = feedback.keep(wanted, compressed.sent)
        self._pending = Pending(state.round, kept, trained.moments)
        announcement = Announcement(
            round=state.round,
            peer=peer,
            block=trained.span.block,
            blob=blob_hash(compressed.blob),
            size=len(compressed.blob),
            tokens=trained.tokens,
            steps=trained.span.steps,
            loss=trained.loss,
            sizes=sizes(wanted, self.layout),
            first=trained.span.first,
            ahead=trained.ahead,
        )
        return Contribution(
            announcement, compressed.blob, trained.seconds, time.perf_counter() - began
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
            self.residual, self.moments = pending.residual, pending.moments
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
        pending = self._pending
        residual = pending.residual if pending else self.residual
        moments = pending.moments if pending else self.moments
        arrays = {name: value.numpy() for name, value in moments.items()}
        write_arrays(path, {"residual": residual, **arrays}, {})

    def load(self, path: Path) -> bool:
        """Take up what `save` wrote; False if there is no such file or it is damaged."""
        if (found := self._read(path)) is None:
            return False
        self.residual, self.moments = found
        return True

    def load_pending(self, path: Path, round_: int) -> bool:
        """Take up what `save` wrote for a contribution that is in hand and whose round is open. False
        if it is lost; then nothing is carried over from it should it count."""
        found = self._read(path)
        self._pending = Pending(round_, *(found or (np.zeros_like(self.residual), {})))
        return found is not None

    def _read(self, path: Path) -> tuple[np.ndarray, dict[str, torch.Tensor]] | None:
        try:
            tensors = load_file(path)
            residual = tensors.pop("residual").numpy()
        except (OSError, KeyError, SafetensorError):
            return None
        return (residual, tensors) if residual.shape == self.residual.shape else None


def residual_path(home: Path, round_: int) -> Path:
    """Where a peer keeps the residual that its contribution of a round leaves."""
    return home / f"residual-{round_:08d}.safetensors"


def forget_before(home: Path, round_: int) -> None:
    """Remove the residuals of the rounds before one that has counted."""
    for path in home.glob("residual-*.safetensors"):
        if int(path.stem.split("-")[1]) < round_:
            path.unlink(missing_ok=True)


def sizes(x: np.ndarray, layout: Layout) -> list[float]:
    """Root mean square of each tensor of x."""
    return [
        float(np.sqrt(np.mean(np.square(x[part], dtype=np.float64)))) for part in layout.slices()
    ]
