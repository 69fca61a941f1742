"""Who proposes: known changes, chance, evolution, a Bayesian search, and perhaps a language model.

Each gives differences to the parent's recipe; the registry checks them all alike. Everything here
is a pure function of the standing and a seed, save the language model, whose answers the ledger
keeps.
"""

import random
from collections.abc import Callable
from typing import Any, Literal, Protocol

from duckweed.evolve.decide.requests import Screened, Standing
from duckweed.evolve.decide.trial_spec import Recipe, Value, digest
from duckweed.evolve.space.registry import Registry

Provenance = Literal["known", "adapted", "novel"]
Affordable = Callable[[Recipe], str | None]
"""Why a recipe cannot be run within the reference budget, or None."""


class Proposer(Protocol):
    """name: stands in the ledger; provenance: of what it gives."""

    name: str
    provenance: Provenance

    def propose(self, standing: Standing, count: int, seed: int) -> list[object]:
        """Up to `count` differences, unchecked."""
        ...


class KnownChanges:
    """The registry's list of published changes, one after the other, those that were adopted or
    tried in this generation left out."""

    name: str = "known"
    provenance: Provenance = "known"

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def propose(self, standing: Standing, count: int, seed: int) -> list[object]:
        found: list[object] = []
        counts: dict[str, int] = {}
        for x in standing.screened:
            if x.proposer == self.name:
                counts[digest(x.difference)] = counts.get(digest(x.difference), 0) + 1
        fresh = []
        for place, known in enumerate(self.registry.known):
            difference = self.registry.of(known, standing.parent)
            if not difference or digest(standing.parent | difference) in standing.tried:
                continue
            fresh.append((counts.get(digest(difference), 0), place, difference))
        # Those never screened come first; then again, for what failed with one parent may help
        # another, at most twice in all.
        for times, _, difference in sorted(fresh, key=lambda x: x[:2]):
            if times < 2:
                found.append(difference)
        return found[:count]


class Chance:
    """One to three switches, values at random: the control that every other proposer must beat."""

    name: str = "random"
    provenance: Provenance = "novel"

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def propose(self, standing: Standing, count: int, seed: int) -> list[object]:
        rng = random.Random(seed)
        return [self._one(rng, standing.parent) for _ in range(count)]

    def _one(self, rng: random.Random, parent: Recipe) -> Recipe:
        chosen = rng.sample(self.registry.switches, rng.choice((1, 1, 2, 3)))
        drawn = {s.key: s.draw(rng) for s in chosen}
        return {k: v for k, v in drawn.items() if parent.get(k) != v}


class Evolution:
    """Children of what screening liked: two good differences joined, one moved a little, or the
    parent moved a little. (mu + lambda) with screening scores, which are only hints."""

    name: str = "evolution"
    provenance: Provenance = "adapted"
    ELITE = 6

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def propose(self, standing: Standing, count: int, seed: int) -> list[object]:
        rng = random.Random(seed)
        elite = self._elite(standing)
        return [self._child(rng, elite, standing.parent) for _ in range(count)]

    def _elite(self, standing: Standing) -> list[Recipe]:
        good = [x for x in standing.screened if x.gain > 0]
        # Recent generations first: an old gain was over another parent.
        good.sort(key=lambda x: (-x.generation, -x.share, -x.gain))
        kept = [
            {k: v for k, v in x.difference.items() if standing.parent.get(k) != v} for x in good
        ]
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


class Bayes:
    """Tree-structured Parzen estimators over the whole registry (Bergstra et al. 2011), as
    `optuna` has them; gains of screening are its objective."""

    name: str = "bayes"
    provenance: Provenance = "novel"
    CHANGES = 3

    def __init__(self, registry: Registry) -> None:
        import optuna  # an extra: the caller leaves this arm out where it is missing

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.registry, self._optuna = registry, optuna

    def propose(self, standing: Standing, count: int, seed: int) -> list[object]:
        optuna = self._optuna
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for x in standing.screened:
            if x.gain > -float("inf") and x.generation == standing.generation:
                self._tell(study, x)
        return [self._ask(study, standing.parent) for _ in range(count)]

    def _tell(self, study: object, x: Screened) -> None:
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
