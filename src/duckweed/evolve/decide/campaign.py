"""A campaign: rounds of proposing, screening, confirming and adopting, until the budget is spent.

The decision core. It is a generator of requests (`duckweed.evolve.decide.requests`) that knows nothing of
processes, so that the same rules serve a real campaign, a resumed one, and a simulated one.
"""

from duckweed.evolve.decide.baseline import comparison_cost, pilot, pilot_cost, round_cost, tune
from duckweed.evolve.decide.confirmation import confirm
from duckweed.evolve.decide.final_comparison import compare_with_zero
from duckweed.evolve.decide.pruning import changes, prune, pruning_cost
from duckweed.evolve.decide.requests import (
    AskProposals,
    CampaignState,
    Record,
    RequireBudget,
    Settings,
    Steps,
)
from duckweed.evolve.decide.scale_check import scale_check
from duckweed.evolve.decide.screening import screen
from duckweed.evolve.entries import GenerationEntry
from duckweed.evolve.statistics.sequential import Evidence
from duckweed.evolve.statistics.spending import Spending
from duckweed.evolve.trial_spec import Proposal, Recipe

MOST_EMPTY_ROUNDS = 10
"""Rounds in a row without a new proposal that end a campaign: they cost nothing and would never end."""


def begin(settings: Settings) -> CampaignState:
    """What is known before anything was run."""
    return CampaignState(settings, {}, {}, Spending(settings.alpha, settings.planned))


def campaign(state: CampaignState, plain: Recipe, together: int = 1) -> Steps[None]:
    """Ends when `RequireBudget` is refused, or nothing new is proposed in MOST_EMPTY_ROUNDS rounds.
    plain: the untuned recipe; together: pairs run at once."""
    yield RequireBudget(pilot_cost(state), "tuning, the A/A pilot and one round")
    yield from tune(state, plain)
    yield from pilot(state)
    every = state.settings.prune_every
    while state.empty_rounds < MOST_EMPTY_ROUNDS or not state.settings.candidates:
        yield RequireBudget(round_cost(state), "another round")
        planted: list[Proposal] = yield AskProposals(state.proposals, 1, True, state.parent)
        state.proposals += 1  # the number is used up whether or not something was planted
        if planted:
            yield from _decide(state, planted[0], together)
            yield RequireBudget(round_cost(state), "another round")
        winner = yield from screen(state)
        if winner is None:
            continue
        before = state.generation
        yield from _decide(state, winner, together)
        if state.generation > before and state.generation % every == 0:
            yield from _prune(state)


def _decide(state: CampaignState, proposal: Proposal, together: int) -> Steps[None]:
    """Confirm; where accepted and not failing at size, adopt, and compare with generation 0."""
    child = state.parent | proposal.difference
    evidence: Evidence | None = yield from confirm(state, proposal, together)
    if evidence is None or child == state.parent:
        return
    verdict = yield from scale_check(state, proposal, evidence.mean)
    if verdict == "fails":
        return
    credit = state.credit(proposal.proposer)
    credit.adopted += 1
    credit.gain += max(0.0, evidence.mean) / state.slope
    state.parent = child
    state.generation += 1
    state.tried.clear()
    yield Record(
        GenerationEntry(
            generation=state.generation,
            number=proposal.number,
            difference=proposal.difference,
            proposer=proposal.proposer,
            provenance=proposal.provenance,
            scale=verdict,
            recipe=child,
            spent=state.spent,
        )
    )
    yield from compare_with_zero(state)


def _prune(state: CampaignState) -> Steps[None]:
    """Leave-one-out as long as a change is taken back; if anything went, generation 0 is compared again."""
    pruned = False
    while len(changes(state)) > 1:
        yield RequireBudget(pruning_cost(state) + comparison_cost(state), "leave-one-out")
        if not (yield from prune(state)):
            break
        pruned = True
    if pruned:
        yield from compare_with_zero(state)
