"""A wave: proposals are asked for and screened by successive halving. Nothing is accepted here."""

import math

from duckweed.evolve.decide.halving import rungs, survivors
from duckweed.evolve.decide.requests import Ask, Note, Screened, Standing, Steps, run
from duckweed.evolve.decide.trial_spec import Cell, Proposal, digest, seed_of


def wave(standing: Standing) -> Steps[Proposal | None]:
    """The proposal that is worth a confirmation, or None where none was better than the parent.

    One seed for the whole generation, so that the parent's runs are shared; every rung is a whole
    run on a schedule of its own length.
    """
    s = standing.settings
    asked: list[Proposal] = yield Ask(standing.proposals, s.candidates, False, standing.parent)
    standing.proposals += len(asked)
    standing.wave += 1
    fresh = [p for p in asked if _fresh(standing, p)]
    standing.barren = 0 if fresh else standing.barren + 1
    for proposal in asked:
        standing.credit(proposal.proposer).proposals += 1
    alive = fresh
    ladder = rungs(len(alive)) if len(alive) > 1 else []
    if len(alive) == 1:
        alive = yield from _rung(standing, alive, 1.0, 1)
    for rung in ladder:
        alive = yield from _rung(standing, alive, rung.share, rung.keep)
    winner = alive[0] if alive else None
    if winner is not None and not _gain(standing, winner) > 0:
        winner = None
    yield Note(
        "screening",
        {
            "wave": standing.wave,
            "asked": [p.number for p in asked],
            "screened": [
                {"number": x.number, "share": x.share, "gain": x.gain}
                for x in standing.screened
                if x.number in {p.number for p in fresh}
            ],
            "winner": None if winner is None else winner.number,
        },
    )
    return winner


def _fresh(standing: Standing, proposal: Proposal) -> bool:
    """Not a recipe that is the parent's or was screened in this generation."""
    name = digest(standing.parent | proposal.difference)
    if name in standing.tried or name == digest(standing.parent):
        return False
    standing.tried.add(name)
    return True


def _rung(
    standing: Standing, alive: list[Proposal], share: float, keep: int
) -> Steps[list[Proposal]]:
    s = standing.settings
    seed = seed_of("screen", s.seed, standing.generation, share)
    recipes = [standing.parent | p.difference for p in alive]
    cells = [Cell(recipe, seed, share * s.budget) for recipe in [standing.parent, *recipes]]
    results, _ = yield from run(standing, [[cell] for cell in cells], "screening")
    parent, *rest = [row[0].value for row in results]
    for p, loss, row in zip(alive, rest, results[1:], strict=True):
        gain = parent - loss if math.isfinite(loss) else -math.inf
        standing.screened = [x for x in standing.screened if x.number != p.number]
        standing.screened.append(
            Screened(p.number, p.difference, p.proposer, share, gain, standing.generation)
        )
        standing.credit(p.proposer).spent += row[0].flops
    return [alive[i] for i in survivors(rest, keep)]


def _gain(standing: Standing, proposal: Proposal) -> float:
    return next(x.gain for x in standing.screened if x.number == proposal.number)
