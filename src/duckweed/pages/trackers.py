"""A run's figures for the tools that people watch training with; they are written beside the run."""

import contextlib
import html
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import msgspec

from duckweed.round.run_log import Meter
from duckweed.run import spec as specs
from duckweed.run.events import Event, FinalLoss, RoundClosed, Sampled
from duckweed.run.folder import RunFolder

log = logging.getLogger(__name__)


class TrackerError(ValueError):
    """A tool that is not known, not installed or cannot be used."""


class Tracker(ABC):
    """One tool. It is given the whole run from metrics.jsonl first, so that it has all of it also after a
    restart. Steps are closed rounds; losses are in nats per token, as elsewhere."""

    def __init__(self) -> None:
        self._meter, self._tokens = Meter(), 0

    @abstractmethod
    def figures(self, step: int, when: float | None, figures: Mapping[str, float]) -> None:
        """Note figures after a number of rounds. when: Unix time; None: now."""

    @abstractmethod
    def text(self, step: int, text: str) -> None:
        """Note a text that the model wrote, which is not to be trusted."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is not yet written."""

    def take(self, event: Event) -> None:
        """Note an event."""
        match event:
            case RoundClosed():
                self._round(event)
            case FinalLoss(round=int(closed)):
                self.figures(closed, None, {"eval/loss": event.held_out})
            case Sampled():
                self.text(event.round, event.text)

    def _round(self, event: RoundClosed) -> None:
        when = event.time or None
        if event.held_out is not None:  # of the state before the round
            self.figures(event.round, when, {"eval/loss": event.held_out})
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
        known = {name: value for name, value in figures.items() if value is not None}
        self.figures(event.round + 1, when, known)


class TensorBoard(Tracker):
    """Event files under RUN/tensorboard, written anew at each start."""

    def __init__(self, folder: RunFolder) -> None:
        """Raises TrackerError."""
        super().__init__()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrackerError(
                "--log tensorboard needs TensorBoard: pip install 'duckweed[tensorboard]'"
            ) from error
        place = folder.path / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(place))

    def figures(self, step: int, when: float | None, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step, walltime=when)
        self._writer.flush()

    def text(self, step: int, text: str) -> None:
        self._writer.add_text("sample", f"```\n{text}\n```", step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, under the identity of ours: a run that goes on is the same run there."""

    def __init__(self, folder: RunFolder) -> None:
        """Raises TrackerError."""
        super().__init__()
        try:
            import wandb
        except ImportError as error:
            raise TrackerError(
                "--log wandb needs Weights & Biases: pip install 'duckweed[wandb]'"
            ) from error
        spec = specs.load(folder.spec)
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "duckweed"), id=spec.identity[:32],
                name=folder.path.name, dir=str(folder.path), resume="allow", config=msgspec.to_builtins(spec),
                reinit="create_new",  # the runs of a family are there at the same time
                settings=wandb.Settings(  # the invitation stands in what the terminal shows
                    console="off", save_code=False, disable_git=True, x_disable_meta=True,
                    x_disable_machine_info=True, silent=True,
                ),
            )  # fmt: skip
        except Exception as error:
            raise TrackerError(
                f"--log wandb: {error}. Log in by `wandb login`, or write for later with WANDB_MODE=offline"
            ) from error
        self._html: Callable[..., Any] = wandb.Html
        self._step = self._run.starting_step  # what it has from before is not sent again
        self._from = self._step

    def figures(self, step: int, when: float | None, figures: Mapping[str, float]) -> None:
        if step >= self._from:
            self._step = max(self._step, step)
            stamp = {} if when is None else {"_timestamp": when}
            self._run.log({**figures, **stamp}, step=self._step)

    def text(self, step: int, text: str) -> None:
        if step >= self._from:
            shown = self._html(f"<pre>{html.escape(text)}</pre>", inject=False)
            self._run.log({"sample": shown, "sample/rounds": step}, step=max(self._step, step))

    def close(self) -> None:
        self._run.finish()


TOOLS: dict[str, Callable[[RunFolder], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def check(names: list[str]) -> None:
    """Raises TrackerError where a tool is not known."""
    for name in names:
        if name not in TOOLS:
            raise TrackerError(f"--log {name}: not known here; expected {', '.join(TOOLS)}")


def tracked(
    folder: RunFolder, names: list[str], events: Generator[Event, None, None]
) -> Generator[Event, None, None]:
    """The same events, noted for these tools. Raises TrackerError."""
    with closing(events), Tools(folder, names) as tools:
        for event in events:
            tools.take(event)
            yield event


class Tools:
    """Tools that are given a run: what is known of it first, then each event. One that fails later is left out. A
    context manager: on leaving it, what they have is written out."""

    def __init__(self, folder: RunFolder, names: Sequence[str]) -> None:
        """Raises TrackerError."""
        self._at_work: list[Tracker] = []
        with contextlib.ExitStack() as stack:
            for name in dict.fromkeys(names):
                self._at_work.append(stack.enter_context(closing(TOOLS[name](folder))))
            for event in folder.records(RoundClosed, FinalLoss, Sampled) if names else ():
                for tool in self._at_work:
                    tool.take(event)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Tools":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, event: Event) -> None:
        """Note an event."""
        for tool in list(self._at_work):
            try:
                tool.take(event)
            except Exception as error:  # whatever it is, the run goes on
                log.warning("--log: %s is left out from here on: %s", type(tool).__name__, error)
                self._at_work.remove(tool)
