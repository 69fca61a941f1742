"""Which proposer gets how many slots, and what of its proposals may be run.

A bandit. Every proposer's worth is the confirmed gain (ln compute) it brought per FLOP that its
proposals cost, with a prior that gives newcomers slots, which are drawn in proportion. Random search
always has its fixed share, as the control; a language model at most its own until it has earned more.
"""

import random

from duckweed.evolve.decide.requests import AskProposals, CampaignState
from duckweed.evolve.entries import ProposalsEntry, Refusal, RevealEntry
from duckweed.evolve.propose.proposers import Affordable, KnownChanges, Proposer, RandomSearch
from duckweed.evolve.space.commitments import CampaignSecret, ProposalKind
from duckweed.evolve.space.recipe import idle
from duckweed.evolve.space.registry import Registry, RegistryError
from duckweed.evolve.trial_spec import Proposal, Recipe, digest, seed_of

KNOWN_SHARE = 0.6  # of the slots, for known changes at most
RANDOM_SHARE = 0.2  # of the slots, for random search at least
MODEL_SHARE = 0.3  # of the slots, for a language model of which nothing was adopted yet
PRIOR_GAIN = 0.05  # ln compute that a newcomer counts as having brought
PRIOR_RUNS = 20.0  # reference trials that it counts as having cost


class Allocator:
    """All proposers of a campaign, and the planting of nulls and harms."""

    def __init__(
        self,
        registry: Registry,
        proposers: list[Proposer],
        secret: CampaignSecret,
        affordable: Affordable,
    ) -> None:
        self.registry, self.proposers = registry, proposers
        self.secret, self.affordable = secret, affordable

    def propose(self, ask: AskProposals, state: CampaignState) -> ProposalsEntry:
        """What can be run, and what cannot; the answer to `AskProposals`."""
        if ask.planted:
            return ProposalsEntry(self._plant(ask, state), [])
        found: list[Proposal] = []
        refused: list[Refusal] = []
        taken: set[str] = set()
        for proposer, count in self.shares(state, ask.slots):
            seed = seed_of("propose", state.settings.seed, ask.first, proposer.name)
            given = proposer.propose(state, count, seed)
            if fault := getattr(proposer, "fault", ""):
                refused.append(Refusal(proposer.name, fault))
            for raw in given[:count]:
                try:
                    difference = self._checked(raw, state, taken)
                except RegistryError as error:
                    refused.append(Refusal(proposer.name, str(error)[:200]))
                    continue
                number = ask.first + len(found)
                seal = self.secret.commit(number, "real", difference)
                found.append(Proposal(number, difference, proposer.name, proposer.provenance, seal))
        return ProposalsEntry(found, refused)

    def _checked(self, raw: object, state: CampaignState, taken: set[str]) -> Recipe:
        """The difference without keys that have no effect. taken: digests of those before it."""
        difference = self.registry.check(raw)
        difference = {k: v for k, v in difference.items() if state.parent.get(k) != v}
        if not difference:
            raise RegistryError("changes nothing")
        without = idle(state.parent | difference)
        if set(difference) <= without:
            raise RegistryError(f"{', '.join(difference)}: without effect in this recipe")
        # The rest trains the same without them, and says what it changes.
        difference = {k: v for k, v in difference.items() if k not in without}
        if digest(difference) in taken:
            raise RegistryError("proposed twice in one round")
        if reason := self.affordable(state.parent | difference):
            raise RegistryError(reason)
        taken.add(digest(difference))
        return difference

    def shares(self, state: CampaignState, slots: int) -> list[tuple[Proposer, int]]:
        """How many of the slots each proposer has; what the known list leaves is drawn by worth."""
        known = [p for p in self.proposers if isinstance(p, KnownChanges)]
        others = [p for p in self.proposers if p not in known]
        counts: list[tuple[Proposer, int]] = []
        left = slots
        for proposer in known:
            count = min(round(KNOWN_SHARE * slots), len(proposer.propose(state, slots, 0)))
            counts.append((proposer, count))
            left -= count
        worth = [self._worth(state, p.name) for p in others]
        rng = random.Random(seed_of("shares", state.settings.seed, state.proposals))
        given = dict.fromkeys((p.name for p in others), 0)
        if RandomSearch.name in given:
            given[RandomSearch.name] = min(left, max(1, round(RANDOM_SHARE * slots)))
        for _ in range(left - sum(given.values())):
            open_ = [
                (p, w)
                for p, w in zip(others, worth, strict=True)
                if p.name != "llm" or given[p.name] < self._model_limit(state, slots)
            ]
            if not open_:
                break
            chosen = rng.choices([p for p, _ in open_], [w for _, w in open_])[0]
            given[chosen.name] += 1
        return counts + [(p, given[p.name]) for p in others if given[p.name]]

    def _worth(self, state: CampaignState, name: str) -> float:
        """ln compute per FLOP."""
        credit = state.credits.get(name)
        spent, gain = (credit.spent, credit.gain) if credit else (0.0, 0.0)
        return (PRIOR_GAIN + gain) / (PRIOR_RUNS * state.settings.budget + spent)

    def _model_limit(self, state: CampaignState, slots: int) -> int:
        credit = state.credits.get("llm")
        return slots if credit and credit.adopted else max(1, round(MODEL_SHARE * slots))

    def _plant(self, ask: AskProposals, state: CampaignState) -> list[Proposal]:
        """One planted proposal, or none: the campaign's secret draws which."""
        draw = self.secret.draw(ask.first)
        share = state.settings.plant
        if draw >= share:
            return []
        place = draw / share * 3
        kind: ProposalKind = ("same", "null", "harmful")[int(place)]
        difference: Recipe = {}
        if kind != "same":
            options = self.registry.nulls if kind == "null" else self.registry.harms
            known = options[int((place - int(place)) * len(options))]
            difference = self.registry.of(known, state.parent)
            if not difference or self.affordable(state.parent | difference):
                kind, difference = "same", {}
        seal = self.secret.commit(ask.first, kind, difference)
        return [Proposal(ask.first, difference, "sealed", "known", seal)]


def reveal(secret: CampaignSecret, proposal: Proposal) -> RevealEntry:
    """What opens a proposal's seal."""
    for kind in ("real", "null", "harmful", "same"):
        if secret.commit(proposal.number, kind, proposal.difference) == proposal.commitment:
            return RevealEntry(proposal.number, kind, secret.salt(proposal.number))
    raise ValueError(f"proposal {proposal.number} was not sealed with this campaign's secret")
