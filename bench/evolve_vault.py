"""The vault of a finished campaign, opened again by this version: its last recipe against generation 0.

    python -m bench.evolve_vault evolve/campaign-1 vault.json

Runs that are in the campaign's ledger are taken from there, those that are missing are run: of
generation 0 at larger budgets, until it has the recipe's loss. The campaign is left as it is, save for
its folder `work`. Writes all runs and the multiplier to the file that is named.
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from duckweed.evolve.campaign.create import SAME_TRIALS, check_format
from duckweed.evolve.campaign.folder import Campaign, find
from duckweed.evolve.campaign.history import read
from duckweed.evolve.decide.campaign import begin
from duckweed.evolve.decide.final_comparison import open_vault
from duckweed.evolve.decide.requests import Afford, Note, Run, Settings, Standing
from duckweed.evolve.decide.trial_spec import Cell, Result
from duckweed.evolve.entries import TrialEntry
from duckweed.evolve.statistics.multiplier import Multiplier
from duckweed.evolve.workers.pool import Pool
from duckweed.evolve.workers.rerun import LONGEST
from duckweed.ledger.ledger import Ledger


def main() -> None:
    campaign, record = find(Path(sys.argv[1])), Path(sys.argv[2])
    standing, results = known(campaign)
    with Pool(campaign, 1) as pool:
        cells, body = opened(standing, results, pool)
    result = {
        "found": body["found"],
        "fault": body["fault"],
        "runs": [
            {"child": cell.recipe != standing.zero, "budget": cell.budget, **msgspec.to_builtins(results[cell.id])}
            for cell in cells
        ],
    }  # fmt: skip
    record.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if body["found"] is None:
        print(body["fault"])
        return
    found = msgspec.convert(body["found"], Multiplier)
    print(f"{found.reported} {found.caution}")
    for at in found.by_budget:
        print(f"  at {at.budget:.2g} FLOP: {at if at.known else 'not known'}")


def known(campaign: Campaign) -> tuple[Standing, dict[str, Result]]:
    """The campaign's last measured recipe as the one in force, and all results of its ledger."""
    ledger = Ledger(campaign.ledger)
    told = read(ledger)
    check_format(campaign, told.genesis, SAME_TRIALS)
    results = {entry.body.cell: entry.body.result for entry in ledger.entries(TrialEntry)}
    ledger.close()
    if told.tuning is None:
        raise SystemExit(f"{campaign.path}: generation 0 was never tuned")
    standing = begin(msgspec.convert(told.genesis.settings, Settings, strict=False))
    standing.zero, standing.parent = told.tuning.zero, told.recipe()
    return standing, results


def opened(
    standing: Standing, results: dict[str, Result], pool: Pool
) -> tuple[list[Cell], dict[str, Any]]:
    """Opens the vault; results grows by what is run. Returns its cells and what it notes."""
    steps, answer, cells = open_vault(standing), None, []
    while True:
        match steps.send(answer):
            case Run(groups, _):
                asked = [cell for group in groups for cell in group]
                fill(results, [cell for cell in asked if cell.id not in results], pool)
                answer = [[results[cell.id] for cell in group] for group in groups]
                cells += asked
            case Afford():
                answer = True
            case Note(_, body):
                return cells, body


def fill(results: dict[str, Result], missing: list[Cell], pool: Pool) -> None:
    def done(cell: Cell, result: Result) -> None:
        results[cell.id] = result
        print(f"{cell.budget:.3g} FLOP: {result.value:.4f} in {result.seconds:.0f} s", flush=True)

    pool.run([[cell] for cell in missing], done, lambda: None, LONGEST)


if __name__ == "__main__":
    main()
