"""The final comparison of a finished campaign, made again by this version: its last recipe against generation 0.

    python -m bench.evolve.final_comparison evolve/campaign-1 vault.json

Runs that are in the campaign's ledger are taken from there, those that are missing are run: of
generation 0 at larger budgets, until it has the recipe's loss. The campaign is left as it is, save for
its folder `work`. Writes all runs and the multiplier to the file that is named.
"""

import json
import sys
from pathlib import Path

import msgspec

from duckweed.evolve.campaign.create import SAME_TRIALS, check_format
from duckweed.evolve.campaign.history import read
from duckweed.evolve.decide.campaign import begin
from duckweed.evolve.decide.final_comparison import compare_with_zero
from duckweed.evolve.decide.requests import AskBudget, CampaignState, Record, RunTrials, Settings
from duckweed.evolve.entries import TrialEntry, VaultEntry
from duckweed.evolve.folder import CampaignFolder, find
from duckweed.evolve.trial_spec import TrialResult, TrialSpec
from duckweed.evolve.workers.pool import Batch, Pool
from duckweed.evolve.workers.rerun import LONGEST
from duckweed.ledger.ledger import Ledger


def main() -> None:
    campaign, record = find(Path(sys.argv[1])), Path(sys.argv[2])
    state, results = known(campaign)
    with Pool(campaign, 1) as pool:
        trials, entry = compared(state, results, pool)
    result = {
        "found": msgspec.to_builtins(entry.found),
        "fault": entry.fault,
        "runs": [
            {"child": trial.recipe != state.zero, "budget": trial.budget, **msgspec.to_builtins(results[trial.id])}
            for trial in trials
        ],
    }  # fmt: skip
    record.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if entry.found is None:
        print(entry.fault)
        return
    print(f"{entry.found.reported} {entry.found.caution}")
    for at in entry.found.by_budget:
        print(f"  at {at.budget:.2g} FLOP: {at if at.known else 'not known'}")


def known(campaign: CampaignFolder) -> tuple[CampaignState, dict[str, TrialResult]]:
    """The campaign's last measured recipe as the one in force, and all results of its ledger."""
    ledger = Ledger(campaign.ledger)
    told = read(ledger)
    check_format(campaign, told.genesis, SAME_TRIALS)
    results = {entry.body.cell: entry.body.result for entry in ledger.entries(TrialEntry)}
    ledger.close()
    if told.tuning is None:
        raise SystemExit(f"{campaign.path}: generation 0 was never tuned")
    state = begin(msgspec.convert(told.genesis.settings, Settings, strict=False))
    state.zero, state.parent = told.tuning.zero, told.recipe()
    return state, results


def compared(
    state: CampaignState, results: dict[str, TrialResult], pool: Pool
) -> tuple[list[TrialSpec], VaultEntry]:
    """Compares; results grows by what is run. Returns the trials and the entry."""
    steps, answer, trials = compare_with_zero(state), None, []
    while True:
        match steps.send(answer):
            case RunTrials(groups, _):
                asked = [trial for group in groups for trial in group]
                fill(results, [trial for trial in asked if trial.id not in results], pool)
                answer = [[results[trial.id] for trial in group] for group in groups]
                trials += asked
            case AskBudget():
                answer = True
            case Record(VaultEntry() as entry):
                return trials, entry


def fill(results: dict[str, TrialResult], missing: list[TrialSpec], pool: Pool) -> None:
    def done(trial: TrialSpec, result: TrialResult) -> None:
        results[trial.id] = result
        print(f"{trial.budget:.3g} FLOP: {result.value:.4f} in {result.seconds:.0f} s", flush=True)

    pool.run(Batch([[trial] for trial in missing], done, LONGEST))


if __name__ == "__main__":
    main()
