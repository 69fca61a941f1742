"""A live panel in the terminal: figures, and the last messages below them; elsewhere lines."""

from abc import ABC, abstractmethod
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

MESSAGES = 3


class LivePanel(ABC):
    """What the views of a run and of a family have in common."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self._messages: list[str] = []
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """Show a line of text below the figures; elsewhere print it."""
        self._messages = [*self._messages, text][-MESSAGES:]
        if not self.console.is_terminal:
            self.console.print(text)
        self._show()

    @abstractmethod
    def _figures(self) -> list[RenderableType]:
        """What stands above the messages."""

    def _show(self) -> None:
        """Draw the panel anew, on a terminal."""
        if self.console.is_terminal:
            self._live.update(self._render())

    def _render(self) -> RenderableType:
        return Panel(
            Group(*self._figures(), *map(Text, self._messages)),
            title=Text.assemble(("duckweed", "bold"), f" {self.name}"),
            border_style="green",
            padding=(0, 1),
        )
