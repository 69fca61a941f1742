"""A run's figures for the tools that people watch training with; they are written beside the run."""

import shutil
from collections.abc import Generator
from contextlib import closing
from typing import Any

from duckweed.round.run_log import Meter
from duckweed.run.events import Event, FinalLoss, RoundClosed, Sampled
from duckweed.run.folder import RunFolder

KNOWN = ("tensorboard",)


class TrackerError(ValueError):
    """A tool that is not known or not installed."""


class TensorBoard:
    """Event files under RUN/tensorboard. They are written anew from metrics.jsonl, so that they hold the
    whole run also after a restart. Steps are closed rounds; losses are in nats per token, as elsewhere.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Raises TrackerError."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrackerError(
                "--log tensorboard needs TensorBoard: pip install 'duckweed[tensorboard]'"
            ) from error
        place = folder.path / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(place))
        self._meter, self._tokens = Meter(), 0
        for event in folder.records(RoundClosed, FinalLoss, Sampled):
            self.take(event)

    def take(self, event: Event) -> None:
        """Note an event."""
        match event:
            case RoundClosed():
                self._round(event)
            case FinalLoss(round=int(closed)):
                self._writer.add_scalar("eval/loss", event.held_out, closed)
            case Sampled():
                self._writer.add_text("sample", f"```\n{event.text}\n```", event.round)

    def _round(self, event: RoundClosed) -> None:
        step, when = event.round + 1, event.time or None
        self._tokens += event.tokens
        moved = self._meter.take(event)
        figures = {
            "train/loss": event.loss if event.accepted else None,
            "train/tokens": self._tokens,
            "peers/counted": len(event.accepted),
            "peers/rejected": len(event.rejected),
            "time/round_seconds": event.seconds,
            "time/tokens_per_second": event.tokens / event.seconds if event.seconds else None,
            "traffic/up_bytes": sum(x.up for x in moved.values()),
            "traffic/down_bytes": sum(x.down for x in moved.values()),
        }
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(name, value, step, walltime=when)
        if event.held_out is not None:  # of the state before the round
            self._writer.add_scalar("eval/loss", event.held_out, event.round, walltime=when)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def check(names: list[str]) -> None:
    """Raises TrackerError where a tool is not known."""
    for name in names:
        if name not in KNOWN:
            raise TrackerError(f"--log {name}: not known here; expected {', '.join(KNOWN)}")


def tracked(
    folder: RunFolder, names: list[str], events: Generator[Event, None, None]
) -> Generator[Event, None, None]:
    """The same events, noted for these tools. Raises TrackerError."""
    if not names:
        yield from events
        return
    with closing(events), closing(TensorBoard(folder)) as board:
        for event in events:
            board.take(event)
            yield event
