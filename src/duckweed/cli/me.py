"""`duckweed me`: what this machine has given to all runs, and records of it."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors

console = PlainConsole()
WIDE = 1000  # characters: a folder is not broken in two, so that it can be copied


def register(app: typer.Typer) -> None:
    app.command()(me)


@plain_errors
def me(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="With --check: a folder of the run, or its name under runs/, or a ledger."
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a signed record of what the peer of this folder has given to its run.",
        ),
    ] = None,
    note: Annotated[
        str, typer.Option(help="With --record: your own words in it, such as your name.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="With --record: the file. Default: record.json in the folder."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Check somebody's record against a copy of the ledger."),
    ] = None,
) -> None:
    """What this machine has given to the runs that it took part in: tokens, rounds, share, place.

    The figures are those of the peer's own copy of each run's ledger, as of the last time that it took part.
    A record is signed with the peer's key and names the ledger's head, so that anybody who has the ledger
    can check it.
    """
    if (run is None) != (check is None) or (record and check) or ((note or out) and not record):
        fail(
            "one of: duckweed me; duckweed me --record FOLDER [--note TEXT] [--out FILE]; "
            "duckweed me --check FILE RUN"
        )
    if record:
        _record(record, note, out)
    elif check and run:
        _check(check, run)
    else:
        _given()


def _record(place: Path, note: str, out: Path | None) -> None:
    from duckweed.net.identity import load_or_create
    from duckweed.run import folder as folders
    from duckweed.run.folder import write_atomically
    from duckweed.volunteer import record as records

    folder = folders.find(place)
    key = folder.peer(0) / "key"
    if not key.is_file():
        fail(f"{folder.path}: no peer of this machine has taken part from this folder")
    made = records.make(folder.ledger, load_or_create(key), note)
    out = out or folder.path / "record.json"
    write_atomically(out, records.write(made))
    console.print(
        f"Wrote {out}: {made.tokens:,} tokens in {made.rounds:,} rounds, up to entry {made.entry} of the "
        f"ledger, signed with key {made.key[:16]}. Whoever has the ledger checks it: duckweed me --check "
        f"{out.name} RUN",
        soft_wrap=True,
    )


def _check(file: Path, place: Path) -> None:
    from duckweed.run import folder as folders
    from duckweed.volunteer import record as records

    ledger = place if place.is_file() else folders.find(place).ledger
    held = records.check(records.read(file), ledger)
    console.print(held.sentence() + ".", soft_wrap=True)
    console.print(
        f"ledger   {ledger}: {held.entries:,} entries, chain and signatures hold; the run's first coordinator is "
        f"{held.coordinator}: whether that is the run you mean, ask its organiser",
        soft_wrap=True, style="dim",
    )  # fmt: skip
    if held.unsigned:
        console.print(
            f"{held.unsigned} of its contributions carry no signature of the peer: of these there is only the "
            "coordinator's word",
            soft_wrap=True,
        )


def _given() -> None:
    """All runs of this machine."""
    from duckweed.run.units import show_count
    from duckweed.volunteer.given import known

    found = known()
    if not found:
        console.print(
            "This machine has taken part in no run yet; an organiser's invitation is the way in: "
            "duckweed join INVITATION",
            soft_wrap=True,
        )
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("run", "tokens", "rounds", "share", "place", "as of", "folder"):
        right = name in ("tokens", "rounds", "share")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for one in found:
        as_of = "over" if one.over else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.time))
        table.add_row(
            one.run[:12], show_count(one.tokens), f"{one.rounds:,}", f"{one.share:.0%}",
            f"{one.place} of {one.peers}", as_of, one.home,
        )  # fmt: skip
    wide = PlainConsole()
    wide.width = WIDE
    wide.print(table)
    tokens, rounds = sum(x.tokens for x in found), sum(x.rounds for x in found)
    console.print(
        f"\nIn all: {show_count(tokens)} tokens in {rounds:,} rounds of {len(found)} runs."
    )
