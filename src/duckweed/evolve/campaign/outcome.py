"""The results of a campaign: the evolved recipe and the returns as files, and the ledger as lines."""

from pathlib import Path

import msgspec

from duckweed.evolve.campaign.history import History, read
from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.space.recipe import specification
from duckweed.evolve.statistics import returns
from duckweed.evolve.statistics.returns import Returns
from duckweed.ledger.ledger import Ledger
from duckweed.run import recipe as recipes
from duckweed.run.folder import write_atomically
from duckweed.run.spec import RunSpec


class CampaignOutcome(msgspec.Struct, frozen=True):
    """What a campaign found so far."""

    history: History
    returns: Returns
    recipe: RunSpec  # the last one that was compared with generation 0


def write_outcome(folder: CampaignFolder) -> CampaignOutcome:
    """Write evolved.toml and returns.json as of now."""
    ledger = Ledger(folder.ledger)
    history = read(ledger)
    ledger.close()
    found = returns.returns(history.points(), max(history.before, 1.0))
    write_atomically(folder.returns, returns.encode(found, folder.path.name))
    spec = specification(folder.plain(), history.recipe())
    write_atomically(folder.evolved, (_headline(history) + recipes.write(spec)).encode())
    return CampaignOutcome(history, found, spec)


def _headline(history: History) -> str:
    best = history.best()
    if best is None or best.comparison is None:
        return "# generation 0 of a campaign: tuned, nothing better was confirmed\n"
    r = best.comparison.reported
    found = (
        f"# generation {best.number}: {r.m:.2f}x the compute of generation 0 saved "
        f"({best.comparison.level:.0%} interval {r.interval}), measured on held-out text at "
        f"{r.budget:.2g} FLOPs a run\n"
    )
    return found + (f"# {best.comparison.caution}\n" if best.comparison.caution else "")


def export_ledger(folder: CampaignFolder, path: Path) -> None:
    """The ledger as JSON lines that a person can read and anyone can check: number, kind,
    generation, body, hash, signature."""
    ledger = Ledger(folder.ledger)
    lines = list(ledger.exported())
    ledger.close()
    write_atomically(path, b"\n".join(lines) + b"\n")
