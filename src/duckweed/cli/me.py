"""`duckweed me`: what this machine has given to all runs."""

import time

import typer
from rich.table import Table

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import plain_errors

console = PlainConsole()


def register(app: typer.Typer) -> None:
    app.command()(me)


@plain_errors
def me() -> None:
    """What this machine has given to the runs that it took part in: tokens, rounds, share, place.

    The figures are those of the peer's own copy of each run's ledger, as of the last time that it took part.
    """
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
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for one in found:
        as_of = "over" if one.over else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.time))
        table.add_row(
            one.run[:12], show_count(one.tokens), f"{one.rounds:,}", f"{one.share:.0%}",
            f"{one.place} of {one.peers}", as_of, one.home,
        )  # fmt: skip
    console.print(table)
    tokens, rounds = sum(x.tokens for x in found), sum(x.rounds for x in found)
    console.print(
        f"\nIn all: {show_count(tokens)} tokens in {rounds:,} rounds of {len(found)} runs."
    )
