"""What the commands print on: text is never markup, and no character ends a command."""

import codecs
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from duckweed.run.checked import plain

ELSE = {"→": "->", "…": "...", "–": "-", "×": "x", "█": "#"}
"""What stands for a character that the terminal does not have; for any other, a question mark."""


def use_any_terminal() -> None:
    """From now on a terminal that lacks a character, as those of code page 1252 or of ASCII do, gets
    another in its place."""
    codecs.register_error("duckweed", _other)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="duckweed")


def _other(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(ELSE.get(one, "?") for one in lacking), error.end


class PlainConsole(Console):
    """A console that prints strings as they are: brackets and colons in a path, a name or an error mean
    nothing, and control characters in them do not reach the terminal. What is to be bold or red is a rich
    Text, or has a `style`."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich's. All that is printed comes through here, whatever it is a part of."""
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else segment._replace(text=plain(segment.text, keep="\n\t"))
            )

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A spinner with a text; `Spinner` would read markup in a string."""
        return PlainStatus(status, console=self, **options)


class PlainStatus(Status):
    """A spinner whose text is shown as it is."""

    def __init__(self, status: RenderableType, **options: Any) -> None:
        super().__init__(_plain(status), **options)

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(None if status is None else _plain(status), **options)


def _plain(text: RenderableType) -> RenderableType:
    return Text(text) if isinstance(text, str) else text
