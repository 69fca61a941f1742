"""The live view of a family: one line for each of its runs; and its table once it is done."""

import math
import time

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from duckweed.cli.views.live import words
from duckweed.cli.views.panel import LivePanel
from duckweed.pages.family_page import HEAD, WORTH, Figures
from duckweed.run.events import Event, Progress, RoundClosed
from duckweed.run.units import show_clock


class Line:
    """What is known of one run. Losses in bits per byte."""

    def __init__(self, rounds: int, bytes_per_token: float) -> None:
        self.rounds = rounds
        self._to_bits = 1 / math.log(2) / bytes_per_token
        self.done = 0
        self.doing = ""
        self.loss: float | None = None
        self.held_out: float | None = None

    def take(self, event: Event) -> None:
        """Note what happened in this run."""
        if isinstance(event, Progress):
            self.doing = ", ".join(sorted({peer.doing for peer in event.peers}))
        elif isinstance(event, RoundClosed):
            self.done, self.loss = event.round + 1, self._bits(event.loss)
            self.held_out = self.held_out if event.held_out is None else self._bits(event.held_out)

    def _bits(self, nats: float) -> float:
        return nats * self._to_bits


class FamilyView(LivePanel):
    """Takes events in, shows them. On a terminal a live panel; elsewhere a line per round."""

    def __init__(self, console: Console, name: str) -> None:
        super().__init__(console, name)
        self._lines: dict[str, Line] = {}
        self._began = time.monotonic()

    def take(self, run: str, event: Event, rounds: int, bytes_per_token: float) -> None:
        """Note an event of a run and show it. rounds: of the run; bytes_per_token: of its held-out text."""
        line = self._lines.setdefault(run, Line(rounds, bytes_per_token))
        line.take(event)
        if isinstance(event, RoundClosed) and not self.console.is_terminal:
            held_out = "" if event.held_out is None else f", held out {_shown(line.held_out)}"
            self.console.print(
                f"{run}: {line.done} of {rounds} rounds, training loss {_shown(line.loss)} bits/byte{held_out}, "
                f"{event.seconds:.1f} s",
                highlight=False,
            )
        elif text := words(event):
            self.say(f"{run}: {text}")
        self._show()

    def _figures(self) -> list[RenderableType]:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("run", "round", "training", "held out", "peers are"):
            table.add_column(name, justify="right" if name in ("training", "held out") else "left")
        for run, line in self._lines.items():
            over = line.done == line.rounds
            table.add_row(
                run,
                f"{line.done} of {line.rounds}",
                _shown(line.loss),
                _shown(line.held_out),
                Text("done", "green") if over else line.doing,
            )
        gone = Text(
            f"\n{show_clock(time.monotonic() - self._began)} gone; losses in bits per byte", "dim"
        )
        return [table, gone]


def _shown(bits: float | None) -> str:
    return "-" if bits is None else f"{bits:.3f}"


def figures_table(figures: Figures) -> RenderableType:
    """The paths of a family, the verdict first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in HEAD:
        table.add_column(name, justify="left" if name == HEAD[0] else "right")
    for row in figures.rows():
        table.add_row(*row)
    verdict, facts = figures.sentences()
    note = "Losses of the paths: bits per byte of the held-out text that is routed to each."
    return Group(
        Text(),
        Text(verdict, "bold"),
        Text(facts),
        Text(),
        table,
        Text(note, "dim"),
        Text(WORTH, "dim"),
    )
