"""What the commands that train have in common: open a run, watch it, bring in the harvest."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from duckweed.cli.views.live import View
    from duckweed.run.folder import RunFolder
    from duckweed.run.plugins import Plugin
    from duckweed.run.spec import RunSpec
    from duckweed.session import Events, Session

console = Console(highlight=False)
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="A Python file of your own that registers a wire, a merge rule, an inner optimizer or a "
        "learner. Its code runs on this machine. Repeatable.",
    ),
]


def begin(
    spec: RunSpec,
    base: Path,
    folder: RunFolder,
    device: str,
    threads: int,
    peers: int,
    plugins: Sequence[Plugin] = (),
) -> Session:
    """A new run in an empty folder; peers: how many will share this machine."""
    from duckweed.run.folder import discard_if_empty

    try:
        with console.status("loading PyTorch") as status:
            from duckweed import session

            run = session.found(spec, base, folder, device, threads, peers, plugins, status.update)
    finally:
        discard_if_empty(folder)
    return _told(run)


def reopen(folder: RunFolder, device: str, threads: int, plugins: Sequence[Path]) -> Session:
    """A run that exists."""
    with console.status("loading PyTorch"):
        from duckweed import session

        run = session.reopen(folder, device, threads, plugins)
    return _told(run)


def _told(run: Session) -> Session:
    from duckweed.round import founding

    spec, facts = run.spec, run.ground.dataset.manifest
    console.print(
        f"[bold]{run.folder.path}[/]: {spec.model.source}, "
        f"{founding.layout(run.folder).total:,} parameters, on {run.device}; "
        f"{spec.rounds.peers} peers, {spec.rounds.count} rounds of {spec.inner.steps} steps\n"
        f"data {', '.join(spec.data.paths)}: {facts.train_bytes / 1e6:.1f} MB in "
        f"{facts.train_documents:,} documents to train on, {facts.held_out_bytes / 1e6:.2f} MB held "
        f"out; blake3 {facts.hash[:16]}"
    )
    return run


def view(run: Session) -> View:
    """The live view of the run."""
    from duckweed.cli.views.live import View
    from duckweed.round.export import bytes_per_token

    return View(console, run.folder.path.name, run.spec, bytes_per_token(run.ground.dataset))


def watch(run: Session, events: Events) -> None:
    """Show what happens until it ends, or until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(events), view(run) as shown:
        for event in events:
            shown.take(event)


def finish(run: Session, again: str) -> None:
    """After the last round: measure, export, report. Before: say how to go on (again: the command
    that does, without the folder); exit code 130."""
    from duckweed import session

    closed = session.closed_rounds(run.folder)
    if closed < run.spec.rounds.count:
        console.print(
            f"\nStopped after {closed} closed rounds; nothing of them is lost. "
            f"Go on with: {again} {run.folder.path}",
            soft_wrap=True,
        )
        raise typer.Exit(130)
    from duckweed.cli.views.summary import render_terminal

    with console.status("measuring and exporting the model"):
        summary = session.finish(run)
    console.print(render_terminal(summary))
