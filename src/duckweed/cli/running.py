"""What the commands that train have in common: open a run, watch it, bring in the harvest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from duckweed.cli.console import PlainConsole
from duckweed.cli.errors import STOPPED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from duckweed.cli.views.live import View
    from duckweed.round.founding import Ground
    from duckweed.run.events import Event
    from duckweed.run.folder import RunFolder
    from duckweed.run.spec import RunSpec

console = PlainConsole()


@dataclass(frozen=True)
class Opened:
    """A run that is ready to be trained on this machine."""

    folder: RunFolder
    spec: RunSpec
    ground: Ground
    device: str


def begin(
    spec: RunSpec, base: Path, runs: Path, name: str, device: str, threads: int, peers: int
) -> Opened:
    """A new run in the folder runs/name, which is there once the run is founded; peers: how many will
    share this machine."""
    from duckweed.run import folder as folders

    try:
        with folders.founding(runs, name) as folder, console.status("loading PyTorch") as status:
            device = _device(device, threads)
            from duckweed.round import founding

            ground = founding.prepare(spec, base, status.update)
            founding.found(spec, ground, folder, device, peers, status.update)
    except KeyboardInterrupt:
        console.print("Stopped before the run had begun; nothing is left of it.")
        raise typer.Exit(STOPPED) from None
    return _told(Opened(folders.RunFolder(runs / name), spec, ground, device))


def reopen(folder: RunFolder, device: str, threads: int) -> Opened:
    """A run that exists. Raises FolderError if it never began."""
    from duckweed.run import spec as specs
    from duckweed.run.folder import FolderError

    if not folder.founded:
        raise FolderError(
            f"{folder.path}: this run never began; what made it was ended before. Remove the folder and "
            "give the command that began it again"
        )
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
    """Says what was understood, before anything is trained."""
    console.print(understood(run))
    return run


def understood(run: Opened) -> RenderableType:
    """What will be trained, on what, and for how long; one line of each, wrapped where it is too long."""
    from rich.table import Table
    from rich.text import Text

    from duckweed.round import founding
    from duckweed.run.units import show_count, show_size

    spec, facts = run.spec, run.ground.dataset.manifest
    parameters, rounds = founding.layout(run.folder).total, spec.rounds
    family = founding.configuration(spec, run.ground).model_type
    tokens = spec.tokens_per_block * rounds.peers * rounds.count
    peers = f"{rounds.peers} peer{'' if rounds.peers == 1 else 's'}"
    lines = {
        "run": f"{run.folder.path}: {peers} on {run.device}, {rounds.count} rounds of "
        f"{spec.inner.steps} steps",
        "data": f"{', '.join(spec.data.paths)}: {facts.told()}",
        "": f"{show_size(facts.train_bytes)} to train on, {show_size(facts.held_out_bytes)} held out; "
        f"blake3 {facts.hash[:16]}",
        "tokenizer": f"{spec.data.tokenizer}, {facts.vocabulary:,} tokens",
        "model": f"{spec.model.source} ({family}), {parameters:,} parameters, "
        + ("with given weights" if spec.model.weights == "given" else "from scratch"),
        "training": f"{show_count(tokens)} tokens, {tokens / parameters:.3g} a parameter; {_time(run)}",
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    for what, words in lines.items():
        table.add_row(Text(what, "dim"), words)
    return table


def _time(run: Opened) -> str:
    """How long what is left will take, by the rounds of this run so far."""
    from statistics import median

    from duckweed.run.events import RoundClosed
    from duckweed.run.units import show_time

    closed = closed_rounds(run.folder)
    left = run.spec.rounds.count - closed
    took = [event.seconds for event in run.folder.records(RoundClosed)]
    if not left:
        return "all rounds are done"
    if not took:
        return "how long it takes shows after the first round"
    return f"{closed} rounds are done, about {show_time(left * median(took))} are left"


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


@contextmanager
def stoppable(run: Opened, again: str) -> Iterator[None]:
    """Training and what follows it: when Ctrl-C ends that, say how to go on; exit code 130. again: the
    command that goes on, without the folder."""
    try:
        yield
    except KeyboardInterrupt:
        _stopped(run, again)
    if not trained(run):
        _stopped(run, again)


def _stopped(run: Opened, again: str) -> NoReturn:
    what = (
        "Stopped before model and report were written; the training is done. Write them with"
        if trained(run)
        else f"Stopped after {closed_rounds(run.folder)} closed rounds; nothing of them is lost. "
        "Go on with"
    )
    console.print(f"\n{what}: {again} {run.folder.path}", soft_wrap=True)
    raise typer.Exit(STOPPED)


def finish(run: Opened) -> None:
    """After the last round: measure, export, report, where that is not done."""
    folder = run.folder
    if not trained(run):
        return
    if folder.report.is_file() and (folder.model / "config.json").is_file():
        console.print(
            "This run is finished: all rounds are done, the model and the report are written.\n"
            f"report   {folder.report}\n"
            f"model    {folder.model}",
            soft_wrap=True,
        )
    else:
        console.print(_harvest(run))


def trained(run: Opened) -> bool:
    """Whether all rounds are closed, and the peers have agreed on the last state."""
    from duckweed.ledger.entries import StateEntry
    from duckweed.ledger.ledger import Ledger

    with closing(Ledger(run.folder.ledger)) as ledger:
        return ledger.last_round(StateEntry) == run.spec.rounds.count


def closed_rounds(folder: RunFolder) -> int:
    """How many rounds the ledger closes."""
    from duckweed.ledger.entries import RoundEntry
    from duckweed.ledger.ledger import Ledger

    with closing(Ledger(folder.ledger)) as ledger:
        last = ledger.last_round(RoundEntry)
    return 0 if last is None else last + 1


def _harvest(run: Opened) -> RenderableType:
    """Write the model and, last, the report; returns the end of what the command prints."""
    from duckweed.cli.views.summary import render_terminal
    from duckweed.pages.run_page import run_page
    from duckweed.pages.run_summary import summarise
    from duckweed.round import founding
    from duckweed.round.export import bytes_per_token, harvest
    from duckweed.run.folder import write_atomically

    with console.status("measuring and exporting the model"):
        sample = harvest(run.folder, run.spec, run.ground, run.device)
        parameters = founding.layout(run.folder).total
        ratio = bytes_per_token(run.ground.dataset)
        summary = summarise(run.folder, run.spec, parameters, ratio, sample)
        page = run_page(run.folder, run.spec, summary)
        write_atomically(run.folder.report, page.encode())
    return render_terminal(summary)
