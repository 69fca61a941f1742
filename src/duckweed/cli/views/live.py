"""The live view of a run: where it is, how well it does, what each peer is doing, what it cost."""

import math
import time

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from duckweed.cli.views.panel import LivePanel
from duckweed.run.events import (
    UNSET,
    ContributionRefused,
    Event,
    PeerLeft,
    PeerProgress,
    ProcessFailed,
    Progress,
    RoundClosed,
    Said,
    StateDiffers,
)
from duckweed.run.spec import RunSpec
from duckweed.run.task.work import writes
from duckweed.run.units import show_clock, show_size

COLOURS = {
    "training": "green",
    "writing": "green",
    "sending": "cyan",
    "applying": "cyan",
    "waiting": "yellow",
}


class View(LivePanel):
    """Takes events in, shows them. On a terminal a live panel; elsewhere a line per round."""

    def __init__(self, console: Console, name: str, spec: RunSpec, bytes_per_token: float) -> None:
        super().__init__(console, name)
        self.spec = spec
        self._unit = "not solved" if writes(spec) else "bits/byte"
        self._written = ""  # what the models of the peers wrote in the last round, in words
        self._by_writers = ""  # what those wrote in it who do not train, likewise
        self._to_bits = 1 / math.log(2) / bytes_per_token
        self._began = time.monotonic()
        self._done, self._tokens, self._seconds = 0, 0, 0.0
        self._first: float | None = None
        self._held_out: float | None = None
        self._loss: float | None = None
        self._peers: dict[int, PeerProgress] = {}
        self._traffic: dict[str, list[int]] = {}
        self._busy: dict[int, float] = {}  # peer -> share of its last round in which it computed

    def take(self, event: Event) -> None:
        """Note an event and show it."""
        if isinstance(event, Progress):
            self._peers.update({one.peer: one for one in event.peers})
            self._traffic = self._traffic if event.traffic is UNSET else event.traffic
        elif isinstance(event, RoundClosed):
            self._round(event)
        elif text := words(event):
            self.say(text)
        self._show()

    def _round(self, event: RoundClosed) -> None:
        self._done = event.round + 1
        self._tokens += event.tokens
        self._seconds += event.seconds
        self._loss = event.loss
        self._traffic = event.traffic
        self._busy |= event.utilisation
        if event.written is not UNSET:
            self._written = event.written.words()
        self._by_writers = _by_writers(event)
        if event.held_out is not None:
            self._held_out = event.held_out
            self._first = self._first or self._held_out
        for peer, reason in event.rejected.items():
            self.say(f"round {event.round}: peer {peer} did not count: {reason}")
        if not self.console.is_terminal:
            measured = event.held_out is not None
            held_out = f", held out {self._bits(self._held_out)}" if measured else ""
            said = self._written or f"training loss {self._bits(self._loss)} {self._unit}"
            self.console.print(
                f"{self._done} of {self.spec.schedule.rounds} rounds: {said}"
                f"{held_out}, {event.seconds:.1f} s, "
                f"{len(event.accepted)} peers{self._by_writers}",
                highlight=False,
            )

    def _bits(self, nats: float | None) -> str:
        return "-" if nats is None else f"{nats * self._to_bits:.3f}"

    def _figures(self) -> list[RenderableType]:
        return [self._head(), self._table(), self._bytes()]

    def _head(self) -> RenderableType:
        rounds = self.spec.schedule.rounds
        elapsed = time.monotonic() - self._began
        rate = self._tokens / self._seconds if self._seconds else 0.0
        left = (rounds - self._done) * self._seconds / self._done if self._done else 0.0
        bits = Text.assemble(
            "held out ",
            (f"{self._bits(self._held_out)} {self._unit}", "bold"),
            f" (began at {self._bits(self._first)})   training {self._bits(self._loss)}",
        )
        pace = Text(
            f"{self._tokens:,} tokens   {rate:,.0f} tokens/s   {show_clock(elapsed)} gone"
            + (f", about {show_clock(left)} to go" if self._done else "")
        )
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=rounds, completed=self._done, width=40)
        grid.add_row(Text(f"{self._done} of {rounds} rounds"), bar)
        written = [Text(f"answers: {self._written}{self._by_writers}")] if self._written else []
        return Group(grid, bits, *written, pace, Text())

    def _table(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("peer", "doing", "step", "loss", "computing"):
            table.add_column(name, justify="left" if name == "doing" else "right")
        for peer in sorted(self._peers.values(), key=lambda p: p.peer):
            training = peer.doing in ("training", "writing")
            table.add_row(
                str(peer.peer),
                Text(peer.doing, COLOURS.get(peer.doing, "red")),
                f"{peer.step}/{self.spec.schedule.steps_of(self._done)}" if training else "",
                self._bits(peer.loss) if peer.loss else "",
                f"{self._busy[peer.peer]:.0%}" if peer.peer in self._busy else "",
            )
        if not self._peers:
            return Text("starting the peers ...", "dim")
        return table

    def _bytes(self) -> RenderableType:
        up = self._traffic.get("contributions", [0, 0])[0]
        down = self._traffic.get("updates", [0, 0])[1]
        control = sum(self._traffic.get("control", [0, 0]))
        return Text(
            f"\nup {show_size(up)}   down {show_size(down)}   control {show_size(control)}", "dim"
        )


def _by_writers(event: RoundClosed) -> str:
    """What those wrote in a round who do not train, in words; "" where nobody did."""
    if event.writers is UNSET:
        return ""
    peers = f"{len(event.writers)} peer{'s' if len(event.writers) > 1 else ''}"
    return f"; {peers} wrote {sum(event.writers.values()):,} tokens for the next round"


def words(event: Event) -> str:
    """An event as a line of text; "" for one that is not shown."""
    match event:
        case Said(text=text, slot=slot):
            return text if slot is UNSET else f"peer {slot}: {text}"
        case ProcessFailed(slot=slot, reason=reason):
            return f"peer {slot} ended: {reason}"
        case PeerLeft(peer=peer, reason=reason):
            return f"peer {peer} left: {reason}"
        case ContributionRefused(peer=peer, reason=reason):
            return f"peer {peer}: contribution refused: {reason}"
        case StateDiffers(peer=peer):
            return f"peer {peer} holds other weights than the rest; it is out"
    return ""
