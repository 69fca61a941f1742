"""`duckweed status`: how a run is doing, asked of its coordinator."""

import asyncio
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import plain_errors
from duckweed.run.units import show_count, show_size, show_time

if TYPE_CHECKING:
    from duckweed.run.folder import RunFolder
    from duckweed.swarm.protocol.status import Status

console = PlainConsole()
SHOWN = 40  # peers; the others are counted


def register(app: typer.Typer) -> None:
    app.command()(status)


@plain_errors
def status(
    run: Annotated[str, typer.Argument(help="The folder of a run, its name, or an invitation.")],
    all_: Annotated[bool, typer.Option("--all", help="Show every peer.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """How a run is doing: round, loss, what each peer does, bytes, and what was refused."""
    import msgspec

    from duckweed.net.identity import Identity
    from duckweed.net.transport import LinkError
    from duckweed.run import folder as folders
    from duckweed.swarm.peer.status_client import status as ask
    from duckweed.swarm.protocol import invitation as invitations
    from duckweed.swarm.protocol.client import AnswerError

    identity = Identity(os.urandom(32))
    if run.startswith(invitations.PREFIX):
        found = asyncio.run(ask(invitations.read(run), identity))
    else:
        folder = folders.find(Path(run))
        try:
            there = invitations.published(folder).with_secret(folder.read_secret())
            found = asyncio.run(ask(there, identity))
        except AnswerError:  # it is served, and the coordinator does not want to say
            raise
        except (invitations.InvitationError, LinkError, PermissionError):
            _at_rest(folder)
            return
    if json:
        print(msgspec.json.encode(found).decode())
    else:
        _print(found, None if all_ else SHOWN)


def _print(found: "Status", shown: int | None) -> None:
    loss = "".join(
        f", {name} {value:.3f} nats per token"
        for name, value in (("held-out loss", found.held_out), ("training loss", found.loss))
        if value is not None and math.isfinite(value)
    )
    here = sum(x.here for x in found.peers)
    over = found.round >= found.rounds
    if over:
        console.print(
            f"run {found.run[:12]} is over: all {found.rounds} rounds are done{loss}; {found.members} peers "
            "took part. Model and report are in its folder on the organiser's machine.",
            soft_wrap=True,
        )
    else:
        console.print(
            f"run {found.run[:12]}: {found.round} of {found.rounds} rounds done{loss}; "
            f"{here} of {found.members} peers here"
            + (f"; the last round took {show_time(found.seconds)}" if found.seconds else "")
        )
    if over and shown is not None:
        return
    if found.waiting and not over:
        console.print(found.waiting, style="dim")
    if found.leader:
        console.print(f"leader: {found.leader}", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("peer", "key", "doing", "step", "loss", "counted", "heard"):
        table.add_column(name, justify="left" if name in ("key", "doing") else "right")
    if wrote := any(x.wrote for x in found.peers):
        table.add_column("wrote", justify="right")
    for x in found.peers[:shown]:
        table.add_row(
            str(x.peer), x.key[:10], x.doing, str(x.step or ""), f"{x.loss:.3f}" if x.loss else "",
            str(x.counted), f"{x.heard:.0f} s ago" if x.heard else "",
            *([f"{show_count(x.wrote)} tokens" if x.wrote else ""] if wrote else []),
        )  # fmt: skip
    if table.row_count:
        console.print(table)
    if shown is not None and len(found.peers) > shown:
        console.print(f"and {len(found.peers) - shown} more (--all)", style="dim")
    for purpose, (received, sent) in sorted(found.traffic.items()):
        console.print(f"{purpose}: {show_size(received)} received, {show_size(sent)} sent")
    for reason, count in sorted(found.refused.items()):
        console.print(f"refused: {count:,} x {reason}")


def _at_rest(folder: "RunFolder") -> None:
    """What the files tell of a run that nobody serves at the moment."""
    from duckweed.ledger.entries import RoundEntry, StateEntry
    from duckweed.ledger.ledger import Ledger
    from duckweed.run import spec as specs
    from duckweed.run.events import FinalLoss, RunEnded

    ledger = Ledger(folder.ledger)
    closed = sum(1 for _ in ledger.entries(RoundEntry))
    count = specs.rounds(folder.spec.read_text("utf-8"), str(folder.spec)).count
    over = "over" in folder.local() or ledger.last_round(StateEntry) == count
    ledger.close()
    ours = folder.coordinator_key.exists()
    if over:
        final = list(folder.records(FinalLoss))
        loss = f", held-out loss {final[-1].held_out:.3f} nats per token" if final else ""
        console.print(f"{folder.path} is over: all {count} rounds are done{loss}.", soft_wrap=True)
        if folder.report.is_file() and (folder.model / "config.json").is_file():
            console.print(f"report   {folder.report}\nmodel    {folder.model}", soft_wrap=True)
        elif ours:
            again = f"duckweed serve {folder.path}"
            console.print(f"Model and report are not written yet; write them with: {again}")
        else:
            console.print("Model and report are in its folder on the organiser's machine.")
    else:
        console.print(
            f"{folder.path} is not being served at the moment; {closed} rounds are closed. "
            f"Go on with: duckweed {'serve' if ours else 'join --home'} {folder.path}"
        )
    for last in list(folder.records(RunEnded))[-1:]:
        for reason, number in sorted(last.refused.items()):
            console.print(f"refused: {number:,} x {reason}")
