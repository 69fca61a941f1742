"""`duckweed identity`: a key of this machine that others can name, before there is a run."""

from typing import Annotated

import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import plain_errors

console = PlainConsole()


def register(app: typer.Typer) -> None:
    app.command()(identity)


@plain_errors
def identity(
    name: Annotated[str, typer.Argument(help="What people call this machine: anna, lab-2.")],
) -> None:
    """Make a key for this machine, or show the one of this name, so that an organiser can name the
    machine in a specification: as a successor, or to let it in without an invitation."""
    from duckweed.net.identity import load_or_create, named

    place = named(name)
    key = load_or_create(place).id
    console.print(
        f"{name}:{key}\n\n"
        "Give this line to the organiser, who writes it into the specification, members.successors; it\n"
        f"is no secret. Then take part by: duckweed join INVITATION --identity {name}\n"
        f"The secret half is in {place}; it never leaves this machine.",
        soft_wrap=True,
    )
