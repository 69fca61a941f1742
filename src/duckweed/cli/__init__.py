"""The commands: parse, call one function of a room, print. No logic."""

import typer

from duckweed.cli import (
    audit,
    doctor,
    evolve,
    forecast,
    identity,
    inspect,
    join,
    page,
    peer,
    plan,
    relay,
    serve,
    status,
    train,
)
from duckweed.cli.console import use_any_terminal
from duckweed.process import environment

app = typer.Typer(
    name="duckweed",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train one language model together on many computers, scattered over the internet.",
)
for room in (
    train,
    serve,
    relay,
    join,
    identity,
    peer,
    status,
    doctor,
    inspect,
    audit,
    page,
    plan,
    forecast,
    evolve,
):
    room.register(app)


def main() -> None:
    environment.prepare()
    environment.stop_as_ctrl_c()
    use_any_terminal()
    app()
