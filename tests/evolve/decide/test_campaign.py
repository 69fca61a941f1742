"""The decision core in a world whose truth is known."""

import math

import msgspec
import pytest

from duckweed.evolve.budget import Budget, BudgetError
from duckweed.evolve.campaign.history import History, read
from duckweed.evolve.campaign.journal import Journal, JournalError
from duckweed.evolve.decide.campaign import MOST_EMPTY_ROUNDS, begin
from duckweed.evolve.decide.final_comparison import compare_with_zero
from duckweed.evolve.decide.pruning import prune
from duckweed.evolve.decide.requests import AskBudget, Record, RunTrials
from duckweed.evolve.entries import AnnouncementEntry, DecisionEntry, ScreeningEntry, TrialEntry
from evolve.simulated import NOISE, PLAIN, SETTINGS, SLOPE, SimulatedPool, decide, gain, loop
from evolve.simulated import run as made_run

ENOUGH = Budget(flops=8e11)


def told(path) -> History:
    journal = Journal(path)
    history = read(journal.ledger)
    journal.close()
    return history


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "campaign"
    found = loop(path, ENOUGH)
    found.run()
    found.journal.close()
    return path, found.state, told(path)


def test_generation_0_is_tuned_to_the_best_rate_and_batch(campaign):
    _, state, _ = campaign
    assert state.zero["inner.learning_rate"] == 0.02
    assert state.zero["inner.batch"] == 4
    assert state.slope == pytest.approx(SLOPE, rel=0.1)


def test_tuning_goes_on_beyond_the_edge_of_its_grid(tmp_path):
    settings = msgspec.structs.replace(SETTINGS, rates=(0.25, 0.5))
    found = loop(tmp_path / "c", ENOUGH, SimulatedPool(breaks=60), settings)
    found.run()
    assert found.state.zero["inner.learning_rate"] == 0.02


def test_generation_0_is_one_that_every_trial_of_the_campaign_can_train(tmp_path):
    found = loop(tmp_path / "c", ENOUGH, SimulatedPool(breaks=60))
    found.allocator.affordable = lambda recipe: "too long" if recipe["inner.batch"] < 8 else None
    found.run()
    assert found.state.zero["inner.batch"] == 8  # 4 would be better
    found.journal.close()
    ledger = Journal(tmp_path / "c").ledger
    batches = {e.body.what.recipe["inner.batch"] for e in ledger.entries(TrialEntry)}
    ledger.close()
    assert min(batches) == 8


def test_what_helps_is_adopted_and_the_comparison_says_by_how_much(campaign):
    _, state, history = campaign
    assert state.parent["good"]
    assert state.parent["better"]
    best = history.best()
    assert best is not None
    assert best.comparison is not None
    true = math.exp(gain(best.recipe) - gain(state.zero))
    assert best.comparison.low < true < best.comparison.high


def test_the_comparison_is_with_generation_0_on_seeds_of_its_own(campaign):
    path, state, _ = campaign
    journal = Journal(path)
    trials = [entry.body for entry in journal.ledger.entries(TrialEntry)]
    journal.close()
    vault = {t.what.seed for t in trials if t.what.split == "vault"}
    others = {t.what.seed for t in trials if t.what.split == "select"}
    assert len(vault) == SETTINGS.vault_seeds
    assert not vault & others
    zeros = [t for t in trials if t.what.split == "vault" and t.what.recipe == state.zero]
    # once for all generations: at the budgets of both, and on until it has the child's loss (2.0x)
    budgets = sorted({t.what.budget for t in zeros})
    assert budgets == [0.5e9, 1e9, 2e9, 4e9]
    assert len(zeros) == SETTINGS.vault_seeds * len(budgets)


def longer(history: History) -> list[float]:
    """Budgets that generation 0 alone was run at, over the largest of both."""
    assert history.generations[-1].comparison
    return [b / 2e9 for b in history.generations[-1].comparison.budgets if b > 2e9]


def test_generation_0_is_run_longer_until_it_has_the_childs_loss(campaign):
    _, _, history = campaign
    assert longer(history) == [2.0]
    for generation in history.generations:
        assert generation.comparison is not None
        assert not generation.comparison.extrapolated


