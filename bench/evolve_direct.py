"""A finished campaign's recipe against generation 0 once more, directly, outside the campaign.

    python -m bench.evolve_direct evolve/campaign-1 direct.json

Both on the vault's text and seeds that the campaign never used. At twice the parameters and compute:
the multiplier at three budgets, three seeds each. At the campaign's own size: generation 0 with as
many times the compute as the campaign claims (lower end and middle of its interval) against the
evolved recipe with the reference budget, because such a multiplier reaches beyond the budgets that
the vault ran. Writes the file that is named.
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

import msgspec

from duckweed.evolve.cell import Cell, Recipe, Result, seed_of
from duckweed.evolve.folder import find
from duckweed.evolve.history import read
from duckweed.evolve.multiplier import Run, fit
from duckweed.evolve.pool import Pool
from duckweed.run.ledger import Ledger

SEEDS, SHARES, SIZE = 3, (0.5, 1.0, 2.0), 2


def main() -> None:
    campaign, record = find(Path(sys.argv[1])), Path(sys.argv[2])
    ledger = Ledger(campaign.ledger)
    told = read(ledger)
    ledger.close()
    best = told.best()
    assert told.tuning
    assert best
    assert best.vault
    zero, evolved = told.tuning["zero"], best.recipe
    budget = float(told.genesis["settings"]["budget"])

    with Pool(campaign, 1) as pool:

        def losses(recipe: Recipe, flops: float, size: int) -> list[float]:
            cells = [
                Cell(recipe, seed_of("direct", size, i), flops, size, "vault") for i in range(SEEDS)
            ]
            found: dict[str, Result] = {}
            pool.run([cells], lambda c, r: found.update({c.id: r}), lambda: None, 3600.0)
            values = [found[cell.id].value for cell in cells]
            print(
                f"size {size}, {flops:.3g} FLOP: {', '.join(f'{v:.4f}' for v in values)}",
                flush=True,
            )
            parameters.setdefault(size, []).append(found[cells[0].id].parameters)
            return values

        parameters: dict[int, list[int]] = {}
        runs = []
        for share in SHARES:
            for child, recipe in enumerate((zero, evolved)):
                flops = share * SIZE * budget
                runs += [Run(flops, loss, bool(child)) for loss in losses(recipe, flops, SIZE)]
        larger = fit(runs)
        claim = best.vault.reported
        at_reference = losses(evolved, budget, 1)
        longer = {f"{times:.2f}": losses(zero, times * budget, 1) for times in (claim.low, claim.m)}
    result = {
        "larger": msgspec.to_builtins(larger),
        "runs": msgspec.to_builtins(runs),
        "parameters": {size: [found[0], found[1]] for size, found in parameters.items()},
        "evolved at the reference budget": at_reference,
        "generation 0 with so many times the compute": longer,
    }
    record.write_text(json.dumps(msgspec.to_builtins(result), indent=1) + "\n", "utf-8")
    m = larger.reported
    print(f"{SIZE} times the size: {m.m:.2f} ({m.low:.2f} to {m.high:.2f}) {larger.caution}")
    print(f"evolved: {mean(at_reference):.4f} (sd {stdev(at_reference):.4f})")
    for times, found in longer.items():
        print(
            f"generation 0 with {times} times the compute: {mean(found):.4f} (sd {stdev(found):.4f})"
        )


if __name__ == "__main__":
    main()
