"""How commands fail: one clear message, exit code 1, no traceback for what a user can mend."""

import functools
import os
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.run.error_words import EXPECTED, words

STOPPED = 130  # exit code of a command that was ended by Ctrl-C or `kill`, as in a shell
console = PlainConsole(stderr=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print the message and end the command with an exit code."""
    console.print("error:", style="bold red", end=" ")
    console.print(message)
    raise typer.Exit(code)


def plain_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the errors that rooms raise on purpose into plain messages."""
    return guarded(command, lambda error: 1, "try again; a run goes on with --resume")


def guarded(
    command: Callable[..., Any], code: Callable[[BaseException], int], again: str = "try again"
) -> Callable[..., Any]:
    """The same with other words and exit codes. code: by the error; again: how to go on once its cause is
    mended."""

    @functools.wraps(command)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            console.print("Stopped.")
            raise typer.Exit(STOPPED) from None
        except EXPECTED as error:
            # DUCKWEED_TRACE shows where an error came from, for reports of bugs.
            if os.environ.get("DUCKWEED_TRACE"):
                raise
            fail(words(error, again=again), code(error))

    return called
