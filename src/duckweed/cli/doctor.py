"""`duckweed doctor`: why this machine cannot take part in a run, or would do so badly."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import plain_errors

if TYPE_CHECKING:
    from duckweed.volunteer.doctor import Finding

console = PlainConsole()
MARKS = {"good": "green", "poor": "yellow", "bad": "bold red"}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


@plain_errors
def doctor(
    invitation: Annotated[str, typer.Argument(help="The line that `duckweed serve` printed.")],
) -> None:
    """Try each link between this machine and a run: address, UDP, TCP, relay, NAT, clock, version,
    device. Says whose side a fault is on and what to do; begins nothing. Exit code 1 if this machine
    could not take part.
    """
    from duckweed.net.identity import Identity
    from duckweed.swarm.protocol import invitation as invitations
    from duckweed.volunteer.doctor import Finding, examine, findings

    there = invitations.read(invitation)
    with console.status("calling the coordinator in every way there is"):
        facts = asyncio.run(examine(there, Identity(os.urandom(32))))
    found = findings(there, facts)
    for one in found:
        _show(one)
    with console.status("loading PyTorch"):
        from duckweed.learn.device import choose
        from duckweed.learn.memory import available
        from duckweed.run.units import show_size

        device = choose("auto")
        _show(Finding("device", "good", f"{device}, {show_size(available(device))} memory free"))
    _show(Finding("disk", "good", f"{show_size(shutil.disk_usage(Path.cwd()).free)} free here"))
    if any(one.state == "bad" for one in found):
        raise typer.Exit(1)
    console.print(
        "This machine can take part; `duckweed join --dry-run` measures what it would do."
    )


def _show(one: "Finding") -> None:
    console.print(Text(f"{one.state:4}", MARKS[one.state]), f" {one.what + ':':13}", end="")
    console.print(one.words, soft_wrap=True)
