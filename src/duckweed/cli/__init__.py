"""The commands: parse, call one function of a room, print. No logic."""

from typing import Annotated

import typer

from duckweed import __version__
from duckweed.cli import (
    audit,
    chat,
    doctor,
    evolve,
    forecast,
    identity,
    inspect,
    join,
    me,
    page,
    peer,
    plan,
    push,
    relay,
    serve,
    status,
    train,
)
from duckweed.cli.common import examples
from duckweed.cli.common.console import use_any_terminal
from duckweed.cli.common.examples import EXIT_CODES
from duckweed.process import environment


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"duckweed {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="duckweed",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)
for room in (
    train,
    serve,
    relay,
    join,
    identity,
    peer,
    me,
    status,
    doctor,
    inspect,
    chat,
    audit,
    page,
    push,
    plan,
    forecast,
    evolve,
):
    room.register(app)
examples.add(app)


@app.callback()
def duckweed(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and end.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train one language model together on many computers, scattered over the internet."""


def main() -> None:
    environment.prepare()
    environment.stop_as_ctrl_c()
    use_any_terminal()
    app()
