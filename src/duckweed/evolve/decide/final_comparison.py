"""The final comparison of a generation with generation 0, on held-out text and seeds that nothing
else uses. Its result is reported and never decides anything. Ledgers and settings call it the vault.
"""

from duckweed.evolve.decide.requests import AskBudget, CampaignState, Record, Steps, run_trials
from duckweed.evolve.entries import VaultEntry
from duckweed.evolve.statistics.multiplier import MultiplierError, Run, fit, reached
from duckweed.evolve.trial_spec import Recipe, TrialSpec, seed_of

DOUBLINGS = 5  # of the largest budget, for generation 0 alone


def compare_with_zero(state: CampaignState) -> Steps[None]:
    """Both recipes at every budget and seed, then generation 0 at twice the largest budget, four
    times and so on, until it reaches the child's loss; the result goes into the ledger.

    The runs of generation 0 are done once and serve every generation: since the comparison decides
    nothing, that correlates the generations' errors and makes none of them wrong.
    """
    both, shares = [state.zero, state.parent], state.settings.vault_shares
    groups = [group for share in shares for group in _trials(state, both, share)]
    runs = yield from _compare(state, groups)
    for doubling in range(1, DOUBLINGS + 1):
        if reached(runs):
            break
        longer = _trials(state, [state.zero], max(shares) * 2**doubling)
        if not (yield from _affordable(state, longer)):
            break
        runs += yield from _compare(state, longer)
    found, fault = None, ""
    try:
        found = fit(runs)
    except MultiplierError as error:
        fault = str(error)
    yield Record(VaultEntry(found, fault, state.spent))


def _trials(state: CampaignState, recipes: list[Recipe], share: float) -> list[list[TrialSpec]]:
    """A group for each seed: the recipes at one share of the budget."""
    s = state.settings
    seeds = [seed_of("vault", s.seed, i) for i in range(s.vault_seeds)]
    return [
        [TrialSpec(recipe, seed, share * s.budget, split="vault") for recipe in recipes]
        for seed in seeds
    ]


def _compare(state: CampaignState, groups: list[list[TrialSpec]]) -> Steps[list[Run]]:
    """Run them; the first of each group is generation 0's."""
    results, _ = yield from run_trials(state, groups, "vault")
    return [
        Run(trial.budget, result.value, bool(arm))
        for group, row in zip(groups, results, strict=True)
        for arm, (trial, result) in enumerate(zip(group, row, strict=True))
    ]


def _affordable(state: CampaignState, groups: list[list[TrialSpec]]) -> Steps[bool]:
    """Whether the budget pays for those of the trials that were not run for an earlier generation."""
    flops = sum(trial.budget for group in groups for trial in group if trial.id not in state.seen)
    if not flops:
        return True
    paid: bool = yield AskBudget(flops, "generation 0 at twice the largest budget of the vault")
    return paid
