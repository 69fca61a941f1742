"""A campaign: rounds of proposing, screening, confirming and adopting, until the budget is spent.

The decision core. It is a generator of requests (`duckweed.evolve.decide.requests`) that knows nothing of
processes, so that the same rules serve a real campaign, a resumed one, and a simulated one.
"""

from duckweed.evolve.decide.baseline import pilot, pilot_cost, round_cost, tune, vault_cost
from duckweed.evolve.decide.confirmation import confirm
from duckweed.evolve.decide.final_comparison import open_vault
from duckweed.evolve.decide.pruning import changes, prune, pruning_cost
from duckweed.evolve.decide.requests import Ask, Need, Note, Settings, Standing, Steps
from duckweed.evolve.decide.scale_check import scale_check
from duckweed.evolve.decide.screening_wave import wave
from duckweed.evolve.decide.trial_spec import Proposal, Recipe
from duckweed.evolve.statistics.sequential import Evidence
from duckweed.evolve.statistics.spending import Spending

BARREN = 10  # waves; each costs nothing, so that a campaign without ideas would go on for ever


def begin(settings: Settings) -> Standing:
    """What is known before anything was run."""
    return Standing(settings, {}, {}, Spending(settings.alpha, settings.planned))


def campaign(standing: Standing, plain: Recipe, together: int = 1) -> Steps[None]:
    """Ends when `Need` is refused, or nothing new is proposed in BARREN waves one after the other.
    plain: the untuned recipe; together: pairs run at once."""
    yield Need(pilot_cost(standing), "tuning, the A/A pilot and one round")
    yield from tune(standing, plain)
    yield from pilot(standing)
    every = standing.settings.prune_every
    while standing.barren < BARREN or not standing.settings.candidates:
        yield Need(round_cost(standing), "another round")
        planted: list[Proposal] = yield Ask(standing.proposals, 1, True, standing.parent)
        standing.proposals += 1  # the number is used up whether or not something was planted
        if planted:
            yield from _decide(standing, planted[0], together)
            yield Need(round_cost(standing), "another round")
        winner = yield from wave(standing)
        if winner is None:
            continue
        before = standing.generation
        yield from _decide(standing, winner, together)
        if standing.generation > before and standing.generation % every == 0:
            yield from _prune(standing)


def _decide(standing: Standing, proposal: Proposal, together: int) -> Steps[None]:
    """Confirm; where accepted and not failing at size, adopt, and measure in the vault."""
    child = standing.parent | proposal.difference
    evidence: Evidence | None = yield from confirm(standing, proposal, together)
    if evidence is None or child == standing.parent:
        return
    verdict = yield from scale_check(standing, proposal, evidence.mean)
    if verdict == "fails":
        return
    credit = standing.credit(proposal.proposer)
    credit.adopted += 1
    credit.gain += max(0.0, evidence.mean) / standing.slope
    standing.parent = child
    standing.generation += 1
    standing.tried.clear()
    yield Note(
        "generation",
        {
            "generation": standing.generation,
            "number": proposal.number,
            "difference": proposal.difference,
            "proposer": proposal.proposer,
            "provenance": proposal.provenance,
            "scale": verdict,
            "recipe": child,
            "spent": standing.spent,
        },
    )
    yield from open_vault(standing)


def _prune(standing: Standing) -> Steps[None]:
    """Leave-one-out as long as something goes; if anything went, the vault is opened again."""
    gone = False
    while len(changes(standing)) > 1:
        yield Need(pruning_cost(standing) + vault_cost(standing), "leave-one-out")
        if not (yield from prune(standing)):
            break
        gone = True
    if gone:
        yield from open_vault(standing)
