"""The vault: held-out text and seeds that nothing else uses, on which a generation is compared
directly with generation 0. What it says is reported, and never decides anything."""

import msgspec

from duckweed.evolve.decide.requests import Afford, Note, Standing, Steps, run
from duckweed.evolve.decide.trial_spec import Cell, Recipe, seed_of
from duckweed.evolve.statistics.multiplier import Multiplier, MultiplierError, Run, fit, reached

DOUBLINGS = 5  # of the largest budget, for generation 0 alone


def open_vault(standing: Standing) -> Steps[None]:
    """Both recipes at every budget and vault seed, then generation 0 at twice the largest budget
    and on, until it reaches the child's loss; the ledger has what came out.

    The runs of generation 0 are done once and serve every generation: since the vault decides
    nothing, that makes the generations' errors alike, and none of them wrong.
    """
    both, shares = [standing.zero, standing.parent], standing.settings.vault_shares
    groups = [group for share in shares for group in _cells(standing, both, share)]
    runs = yield from _compare(standing, groups)
    for doubling in range(1, DOUBLINGS + 1):
        if reached(runs):
            break
        longer = _cells(standing, [standing.zero], max(shares) * 2**doubling)
        if not (yield from _affordable(standing, longer)):
            break
        runs += yield from _compare(standing, longer)
    found, fault = None, ""
    try:
        found = fit(runs)
    except MultiplierError as error:
        fault = str(error)
    yield Note("vault", {"found": _plain(found), "fault": fault, "spent": standing.spent})


def _cells(standing: Standing, recipes: list[Recipe], share: float) -> list[list[Cell]]:
    """A group for each vault seed: the recipes at one share of the budget."""
    s = standing.settings
    seeds = [seed_of("vault", s.seed, i) for i in range(s.vault_seeds)]
    return [
        [Cell(recipe, seed, share * s.budget, split="vault") for recipe in recipes]
        for seed in seeds
    ]


def _compare(standing: Standing, groups: list[list[Cell]]) -> Steps[list[Run]]:
    """Run the cells; the first of each group is generation 0's."""
    results, _ = yield from run(standing, groups, "vault")
    return [
        Run(cell.budget, result.value, bool(arm))
        for group, row in zip(groups, results, strict=True)
        for arm, (cell, result) in enumerate(zip(group, row, strict=True))
    ]


def _affordable(standing: Standing, groups: list[list[Cell]]) -> Steps[bool]:
    """Whether the budget pays for those of the cells that were not run for an earlier generation."""
    flops = sum(cell.budget for group in groups for cell in group if cell.id not in standing.seen)
    if not flops:
        return True
    paid: bool = yield Afford(flops, "generation 0 at twice the largest budget of the vault")
    return paid


def _plain(found: Multiplier | None) -> object:
    return None if found is None else msgspec.to_builtins(found)