def test_a_comparison_that_the_budget_does_not_pay_to_the_end_says_what_it_continues(tmp_path):
    """Just enough for the first comparison at equal budgets; more budget afterwards changes nothing of it."""
    found = loop(tmp_path / "c", ENOUGH)
    found.account.pays = lambda flops: False
    found.run()
    found.journal.close()
    history = told(tmp_path / "c")
    assert not longer(history)
    assert history.generations[-1].comparison.extrapolated
    again = loop(tmp_path / "c", Budget(flops=9e11))
    again.run()
    again.journal.close()
    assert told(tmp_path / "c").generations[-1].comparison.extrapolated


def test_what_generation_0_ran_longer_is_not_run_again_and_needs_no_budget():
    state = begin(SETTINGS)
    state.zero = PLAIN | {"inner.learning_rate": 0.02, "inner.batch": 4}
    state.parent = state.zero | {"good": True, "better": True}
    first, asked = opened(state, paid=True)
    assert asked == [SETTINGS.vault_seeds * 4e9]
    second, asked = opened(state, paid=False)
    assert not asked
    assert second.found == first.found
    assert not second.found.extrapolated


def opened(state, paid):
    """What the vault notes, and the FLOPs that it asks for."""
    steps, answer, asked = compare_with_zero(state), None, []
    while True:
        match steps.send(answer):
            case RunTrials(groups, _):
                answer = [[made_run(trial) for trial in group] for group in groups]
            case AskBudget(flops, _):
                asked.append(flops)
                answer = paid
            case Record(entry):
                return entry, asked


def test_confirmation_uses_no_seed_of_screening_or_of_another_proposal(campaign):
    path, _, _ = campaign
    journal = Journal(path)
    entries = [e.body for e in journal.ledger.entries(AnnouncementEntry, TrialEntry)]
    journal.close()
    trials = [e for e in entries if isinstance(e, TrialEntry)]
    screened = {e.what.seed for e in trials if e.purpose == "screening"}
    seen: set[int] = set()
    current: set[int] = set()
    for entry in entries:
        if isinstance(entry, AnnouncementEntry):
            assert not current & seen
            seen |= current
            current = set()
        elif isinstance(entry, TrialEntry) and entry.purpose == "confirmation":
            current.add(entry.what.seed)
    assert seen
    assert not seen & screened


def test_every_confirmation_was_announced_before_its_first_run(campaign):
    path, _, _ = campaign
    journal = Journal(path)
    announced = None
    for entry in journal.ledger.entries(AnnouncementEntry, TrialEntry, DecisionEntry):
        match entry.body:
            case AnnouncementEntry(number=number):
                announced = number
            case TrialEntry(purpose="confirmation"):
                assert announced is not None
            case DecisionEntry(number=number):
                assert number == announced
                announced = None
    journal.close()


def test_the_budget_in_flops_is_never_exceeded_and_all_of_it_is_counted(campaign):
    _, state, history = campaign
    assert history.spent == pytest.approx(state.spent)
    assert history.spent <= ENOUGH.flops
    assert history.spent > 0.7 * ENOUGH.flops


@pytest.mark.parametrize("breaks", [29, 70])
def test_an_interrupted_campaign_goes_on_and_nothing_is_run_twice(breaks, tmp_path):
    budget, reasons, runs = Budget(flops=3e11), [], 0
    while not reasons or reasons[-1] == "interrupted":
        workers = SimulatedPool(breaks)
        found = loop(tmp_path / "c", budget, workers)
        reasons.append(found.run())
        found.journal.close()
        runs += workers.done
    assert len(reasons) > 2
    assert "budget is spent" in reasons[-1]
    history = told(tmp_path / "c")
    assert sum(run.count for run in history.runs.values()) == runs
    # once more from the start: every decision must follow from the ledger as it stands
    again = loop(tmp_path / "c", budget, SimulatedPool(breaks=0))
    assert "budget is spent" in again.run()
    assert not again.journal.replaying
    assert again.state.spent == pytest.approx(history.spent)
    again.journal.close()


def test_a_changed_ledger_is_noticed(campaign, tmp_path):
    found = loop(tmp_path / "c", ENOUGH, SimulatedPool(breaks=40))
    found.run()
    found.journal.ledger._db.execute(
        "UPDATE ledger SET body = replace(body, '\"loss\":', '\"loss\":1') WHERE kind = 'trial'"
    )
    found.journal.close()
    with pytest.raises(ValueError, match="changed after it was written"):
        Journal(tmp_path / "c")


