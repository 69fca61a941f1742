"""Leave-one-out: which of the accepted changes still earn their place?

Each change from generation 0 is taken back on its own, where what remains is within the campaign's
bounds (a width that made up for layers must not go alone). Where the recipe without it is on the mean
no worse over `PAIRS` fresh seeds, or gives the very same losses (it was never active), it goes.
This is an estimate and no test: it makes recipes simpler at an expected cost of nothing, and the
vault measures what remains.
"""

import math

from duckweed.evolve.decide.requests import Allowed, Note, Standing, Steps, run
from duckweed.evolve.decide.trial_spec import Cell, Recipe, seed_of

PAIRS = 3


def pruning_cost(standing: Standing) -> float:
    return (len(changes(standing)) + 1) * PAIRS * standing.settings.budget


def changes(standing: Standing) -> list[str]:
    """Keys in which the parent differs from generation 0."""
    keys = sorted(set(standing.parent) | set(standing.zero))
    return [k for k in keys if standing.parent.get(k) != standing.zero.get(k)]


def without(standing: Standing, key: str) -> Recipe:
    """The parent with one key as in generation 0."""
    rest = {k: v for k, v in standing.parent.items() if k != key}
    return rest | {key: standing.zero[key]} if key in standing.zero else rest


def prune(standing: Standing) -> Steps[bool]:
    """Takes back what does not help; whether anything went."""
    s = standing.settings
    changed = changes(standing)
    allowed = yield Allowed([without(standing, key) for key in changed])
    keys = [key for key, fine in zip(changed, allowed, strict=True) if fine]
    if not keys:
        return False
    recipes = [standing.parent, *(without(standing, key) for key in keys)]
    groups = [
        [
            Cell(recipe, seed_of("prune", s.seed, standing.generation, i), s.budget)
            for recipe in recipes
        ]
        for i in range(PAIRS)
    ]
    results, _ = yield from run(standing, groups, "pruning")
    harm: dict[str, float] = {}
    for place, key in enumerate(keys, 1):
        losses = [row[place].value - row[0].value for row in results]
        usable = [x for x in losses if not math.isnan(x)]
        harm[key] = sum(usable) / len(usable) if usable else math.inf
    # One at a time: two changes that do the same would both look superfluous.
    worst = min(harm, key=lambda key: harm[key])
    gone = worst if harm[worst] <= 0 else None
    body = {
        "harm_without": {k: (v if math.isfinite(v) else None) for k, v in harm.items()},
        "taken_back": gone,
        "recipe": standing.parent if gone is None else without(standing, gone),
        "spent": standing.spent,
    }
    yield Note("pruning", body)
    if gone is not None:
        standing.parent = without(standing, gone)
    return gone is not None
