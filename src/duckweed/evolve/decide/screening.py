"""Screening: proposals are asked for and thinned out by successive halving. Nothing is accepted here."""

import math

from duckweed.evolve.decide.halving import Rung, rungs, survivors
from duckweed.evolve.decide.requests import (
    AskProposals,
    CampaignState,
    Record,
    ScreeningResult,
    Steps,
    run_trials,
)
from duckweed.evolve.entries import ScreenedProposal, ScreeningEntry
from duckweed.evolve.trial_spec import Proposal, TrialSpec, digest, seed_of


def screen(state: CampaignState) -> Steps[Proposal | None]:
    """The proposal that is worth a confirmation, or None where none was better than the parent.

    One seed for the whole generation, so that the parent's runs are shared; every rung is a whole
    run on a schedule of its own length.
    """
    s = state.settings
    asked: list[Proposal] = yield AskProposals(state.proposals, s.candidates, False, state.parent)
    state.proposals += len(asked)
    state.screenings += 1
    fresh = [p for p in asked if _fresh(state, p)]
    state.empty_rounds = 0 if fresh else state.empty_rounds + 1
    for proposal in asked:
        state.credit(proposal.proposer).proposals += 1
    alive = fresh
    for rung in rungs(len(fresh)) if len(fresh) > 1 else [Rung(1, 1.0, 1)] if fresh else []:
        alive = yield from _run_rung(state, alive, rung)
    scores = {x.number: x for x in state.screened}
    winner = alive[0].number if alive and scores[alive[0].number].gain > 0 else None
    numbers = {p.number for p in fresh}
    screened = [
        ScreenedProposal(x.number, x.share, x.gain) for x in state.screened if x.number in numbers
    ]
    yield Record(ScreeningEntry(state.screenings, [p.number for p in asked], screened, winner))
    return None if winner is None else alive[0]


def _fresh(state: CampaignState, proposal: Proposal) -> bool:
    """Not a recipe that is the parent's or was screened in this generation."""
    name = digest(state.parent | proposal.difference)
    if name in state.tried or name == digest(state.parent):
        return False
    state.tried.add(name)
    return True


def _run_rung(state: CampaignState, alive: list[Proposal], rung: Rung) -> Steps[list[Proposal]]:
    """Run the parent and all that are left; returns those that go on, the best first."""
    s = state.settings
    seed = seed_of("screen", s.seed, state.generation, rung.share)
    recipes = [state.parent, *(state.parent | p.difference for p in alive)]
    groups = [[TrialSpec(recipe, seed, rung.share * s.budget)] for recipe in recipes]
    results, _ = yield from run_trials(state, groups, "screening")
    parent, *losses = [row[0].value for row in results]
    for p, loss, row in zip(alive, losses, results[1:], strict=True):
        gain = parent - loss if math.isfinite(loss) else -math.inf
        state.screened = [x for x in state.screened if x.number != p.number]
        state.screened.append(
            ScreeningResult(p.number, p.difference, p.proposer, rung.share, gain, state.generation)
        )
        state.credit(p.proposer).spent += row[0].flops
    return [alive[i] for i in survivors(losses, rung.keep)]
