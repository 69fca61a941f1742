"""Generation 0: a plain recipe, fairly tuned, and the noise of its runs.

Tuning comes before anything is proposed: the learning rate over `Settings.rates`, then half and
twice the batch, each further on while the best lies at the edge, then the rate once more if the
batch changed; the two best with two more seeds. An untuned baseline is the commonest way in which improvements are imagined (Wen et al. 2509.02046).
"""

import math

from duckweed.evolve.decide.requests import Allowed, Need, Note, Standing, Steps, run
from duckweed.evolve.decide.trial_spec import Cell, Recipe, digest, seed_of
from duckweed.evolve.statistics import sequential

EDGE = 3  # times that tuning goes on beyond an edge


class PilotError(ValueError):
    """The noise cannot be measured, or nothing could be found with this budget."""


def pilot_cost(standing: Standing) -> float:
    """FLOPs until the first decision can fall: tuning, pilot, one round of screening and
    confirmation, and the vault of its result."""
    s = standing.settings
    tuning = (len(s.rates) + 2 * EDGE + 2 + 2 + 4 + 1) * s.budget
    return tuning + 2 * s.pilot * s.budget + round_cost(standing)


def round_cost(standing: Standing) -> float:
    """FLOPs of one round at most: screening, confirmation, scale check, check, vault."""
    s = standing.settings
    screening = (math.log2(max(2, s.candidates)) * 2 + 2) * s.budget
    size = 2 * s.scale_pairs * s.scale * s.budget
    return screening + (2 * s.pairs + 2) * s.budget + size + vault_cost(standing)


def vault_cost(standing: Standing) -> float:
    """FLOPs of one opening; the runs of generation 0 are done at the first. Its longer runs are not
    reserved: how many it takes is known only when the vault is open (`vault.open_vault`)."""
    s = standing.settings
    arms = 1 if standing.generation else 2
    return arms * s.vault_seeds * sum(s.vault_shares) * s.budget


def tune(standing: Standing, plain: Recipe) -> Steps[None]:
    """Sets standing.zero and standing.parent; `plain` holds the keys that are tuned."""
    s = standing.settings
    scores: dict[str, list[float]] = {}
    recipes: dict[str, Recipe] = {}

    def measure(some: list[Recipe], number: int, share: float = 1.0) -> Steps[list[float]]:
        # a batch that leaves the shortest trials of a campaign too few steps is none to start from
        allowed: list[bool] = yield Allowed(some)
        some = [recipe for recipe, fine in zip(some, allowed, strict=True) if fine]
        if not some:
            return []
        seed = seed_of("tuning", s.seed, number)
        cells = [Cell(recipe, seed, share * s.budget) for recipe in some]
        results, _ = yield from run(standing, [[cell] for cell in cells], "tuning")
        losses = [row[0].value for row in results]
        if share == 1.0:
            for recipe, loss in zip(some, losses, strict=True):
                recipes[digest(recipe)] = recipe
                scores.setdefault(digest(recipe), []).append(loss)
        return losses

    def best(count: int) -> list[Recipe]:
        order = sorted(scores, key=lambda name: sum(scores[name]) / len(scores[name]))
        return [recipes[name] for name in order[:count]]

    def climb(key: str, factors: tuple[float, ...]) -> Steps[None]:
        """Further values of one key for as long as the best lies at the edge of what was tried."""
        for _ in range(EDGE):
            top = best(1)[0]
            tried = {float(r[key]) for r in recipes.values()}
            new = [_scaled(top, key, factor) for factor in factors]
            new = [r for r in new if float(r[key]) not in tried]
            if not new or min(tried) < float(top[key]) < max(tried):
                return
            yield from measure(new, 0)

    yield from measure([_scaled(plain, s.rate, factor) for factor in s.rates], 0)
    yield from climb(s.rate, (0.5, 2.0))
    before = best(1)[0][s.batch]
    top = best(1)[0]
    yield from measure([_scaled(top, s.batch, factor) for factor in (0.5, 2.0)], 0)
    yield from climb(s.batch, (0.5, 2.0))
    if best(1)[0][s.batch] != before:
        yield from measure([_scaled(best(1)[0], s.rate, factor) for factor in (0.5, 2.0)], 0)
    finalists = best(2)
    for number in (1, 2):
        yield from measure(finalists, number)
    finalists.sort(key=lambda recipe: sum(scores[digest(recipe)]))
    zero = finalists[0]
    if not math.isfinite(sum(scores[digest(zero)])):
        raise PilotError(
            "the plain recipe diverges at every learning rate that was tried; start from a calmer one"
        )
    lower: list[float] = []
    for number in (0, 1):
        lower += yield from measure([zero], number, 0.5)
    whole = scores[digest(zero)][:2]
    standing.slope = (sum(lower) - sum(whole)) / 2 / math.log(2)
    standing.zero = standing.parent = zero
    tried = [{"recipe": recipes[name], "losses": scores[name]} for name in scores]
    yield Note("tuning", {"zero": zero, "tried": tried, "slope": standing.slope})
    if not standing.slope > 0:
        raise PilotError(
            f"with twice the compute the loss does not fall (slope {standing.slope:.3g} bits per byte "
            "per e-fold), so a gain in loss is no gain in compute; give a larger --trial"
        )


def _scaled(recipe: Recipe, key: str, factor: float) -> Recipe:
    """The recipe with one number multiplied; a batch stays whole."""
    value = recipe[key]
    if isinstance(value, int):
        return recipe | {key: max(1, round(value * factor))}
    return recipe | {key: float(f"{float(value) * factor:.4g}")}


def pilot(standing: Standing) -> Steps[None]:
    """Parent against itself: sets standing.noise and says what can be found."""
    s = standing.settings
    yield Need((2 * s.pilot) * s.budget + round_cost(standing), "the A/A pilot and one round")
    groups = [
        [Cell(standing.zero, seed_of("pilot", s.seed, i, arm), s.budget) for arm in (0, 1)]
        for i in range(s.pilot)
    ]
    results, _ = yield from run(standing, groups, "pilot")
    found = sequential.pilot([a.value - b.value for a, b in results])
    level = standing.spending.level
    smallest = sequential.smallest_effect(found.sd, level, s.pairs)
    if not math.isfinite(smallest):
        raise PilotError(
            f"at most {s.pairs} pairs cannot pass the first level {level:.2g} however large the "
            "effect; allow more pairs or plan fewer confirmations"
        )
    standing.noise = found.sd
    yield Note(
        "pilot",
        {
            "pairs": found.pairs,
            "sd": found.sd,
            "mean": found.mean,
            "t": found.t,
            "level": level,
            "smallest": smallest,
            "smallest_multiplier": math.exp(min(50.0, smallest / standing.slope)),
            "spent": standing.spent,
        },
    )
