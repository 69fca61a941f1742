"""The commands: parse, call one function of a room, print. No logic."""

import typer

from duckweed.cli import forecast, inspect, join, peer, plan, serve, status, train

app = typer.Typer(
    name="duckweed",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train language models together on computers that belong to nobody in one piece.",
)
for room in (train, serve, join, peer, status, inspect, plan, forecast):
    room.register(app)


def main() -> None:
    app()
