"""The proposers: known changes, random, evolutionary and Bayesian search.

Each gives differences to the parent's recipe; the registry checks them all alike. Everything here
is a pure function of the campaign's state and a seed.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from duckweed.evolve.decide.requests import CampaignState, ScreeningResult
from duckweed.evolve.space.registry import Registry
from duckweed.evolve.trial_spec import Provenance, Recipe, Value, digest

Affordable = Callable[[Recipe], str | None]
"""Why a recipe cannot be run within the reference budget, or None."""


class Proposer(Protocol):
    """Gives differences to the parent's recipe."""

    name: str  # stands in the ledger
    provenance: Provenance  # of what it gives

    def propose(self, state: CampaignState, count: int, seed: int) -> Sequence[object]:
        """Up to `count` differences, unchecked."""
        ...


class KnownChanges:
    """The registry's list of published changes in its order, without those that were adopted or
    tried in this generation."""

    name: str = "known"
    provenance: Provenance = "known"

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def propose(self, state: CampaignState, count: int, seed: int) -> Sequence[object]:
        counts: dict[str, int] = {}
        for x in state.screened:
            if x.proposer == self.name:
                counts[digest(x.difference)] = counts.get(digest(x.difference), 0) + 1
        fresh = []
        for place, known in enumerate(self.registry.known):
            difference = self.registry.of(known, state.parent)
            if not difference or digest(state.parent | difference) in state.tried:
                continue
            fresh.append((counts.get(digest(difference), 0), place, difference))
        # Those never screened come first; then again, for what failed with one parent may help
        # another, at most twice in all.
        fresh.sort(key=lambda x: x[:2])
        return [difference for times, _, difference in fresh if times < 2][:count]


class RandomSearch:
    """One to three switches, values at random: the control that every other proposer must beat."""

    name: str = "random"
    provenance: Provenance = "novel"

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def propose(self, state: CampaignState, count: int, seed: int) -> Sequence[object]:
        rng = random.Random(seed)
        return [self._one(rng, state.parent) for _ in range(count)]

    def _one(self, rng: random.Random, parent: Recipe) -> Recipe:
        chosen = rng.sample(self.registry.switches, rng.choice((1, 1, 2, 3)))
        drawn = {s.key: s.draw(rng) for s in chosen}
        return {k: v for k, v in drawn.items() if parent.get(k) != v}


class EvolutionarySearch:
    """Children of what was good in screening: two differences joined, one moved a little, or the
    parent moved a little. (mu + lambda) on screening scores, which are only hints."""

    name: str = "evolution"
    provenance: Provenance = "adapted"
    ELITE = 6  # differences at most that children are made of

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def propose(self, state: CampaignState, count: int, seed: int) -> Sequence[object]:
        rng = random.Random(seed)
        elite = self._elite(state)
        return [self._child(rng, elite, state.parent) for _ in range(count)]

    def _elite(self, state: CampaignState) -> list[Recipe]:
        good = [x for x in state.screened if x.gain > 0]
        # Recent generations first: an old gain was over another parent.
        good.sort(key=lambda x: (-x.generation, -x.share, -x.gain))
        kept = [{k: v for k, v in x.difference.items() if state.parent.get(k) != v} for x in good]
        return [d for d in kept if d][: self.ELITE]

    def _child(self, rng: random.Random, elite: list[Recipe], parent: Recipe) -> Recipe:
        if len(elite) > 1 and rng.random() < 0.5:
            one, two = rng.sample(elite, 2)
            return one | two
        source: Recipe = dict(rng.choice(elite)) if elite and rng.random() < 0.5 else {}
        movable = [s for s in self.registry.switches if s.key in parent or s.key in source]
        switch = rng.choice(movable or list(self.registry.switches))
        value = source.get(switch.key, parent.get(switch.key))
        moved: Value = switch.draw(rng) if value is None else switch.near(value, rng)
        return source | {switch.key: moved}


class BayesianSearch:
    """Tree-structured Parzen estimators over the whole registry (Bergstra et al. 2011), as
    `optuna` has them; gains of screening are its objective."""

    name: str = "bayes"
    provenance: Provenance = "novel"
    CHANGES = 3  # switches of a proposal at most

    def __init__(self, registry: Registry) -> None:
        import optuna  # an extra: the caller leaves this proposer out where it is missing

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.registry, self._optuna = registry, optuna

    def propose(self, state: CampaignState, count: int, seed: int) -> Sequence[object]:
        optuna = self._optuna
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for x in state.screened:
            if x.gain > -float("inf") and x.generation == state.generation:
                self._tell(study, x)
        return [self._ask(study, state.parent) for _ in range(count)]

    def _tell(self, study: object, x: ScreeningResult) -> None:
        keys = list(x.difference)[: self.CHANGES]
        params: dict[str, object] = {}
        for place in range(self.CHANGES):
            key = keys[place] if place < len(keys) else ""
            params[f"key{place}"] = key
            if key:
                params[f"value {key}"] = x.difference[key]
        names = self._distributions()
        trial = self._optuna.trial.create_trial(
            params=params, distributions={k: names[k] for k in params}, value=x.gain
        )
        study.add_trial(trial)  # type: ignore[attr-defined]

    def _distributions(self) -> dict[str, Any]:
        kinds = self._optuna.distributions
        keys = kinds.CategoricalDistribution(["", *(s.key for s in self.registry.switches)])
        found: dict[str, Any] = {f"key{i}": keys for i in range(self.CHANGES)}
        for s in self.registry.switches:
            if s.kind == "choice":
                found[f"value {s.key}"] = kinds.CategoricalDistribution(list(s.values))
            elif s.kind == "int":
                found[f"value {s.key}"] = kinds.IntDistribution(int(s.low), int(s.high), log=True)
            else:
                found[f"value {s.key}"] = kinds.FloatDistribution(
                    s.low, s.high, log=s.kind == "log"
                )
        return found

    def _ask(self, study: object, parent: Recipe) -> Recipe:
        names = self._distributions()
        trial = study.ask()  # type: ignore[attr-defined]
        drawn: Recipe = {}
        for place in range(self.CHANGES):
            key = trial._suggest(f"key{place}", names[f"key{place}"])
            if key and key not in drawn:
                drawn[key] = trial._suggest(f"value {key}", names[f"value {key}"])
        return {k: v for k, v in drawn.items() if parent.get(k) != v}
