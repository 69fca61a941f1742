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
from duckweed.merge.round import Announcement, blob_hash
from duckweed.run.layout import Layout
from duckweed.run.spec import SEED_LIMIT, RunSpec
from duckweed.run.state import State
from duckweed.run.tensors import write_arrays
from duckweed.wire import feedback
from duckweed.wire.contribution import compress


class Contribution(msgspec.Struct):
    """What a peer made of one block, and the seconds that training and compressing took."""

    announcement: Announcement
    blob: bytes
    train_seconds: float
    compress_seconds: float


class Worker:
    """Trains blocks and keeps the one thing a peer carries from round to round: its residual (and,
    with inner.state = "kept", its moments). What was not accepted leaves no trace in it."""

    def __init__(self, spec: RunSpec, layout: Layout, dataset: Dataset, trainer: Trainer) -> None:
        self.spec, self.layout, self.dataset, self.trainer = spec, layout, dataset, trainer
        self.residual = np.zeros(layout.total, np.float32)
        self._pending: np.ndarray | None = None
        self._moments_before: dict[str, torch.Tensor] = {}

    def contribute(
        self,
        state: State,
        peer: int,
        block: int,
        report: Callable[[int, float], None] | None = None,
        first: int = 0,
        steps: int = 0,
    ) -> Contribution:
        """Train `steps` steps of a block from step `first` on (0: all of it) from the state and compress what came of it. Nothing is final before
        `settle`. Raises trainer.Diverged, WireError."""
        inner, spec = self.spec.inner, self.spec
        self.settle(accepted=False)  # an attempt that was never closed leaves nothing behind
        self._moments_before = self.trainer.moments
        steps = steps or inner.steps
        batches = (
            batch(
                self.dataset, spec.seed, block, step, inner.steps, inner.batch, spec.model.sequence
            )
            for step in range(first, first + steps)
        )
        began_at, drawn = state.round * inner.steps, (spec.seed + block) % SEED_LIMIT
        work = self.trainer.train(state.weights, batches, began_at, report, drawn)
        began = time.perf_counter()
        wanted = feedback.carry(work.delta, self.residual, spec.wire.feedback)
        compressed = compress(spec.wire, wanted, self.layout, state.scales)
        self._pending = feedback.keep(wanted, compressed.sent)
        announcement = Announcement(
            round=state.round,
            peer=peer,
            block=block,
            blob=blob_hash(compressed.blob),
            size=len(compressed.blob),
            tokens=work.tokens,
            steps=steps,
            loss=work.loss,
            sizes=sizes(wanted, self.layout),
            first=first,
        )
        return Contribution(
            announcement, compressed.blob, work.seconds, time.perf_counter() - began
        )

    def settle(self, accepted: bool) -> None:
        """The round is closed. If the contribution counted, what it left unsent becomes the
        residual; if not, its data goes back to the pool and nothing of it is kept."""
        if self._pending is not None and accepted:
            self.residual = self._pending
        elif self._pending is not None:
            self.trainer.moments = self._moments_before
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
        residual = self.residual if self._pending is None else self._pending
        moments = {name: value.numpy() for name, value in self.trainer.moments.items()}
        write_arrays(path, {"residual": residual, **moments}, {})

    def load(self, path: Path) -> bool:
        """Take up what `save` wrote; False if there is no such file or it is damaged."""
        try:
            tensors = load_file(path)
            residual = tensors.pop("residual").numpy()
        except (OSError, KeyError, SafetensorError):
            return False
        if residual.shape != self.residual.shape:
            return False
        self.residual, self.trainer.moments = residual, tensors
        return True


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
