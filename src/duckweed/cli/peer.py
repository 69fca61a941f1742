"""`duckweed pause`, `resume` and `leave`: what a volunteer tells the peer on this machine."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import plain_errors

console = PlainConsole()
Home = Annotated[
    Path | None, typer.Argument(help="Folder of the peer; needed where there is more than one.")
]


def register(app: typer.Typer) -> None:
    app.command()(pause)
    app.command()(resume)
    app.command()(leave)


@plain_errors
def pause(home: Home = None) -> None:
    """Let the peer on this machine rest: it hands back its block, keeps its place in the run, holds still.

    It stays paused over restarts, until `duckweed resume`.
    """
    _set(home, True, "pauses after this step, or finishes its block if that takes seconds")


@plain_errors
def resume(home: Home = None) -> None:
    """Let a paused peer go on."""
    _set(home, False, "goes on")


@plain_errors
def leave(home: Home = None) -> None:
    """Let the peer on this machine finish or hand back its block, say good-bye, and end."""
    from duckweed.net.timeouts import LEAVE_WAIT
    from duckweed.volunteer.peer_home import find
    from duckweed.volunteer.watch import ask_to_leave

    peer_home = find(home)
    if not peer_home.taking_part():
        console.print(f"{peer_home.home} is not taking part at the moment; nothing to do.")
        return
    ask_to_leave(peer_home.peer)
    closes = time.monotonic() + LEAVE_WAIT
    with console.status("waiting until it has let go"):
        while peer_home.taking_part() and time.monotonic() < closes:
            time.sleep(0.2)
    if peer_home.taking_part():
        console.print(
            f"{peer_home.home} was told to leave and still ends its block; it will then go."
        )
    else:
        console.print(
            f"{peer_home.home} has left. `duckweed join --home {peer_home.home}` comes back."
        )


def _set(home: Path | None, paused: bool, words: str) -> None:
    from duckweed.volunteer import controls
    from duckweed.volunteer.peer_home import find

    peer_home = find(home)
    controls.save(
        peer_home.peer, msgspec.structs.replace(controls.load(peer_home.peer), paused=paused)
    )
    running = peer_home.taking_part()
    console.print(f"{peer_home.home} {words if running else 'is not running; it is noted'}.")
