"""The vault: held-out text and seeds that nothing else uses, on which a generation is compared
directly with generation 0. What it says is reported, and never decides anything."""

import msgspec

from duckweed.evolve.cell import Cell, seed_of
from duckweed.evolve.multiplier import Multiplier, MultiplierError, Run, fit
from duckweed.evolve.step import Note, Standing, Steps, run


def open_vault(standing: Standing) -> Steps[None]:
    """Both recipes at every budget and vault seed; the ledger has what came out.

    The runs of generation 0 are done once and serve every generation: since the vault decides
    nothing, that makes the generations' errors alike, and none of them wrong.
    """
    s = standing.settings
    seeds = [seed_of("vault", s.seed, i) for i in range(s.vault_seeds)]
    cells = [
        [
            Cell(recipe, seed, share * s.budget, split="vault")
            for recipe in (standing.zero, standing.parent)
        ]
        for share in s.vault_shares
        for seed in seeds
    ]
    results, _ = yield from run(standing, cells, "vault")
    runs = [
        Run(group[arm].budget, row[arm].value, bool(arm))
        for group, row in zip(cells, results, strict=True)
        for arm in (0, 1)
    ]
    found, fault = None, ""
    try:
        found = fit(runs)
    except MultiplierError as error:
        fault = str(error)
    yield Note("vault", {"found": _plain(found), "fault": fault, "spent": standing.spent})


def _plain(found: Multiplier | None) -> object:
    return None if found is None else msgspec.to_builtins(found)
