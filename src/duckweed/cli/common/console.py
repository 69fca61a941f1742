"""What the commands print on: text is never markup, and neither a character nor a closed output ends a
command."""

import codecs
import io
import os
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
    another in its place; and output that cannot be written any more goes nowhere and ends nothing."""
    codecs.register_error("duckweed", _other)
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: Any) -> Any:
    """The same stream with the two properties above; the second only for a file, pipe or terminal."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # with PYTHONUNBUFFERED nothing is between
    if not isinstance(raw, io.FileIO):
        stream.reconfigure(errors="duckweed")
        return stream
    encoding, lines, buffered = stream.encoding, stream.line_buffering, stream.buffer is not raw
    under: Any = stream.detach()
    if buffered:
        under.detach()
    lasting: Any = io.BufferedWriter(_Lasting(raw)) if buffered else _Lasting(raw)
    return io.TextIOWrapper(
        lasting, encoding, "duckweed", line_buffering=lines, write_through=not buffered
    )


class _Lasting(io.RawIOBase):
    """A file that goes on as the null device once nothing can be written to it: the pipe was closed, the
    disk is full, the terminal is gone."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()

    def write(self, data: Any) -> int | None:
        try:
            return self._file.write(data)
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


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
