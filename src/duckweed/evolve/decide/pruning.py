"""Leave-one-out: which of the accepted changes still earn their place?

Each change from generation 0 is taken back on its own, where what remains is within the campaign's
bounds (a width that made up for layers must not go alone). Where the recipe without it is no worse in
the mean over `PAIRS` fresh seeds, or gives the same losses (it was never active), it is removed.
This is an estimate and no test: it makes recipes simpler at an expected cost of nothing, and the
final comparison measures what remains.
"""

import math

from duckweed.evolve.decide.requests import AskAllowed, CampaignState, Record, Steps, run_trials
from duckweed.evolve.entries import PruningEntry
from duckweed.evolve.trial_spec import Recipe, TrialSpec, seed_of

PAIRS = 3  # seeds on which each recipe is run


def pruning_cost(state: CampaignState) -> float:
    """FLOPs of one leave-one-out."""
    return (len(changes(state)) + 1) * PAIRS * state.settings.budget


def changes(state: CampaignState) -> list[str]:
    """Keys in which the parent differs from generation 0."""
    keys = sorted(set(state.parent) | set(state.zero))
    return [k for k in keys if state.parent.get(k) != state.zero.get(k)]


def without(state: CampaignState, key: str) -> Recipe:
    """The parent with one key as in generation 0."""
    rest = {k: v for k, v in state.parent.items() if k != key}
    return rest | {key: state.zero[key]} if key in state.zero else rest


def prune(state: CampaignState) -> Steps[bool]:
    """Takes back the change that helps least if it does not help; whether it did."""
    s = state.settings
    changed = changes(state)
    allowed = yield AskAllowed([without(state, key) for key in changed])
    keys = [key for key, fine in zip(changed, allowed, strict=True) if fine]
    if not keys:
        return False
    recipes = [state.parent, *(without(state, key) for key in keys)]
    groups = [
        [
            TrialSpec(recipe, seed_of("prune", s.seed, state.generation, i), s.budget)
            for recipe in recipes
        ]
        for i in range(PAIRS)
    ]
    results, _ = yield from run_trials(state, groups, "pruning")
    harm: dict[str, float] = {}
    for place, key in enumerate(keys, 1):
        losses = [row[place].value - row[0].value for row in results]
        usable = [x for x in losses if not math.isnan(x)]
        harm[key] = sum(usable) / len(usable) if usable else math.inf
    # One at a time: two changes that do the same would both look superfluous.
    worst = min(harm, key=lambda key: harm[key])
    removed = worst if harm[worst] <= 0 else None
    if removed is not None:
        state.parent = without(state, removed)
    finite = {k: (v if math.isfinite(v) else None) for k, v in harm.items()}
    yield Record(PruningEntry(finite, removed, state.parent, state.spent))
    return removed is not None
