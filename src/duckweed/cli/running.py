"""What the commands that train have in common: open a run, watch it, bring in the harvest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from duckweed.cli.views.live import View
    from duckweed.round.founding import Ground
    from duckweed.run.events import Event
    from duckweed.run.folder import RunFolder
    from duckweed.run.spec import RunSpec

console = Console(highlight=False)


@dataclass(frozen=True)
class Opened:
    """A run that is ready to be trained on this machine."""

    folder: RunFolder
    spec: RunSpec
    ground: Ground
    device: str


def begin(
    spec: RunSpec, base: Path, folder: RunFolder, device: str, threads: int, peers: int
) -> Opened:
    """A new run in an empty folder; peers: how many will share this machine."""
    from duckweed.run.folder import discard_if_empty

    try:
        with console.status("loading PyTorch") as status:
            device = _device(device, threads)
            from duckweed.round import founding

            ground = founding.prepare(spec, base, status.update)
            said: list[str] = []
            founding.found(spec, ground, folder, device, peers, status.update, said.append)
        for text in said:
            console.print(text, markup=False, style="yellow")
    finally:
        discard_if_empty(folder)
    return _told(Opened(folder, spec, ground, device))


def reopen(folder: RunFolder, device: str, threads: int) -> Opened:
    """A run that exists."""
    from duckweed.run import spec as specs

    spec = specs.load(folder.spec)
    with console.status("loading PyTorch"):
        device = _device(device, threads)
        from duckweed.round import founding

        ground = founding.reopen(folder, spec)
    return _told(Opened(folder, spec, ground, device))


def _device(wanted: str, threads: int) -> str:
    import torch

    from duckweed.learn.device import choose

    torch.set_num_threads(threads)
    return choose(wanted)


def _told(run: Opened) -> Opened:
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


def view(run: Opened) -> View:
    """The live view of the run."""
    from duckweed.cli.views.live import View
    from duckweed.round.export import bytes_per_token

    return View(console, run.folder.path.name, run.spec, bytes_per_token(run.ground.dataset))


def watch(run: Opened, events: Iterable[Event]) -> None:
    """Show what happens until it ends."""
    with view(run) as shown:
        for event in events:
            shown.take(event)


def finish(run: Opened, again: str) -> None:
    """After the last round: measure, export, report. Before: say how to go on (again: the command
    that does, without the folder); exit code 130."""
    from duckweed.ledger.entries import RoundEntry
    from duckweed.ledger.ledger import Ledger
    from duckweed.round import founding

    ledger = Ledger(run.folder.ledger)
    closed = sum(1 for _ in ledger.entries(RoundEntry))
    ledger.close()
    if closed < run.spec.rounds.count:
        console.print(
            f"\nStopped after {closed} closed rounds; nothing of them is lost. "
            f"Go on with: {again} {run.folder.path}",
            soft_wrap=True,
        )
        raise typer.Exit(130)
    from duckweed.cli.views.summary import render_terminal
    from duckweed.pages.run_page import run_page
    from duckweed.pages.run_summary import summarise
    from duckweed.round.export import bytes_per_token, harvest

    with console.status("measuring and exporting the model"):
        sample = harvest(run.folder, run.spec, run.ground, run.device)
        parameters = founding.layout(run.folder).total
        ratio = bytes_per_token(run.ground.dataset)
        summary = summarise(run.folder, run.spec, parameters, ratio, sample)
        page = run_page(run.folder, run.spec, summary)
        run.folder.report.write_text(page, encoding="utf-8")
    console.print(render_terminal(summary))