def test_other_settings_do_not_go_on_with_the_ledger(tmp_path):
    found = loop(tmp_path / "c", ENOUGH, SimulatedPool(breaks=60))
    found.run()
    found.journal.close()
    other = loop(
        tmp_path / "c", ENOUGH, None, msgspec.structs.replace(SETTINGS, pilot=5, alpha=0.2)
    )
    with pytest.raises(JournalError, match="other settings"):
        other.run()


def test_a_budget_too_small_for_the_pilot_is_refused_with_what_is_needed(tmp_path):
    found = loop(tmp_path / "c", Budget(flops=1e10))
    with pytest.raises(BudgetError, match=r"too small.*Give at least --budget [0-9.e+]+flop"):
        found.run()
    assert not found.journal.results


def test_a_child_that_another_worker_cannot_reproduce_is_not_accepted(tmp_path):
    def other(result):
        return msgspec.structs.replace(result, weights="something else")

    found = loop(tmp_path / "c", ENOUGH, SimulatedPool(lies=other))
    found.run()
    found.journal.close()
    history = told(tmp_path / "c")
    accepted = [d for d in history.decisions if d.verdict == "accepted"]
    assert accepted
    assert not history.generations
    assert all("another worker" in d.why for d in accepted)


def test_false_accepts_stay_below_alpha_and_no_harm_is_accepted():
    """Through the decision core; 500 campaigns of the bare statistics are in tests/bench."""
    verdicts = []
    for seed in range(14):
        settings = msgspec.structs.replace(SETTINGS, seed=seed, plant=1.0)
        state, found = decide(settings, 1.2e12)
        verdicts += found
        assert not state.parent.get("bad")
        assert not state.parent.get("awful")
    nothing = [v.accepted for v in verdicts if v.kind in ("same", "null")]
    harmful = [v.accepted for v in verdicts if v.kind == "harmful"]
    assert len(nothing) >= 200
    assert len(harmful) >= 50
    assert sum(nothing) <= SETTINGS.alpha * len(nothing)
    assert not any(harmful)
    assert any(v.accepted for v in verdicts if v.kind == "real")  # not by accepting nothing


def pruned(state, refused=()):
    """What pruning gives where the recipes that lack one of the `refused` keys are out of bounds."""
    steps, answer = prune(state), None
    try:
        while True:
            request = steps.send(answer)
            answer = None
            if hasattr(request, "recipes"):
                answer = [all(key in r for key in refused) for r in request.recipes]
            elif hasattr(request, "groups"):
                answer = [[made_run(trial) for trial in group] for group in request.groups]
    except StopIteration as end:
        return end.value


def test_a_change_that_was_adopted_for_nothing_is_taken_back():
    state = begin(SETTINGS)
    state.zero = PLAIN | {"inner.learning_rate": 0.02, "inner.batch": 4}
    state.parent = state.zero | {"good": True, "bad": True}
    assert pruned(state)
    assert state.parent == state.zero | {"good": True}


def test_what_holds_a_recipe_within_its_bounds_is_not_taken_back():
    state = begin(SETTINGS)
    state.zero = PLAIN | {"inner.learning_rate": 0.02, "inner.batch": 4}
    state.parent = state.zero | {"good": True, "bad": True}
    assert not pruned(state, refused=["bad"])
    assert state.parent == state.zero | {"good": True, "bad": True}


def test_a_campaign_without_ideas_ends_and_says_so(tmp_path):
    at_work = loop(tmp_path / "c", ENOUGH)
    at_work.allocator.proposers = []
    assert at_work.run() == "nobody proposes anything new any more"
    assert len(list(at_work.journal.ledger.entries(ScreeningEntry))) == MOST_EMPTY_ROUNDS
    at_work.journal.close()


def test_the_pilot_states_the_noise_and_the_smallest_effect(campaign):
    _, _, history = campaign
    assert history.pilot is not None
    # two runs on different seeds, each with the seed's own part and the run's
    assert history.pilot.sd == pytest.approx(2 * NOISE, rel=0.6)
    assert history.pilot.smallest_multiplier > 1.01


def test_every_proposer_is_charged_for_what_its_proposals_cost(campaign):
    _, state, history = campaign
    for name, credit in state.credits.items():
        assert history.proposers[name].flops == pytest.approx(credit.spent), name
        assert history.proposers[name].gain == pytest.approx(credit.gain), name
    assert history.proposers["random"].flops > 0  # the control is always on
