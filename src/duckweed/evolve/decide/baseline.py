"""Generation 0: a plain recipe, fairly tuned, and the noise of its runs.

Tuning comes before anything is proposed: the learning rate over `Settings.rates`, then half and
twice the batch, each further on while the best lies at the edge, then the rate once more if the
batch changed; the two best with two more seeds. An untuned baseline is the most common reason why
improvements are imagined (Wen et al. 2509.02046).
"""

import math

from duckweed.evolve.decide.requests import (
    AskAllowed,
    CampaignState,
    Record,
    RequireBudget,
    Steps,
    run_trials,
)
from duckweed.evolve.entries import PilotEntry, Tried, TuningEntry
from duckweed.evolve.statistics import sequential
from duckweed.evolve.trial_spec import Recipe, TrialSpec, digest, seed_of

EDGE = 3  # times that tuning goes on beyond an edge


class PilotError(ValueError):
    """The noise cannot be measured, or nothing could be found with this budget."""


def pilot_cost(state: CampaignState) -> float:
    """FLOPs until the first decision can fall: tuning, pilot, one round of screening and
    confirmation, and the final comparison of its result."""
    s = state.settings
    tuning = (len(s.rates) + 2 * EDGE + 2 + 2 + 4 + 1) * s.budget
    return tuning + 2 * s.pilot * s.budget + round_cost(state)


def round_cost(state: CampaignState) -> float:
    """FLOPs of one round at most: screening, confirmation, scale check, check, comparison."""
    s = state.settings
    screening = (math.log2(max(2, s.candidates)) * 2 + 2) * s.budget
    size = 2 * s.scale_pairs * s.scale * s.budget
    return screening + (2 * s.pairs + 2) * s.budget + size + comparison_cost(state)


def comparison_cost(state: CampaignState) -> float:
    """FLOPs of one final comparison; generation 0 runs at the first one only. Its longer runs are not
    reserved: their number is known only then (`final_comparison.compare_with_zero`)."""
    s = state.settings
    arms = 1 if state.generation else 2
    return arms * s.vault_seeds * sum(s.vault_shares) * s.budget


class _Tuning:
    """Recipes that were tried and their losses."""

    def __init__(self, state: CampaignState) -> None:
        self.state = state
        self.recipes: dict[str, Recipe] = {}  # by digest
        self.losses: dict[str, list[float]] = {}  # at the whole budget, by digest

    def best(self, count: int) -> list[Recipe]:
        """Those with the lowest mean loss."""
        mean = {name: sum(found) / len(found) for name, found in self.losses.items()}
        return [self.recipes[name] for name in sorted(mean, key=mean.__getitem__)[:count]]

    def measure(self, recipes: list[Recipe], number: int, share: float = 1.0) -> Steps[list[float]]:
        """Losses on the seed of this number, of the recipes that a campaign may run: a batch that
        leaves the shortest trials too few steps is none to start from."""
        s = self.state.settings
        allowed: list[bool] = yield AskAllowed(recipes)
        recipes = [recipe for recipe, fine in zip(recipes, allowed, strict=True) if fine]
        if not recipes:
            return []
        seed = seed_of("tuning", s.seed, number)
        groups = [[TrialSpec(recipe, seed, share * s.budget)] for recipe in recipes]
        results, _ = yield from run_trials(self.state, groups, "tuning")
        losses = [row[0].value for row in results]
        if share == 1.0:
            for recipe, loss in zip(recipes, losses, strict=True):
                self.recipes[digest(recipe)] = recipe
                self.losses.setdefault(digest(recipe), []).append(loss)
        return losses

    def halve_and_double(self, key: str) -> Steps[None]:
        """The best recipe with half and twice the value of one key."""
        top = self.best(1)[0]
        yield from self.measure([_scaled(top, key, factor) for factor in (0.5, 2.0)], 0)

    def climb(self, key: str) -> Steps[None]:
        """Half and twice the value of one key while the best lies at the edge of what was tried."""
        for _ in range(EDGE):
            top = self.best(1)[0]
            tried = {float(r[key]) for r in self.recipes.values()}
            new = [_scaled(top, key, factor) for factor in (0.5, 2.0)]
            new = [r for r in new if float(r[key]) not in tried]
            if not new or min(tried) < float(top[key]) < max(tried):
                return
            yield from self.measure(new, 0)

    def choose(self) -> Steps[Recipe]:
        """The better of the two best after two more seeds."""
        finalists = self.best(2)
        for number in (1, 2):
            yield from self.measure(finalists, number)
        zero = min(finalists, key=lambda recipe: sum(self.losses[digest(recipe)]))
        if not math.isfinite(sum(self.losses[digest(zero)])):
            raise PilotError(
                "the plain recipe diverges at every learning rate that was tried; start from a calmer one"
            )
        return zero

    def slope(self, recipe: Recipe) -> Steps[float]:
        """Bits per byte per e-fold of compute, from two seeds at half the budget."""
        half: list[float] = []
        for number in (0, 1):
            half += yield from self.measure([recipe], number, 0.5)
        whole = self.losses[digest(recipe)][:2]
        return (sum(half) - sum(whole)) / 2 / math.log(2)


