"""What a campaign leaves: the evolved recipe as a file, and its returns."""

from pathlib import Path

import msgspec

from duckweed.evolve.campaign.folder import Campaign
from duckweed.evolve.campaign.history import History, read
from duckweed.evolve.space.recipe import specification
from duckweed.evolve.statistics import returns
from duckweed.evolve.statistics.returns import Returns
from duckweed.ledger.ledger import Ledger
from duckweed.run import recipe as recipes
from duckweed.run.folder import write_atomically
from duckweed.run.spec import RunSpec


class Left(msgspec.Struct, frozen=True):
    """The history, the returns, and the specification that the vault stands behind."""

    history: History
    returns: Returns
    recipe: RunSpec


def leave(folder: Campaign) -> Left:
    """Write evolved.toml and returns.json as of now."""
    ledger = Ledger(folder.ledger)
    history = read(ledger)
    ledger.close()
    found = returns.returns(history.points(), max(history.before, 1.0))
    returns.write(found, folder.path, folder.path.name)
    spec = specification(folder.plain(), history.recipe())
    write_atomically(folder.evolved, (_headline(history) + recipes.write(spec)).encode())
    return Left(history, found, spec)


def _headline(history: History) -> str:
    best = history.best()
    if best is None or best.vault is None:
        return "# generation 0 of a campaign: tuned, nothing better was confirmed\n"
    r = best.vault.reported
    found = (
        f"# generation {best.number}: {r.m:.2f}x the compute of generation 0 saved "
        f"({best.vault.level:.0%} interval {r.interval}), measured in the vault at "
        f"{r.budget:.2g} FLOPs a run\n"
    )
    return found + (f"# {best.vault.caution}\n" if best.vault.caution else "")


def exported(folder: Campaign, path: Path) -> None:
    """The ledger as JSON lines that a person can read and anyone can check: number, kind,
    generation, body, hash, signature."""
    ledger = Ledger(folder.ledger)
    lines = list(ledger.exported())
    ledger.close()
    write_atomically(path, b"\n".join(lines) + b"\n")
