"""The council: which proposer speaks how often, and what of what they say may be run.

A bandit. Every proposer's worth is the confirmed gain (ln compute) it brought per FLOP that its
proposals cost, with a prior that lets a newcomer speak; slots go in proportion. Chance always has
its fixed share, as the control; a language model at most its own until it has earned more.
"""

import random
from typing import Any

from duckweed.evolve.decide.requests import Ask, Standing
from duckweed.evolve.decide.trial_spec import Proposal, Recipe, digest, seed_of
from duckweed.evolve.propose.proposers import Affordable, KnownChanges, Proposer
from duckweed.evolve.space.commitments import Kind, Sealed
from duckweed.evolve.space.recipe import idle
from duckweed.evolve.space.registry import Registry, RegistryError

CHANCE, KNOWN, MODEL = 0.2, 0.6, 0.3  # share of chance; of the known list; at most of a model
PRIOR_GAIN, PRIOR_RUNS = 0.05, 20.0  # what a newcomer is supposed to have brought, in ln and runs


class Council:
    """All proposers of a campaign, and the planting of nulls and harms."""

    def __init__(
        self, registry: Registry, proposers: list[Proposer], sealed: Sealed, affordable: Affordable
    ) -> None:
        self.registry, self.proposers = registry, proposers
        self.sealed, self.affordable = sealed, affordable

    def propose(self, ask: Ask, standing: Standing) -> dict[str, Any]:
        """{"proposals": list of Proposal, "refused": reasons}; the answer to `Ask`."""
        if ask.planted:
            return self._plant(ask, standing)
        found: list[Proposal] = []
        refused: list[dict[str, str]] = []
        taken: set[str] = set()
        for proposer, count in self.shares(standing, ask.slots):
            seed = seed_of("propose", standing.settings.seed, ask.first, proposer.name)
            given = proposer.propose(standing, count, seed)
            if fault := getattr(proposer, "fault", ""):
                refused.append({"proposer": proposer.name, "reason": fault})
            for raw in given[:count]:
                try:
                    difference = self._checked(raw, standing, taken)
                except RegistryError as error:
                    refused.append({"proposer": proposer.name, "reason": str(error)[:200]})
                    continue
                number = ask.first + len(found)
                seal = self.sealed.commit(number, "real", difference)
                found.append(Proposal(number, difference, proposer.name, proposer.provenance, seal))
        return {"proposals": found, "refused": refused}

    def _checked(self, raw: object, standing: Standing, taken: set[str]) -> Recipe:
        difference = self.registry.check(raw)
        difference = {k: v for k, v in difference.items() if standing.parent.get(k) != v}
        if not difference:
            raise RegistryError("changes nothing")
        without = idle(standing.parent | difference)
        if set(difference) <= without:
            raise RegistryError(f"{', '.join(difference)}: without effect in this recipe")
        # The rest trains the same without them, and says what it changes.
        difference = {k: v for k, v in difference.items() if k not in without}
        if digest(difference) in taken:
            raise RegistryError("proposed twice in one wave")
        if reason := self.affordable(standing.parent | difference):
            raise RegistryError(reason)
        taken.add(digest(difference))
        return difference

    def shares(self, standing: Standing, slots: int) -> list[tuple[Proposer, int]]:
        """How many of the slots each proposer has; what the known list leaves is shared out."""
        known = [p for p in self.proposers if isinstance(p, KnownChanges)]
        others = [p for p in self.proposers if p not in known]
        counts: list[tuple[Proposer, int]] = []
        left = slots
        for proposer in known:
            count = min(round(KNOWN * slots), len(proposer.propose(standing, slots, 0)))
            counts.append((proposer, count))
            left -= count
        worth = [self._worth(standing, p.name) for p in others]
        rng = random.Random(seed_of("shares", standing.settings.seed, standing.proposals))
        given = dict.fromkeys((p.name for p in others), 0)
        chance = [p.name for p in others if p.name == "random"]
        for name in chance:
            given[name] = min(left, max(1, round(CHANCE * slots)))
        for _ in range(left - sum(given.values())):
            open_ = [
                (p, w)
                for p, w in zip(others, worth, strict=True)
                if p.name != "llm" or given[p.name] < self._model_limit(standing, slots)
            ]
            if not open_:
                break
            chosen = rng.choices([p for p, _ in open_], [w for _, w in open_])[0]
            given[chosen.name] += 1
        return counts + [(p, given[p.name]) for p in others if given[p.name]]

    def _worth(self, standing: Standing, name: str) -> float:
        credit = standing.credits.get(name)
        spent, gain = (credit.spent, credit.gain) if credit else (0.0, 0.0)
        return (PRIOR_GAIN + gain) / (PRIOR_RUNS * standing.settings.budget + spent)

    def _model_limit(self, standing: Standing, slots: int) -> int:
        credit = standing.credits.get("llm")
        return slots if credit and credit.adopted else max(1, round(MODEL * slots))

    def _plant(self, ask: Ask, standing: Standing) -> dict[str, Any]:
        draw = self.sealed.draw(ask.first)
        share = standing.settings.plant
        if draw >= share:
            return {"proposals": [], "refused": []}
        place = draw / share * 3
        kind: Kind = ("same", "null", "harmful")[int(place)]
        difference: Recipe = {}
        if kind != "same":
            options = self.registry.nulls if kind == "null" else self.registry.harms
            known = options[int((place - int(place)) * len(options))]
            difference = self.registry.of(known, standing.parent)
            if not difference or self.affordable(standing.parent | difference):
                kind, difference = "same", {}
        seal = self.sealed.commit(ask.first, kind, difference)
        return {
            "proposals": [Proposal(ask.first, difference, "sealed", "known", seal)],
            "refused": [],
        }


def opened(sealed: Sealed, registry: Registry, proposal: Proposal) -> dict[str, Any]:
    """What opens a proposal's seal: number, kind and salt."""
    for kind in ("real", "null", "harmful", "same"):
        if sealed.commit(proposal.number, kind, proposal.difference) == proposal.commitment:
            return {"number": proposal.number, "kind": kind, "salt": sealed.salt(proposal.number)}
    raise ValueError(f"proposal {proposal.number} was not sealed with this campaign's secret")