def tune(state: CampaignState, plain: Recipe) -> Steps[None]:
    """Sets state.zero, parent and slope; `plain` holds the keys that are tuned."""
    s = state.settings
    tuning = _Tuning(state)
    yield from tuning.measure([_scaled(plain, s.rate, factor) for factor in s.rates], 0)
    yield from tuning.climb(s.rate)
    before = tuning.best(1)[0][s.batch]
    yield from tuning.halve_and_double(s.batch)
    yield from tuning.climb(s.batch)
    if tuning.best(1)[0][s.batch] != before:
        yield from tuning.halve_and_double(s.rate)
    zero = yield from tuning.choose()
    state.zero = state.parent = zero
    state.slope = yield from tuning.slope(zero)
    tried = [Tried(tuning.recipes[name], [*losses]) for name, losses in tuning.losses.items()]
    yield Record(TuningEntry(zero, tried, state.slope))
    if not state.slope > 0:
        raise PilotError(
            f"with twice the compute the loss does not fall (slope {state.slope:.3g} bits per byte "
            "per e-fold), so a gain in loss is no gain in compute; give a larger --trial"
        )


def _scaled(recipe: Recipe, key: str, factor: float) -> Recipe:
    """The recipe with one number multiplied; a batch stays whole."""
    value = recipe[key]
    if isinstance(value, int):
        return recipe | {key: max(1, round(value * factor))}
    return recipe | {key: float(f"{float(value) * factor:.4g}")}


def pilot(state: CampaignState) -> Steps[None]:
    """Parent against itself: sets state.noise and says what can be found."""
    s = state.settings
    yield RequireBudget((2 * s.pilot) * s.budget + round_cost(state), "the A/A pilot and one round")
    groups = [
        [TrialSpec(state.zero, seed_of("pilot", s.seed, i, arm), s.budget) for arm in (0, 1)]
        for i in range(s.pilot)
    ]
    results, _ = yield from run_trials(state, groups, "pilot")
    found = sequential.pilot([a.value - b.value for a, b in results])
    level = state.spending.level
    smallest = sequential.smallest_effect(found.sd, level, s.pairs)
    if not math.isfinite(smallest):
        raise PilotError(
            f"at most {s.pairs} pairs cannot pass the first level {level:.2g} however large the "
            "effect; allow more pairs or plan fewer confirmations"
        )
    state.noise = found.sd
    yield Record(
        PilotEntry(
            pairs=found.pairs,
            sd=found.sd,
            mean=found.mean,
            t=found.t,
            level=level,
            smallest=smallest,
            smallest_multiplier=math.exp(min(50.0, smallest / state.slope)),
            spent=state.spent,
        )
    )
