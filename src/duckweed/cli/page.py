"""`duckweed page`: the live page of a run, or of a folder of runs."""

import contextlib
import threading
from pathlib import Path
from typing import Annotated

import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import plain_errors

console = PlainConsole()


def register(app: typer.Typer) -> None:
    app.command()(page)


@plain_errors
def page(
    run: Annotated[
        Path, typer.Argument(help="A run, its name under runs/, or a folder of runs.")
    ] = Path("runs"),
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="0.0.0.0:8080 for everybody who reaches this machine."
        ),
    ] = "127.0.0.1:0",
) -> None:
    """Show a run, or all runs of a folder, as a page in the browser; also while they go on elsewhere on
    this machine. It only reads. Ctrl-C ends it.
    """
    from duckweed.pages.live.server import serving
    from duckweed.pages.live.site import UNREADABLE, Site, later
    from duckweed.run import folder as folders
    from duckweed.run import plugins

    place = run
    if not any(run.glob("*/run.toml")) or (run / "run.toml").is_file():
        folder = folders.find(run)
        plugins.load_of(folder)
        place = folder.path
    try:
        site = Site(place)
    except UNREADABLE as error:
        raise folders.FolderError(later(error)) from error
    with serving(site, listen) as url:
        console.print(f"{place} is shown at {url} (Ctrl-C ends this)", soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
