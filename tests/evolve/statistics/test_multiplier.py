"""The multiplier: right, with intervals that hold, and refused where there is nothing to fit."""

import math

import numpy as np
import pytest

from bench.evolve.simulation import World, final_runs
from duckweed.evolve.statistics.multiplier import MultiplierError, Run, fit, reached

BUDGETS = (1e12, 2e12, 4e12)


def runs(
    rng: np.random.Generator | None = None, m: float = 1.5, sd: float = 0.01, seeds: int = 5,
    bend: float = 0.0, fade: float = 0.0, slope: float = 0.15, budgets: tuple[float, ...] = BUDGETS,
) -> list[Run]:  # fmt: skip
    """fade: how much the child's slope (nats per e-fold) falls short of the parent's."""
    out = []
    for budget in budgets:
        x = math.log(budget / budgets[0])
        for child in (False, True):
            for _ in range(seeds):
                gain = slope * math.log(m) - fade * x if child else 0.0
                noise = sd * float(rng.standard_normal()) if rng else 0.0
                out.append(Run(budget, 3 - slope * x + bend * x * x - gain + noise, child))
    return out


def test_without_noise_the_multiplier_is_exact() -> None:
    found = fit(runs(m=1.5))
    assert (found.low, found.m, found.high) == pytest.approx((1.5, 1.5, 1.5))
    assert found.slope == pytest.approx(0.15)
    assert [a.m for a in found.by_budget] == pytest.approx([1.5] * 3, rel=1e-5)
    assert found.budgets == list(BUDGETS)


@pytest.mark.parametrize("m", [1.0, 1.6])
def test_intervals_hold_the_truth_and_the_percentile_bootstrap_does_not(m: float) -> None:
    rng = np.random.default_rng(4)
    trials, draws = 800, 400
    held = boot_held = 0
    for _ in range(trials):
        sample = runs(rng, m, 0.03)
        found = fit(sample)
        held += found.low <= m <= found.high
        low, high = percentile_bootstrap(sample, draws, rng)
        boot_held += low <= math.log(m) <= high
    assert 0.92 <= held / trials <= 0.98
    assert boot_held / trials < 0.935
    assert boot_held < held


def percentile_bootstrap(
    sample: list[Run], draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of ln m: seeds resampled within cells."""
    y = np.array([r.loss for r in sample]).reshape(len(BUDGETS), 2, -1)
    x = np.log(BUDGETS) - np.log(BUDGETS).mean()
    pick = rng.integers(0, y.shape[2], (draws, *y.shape))
    mean = np.take_along_axis(np.broadcast_to(y, pick.shape), pick, axis=3).mean(axis=3)
    slope = -np.einsum("bij,i->b", mean, x) / (2 * (x**2).sum())
    ratio = (mean[:, :, 0] - mean[:, :, 1]).mean(axis=1) / slope
    low, high = np.quantile(ratio, [0.025, 0.975])
    return float(low), float(high)


def test_units_of_loss_and_compute_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    sample = runs(rng, 1.4, 0.01)
    plain = fit(sample)
    scaled = fit([Run(7e3 * r.budget, 5 * r.loss + 2, r.child) for r in sample])
    assert (scaled.m, scaled.low, scaled.high) == pytest.approx((plain.m, plain.low, plain.high))
    wider = fit(sample, 0.99)
    assert wider.low < plain.low < plain.m < plain.high < wider.high


def test_a_gain_that_fades_with_scale_is_reported_by_budget() -> None:
    rng = np.random.default_rng(2)
    fading = fit(runs(rng, 1.6, 0.003, fade=0.03))
    assert fading.depends_on_scale
    assert not fading.curved
    assert fading.by_budget[0].m > fading.by_budget[1].m > fading.by_budget[2].m
    first, last = fading.by_budget[0], fading.by_budget[-1]
    assert first.low <= 1.6 <= first.high
    assert last.low <= 1.6 * 4 ** (-0.03 / 0.15) <= last.high


def test_checks_are_quiet_when_the_model_is_right_and_see_bends_that_differ() -> None:
    rng = np.random.default_rng(3)
    plain = [fit(final_runs(World(bend=0.3), 5, math.log(1.5), rng)) for _ in range(200)]
    assert np.mean([f.depends_on_scale for f in plain]) < 0.05
    assert np.mean([f.curved for f in plain]) < 0.05
    differ = fit(
        [
            Run(r.budget, r.loss + 0.05 * r.child * math.log(r.budget / 2e12) ** 2, r.child)
            for r in runs(rng, 1.5, 0.003)
        ]
    )
    assert differ.curved
    assert "bend differently" in differ.caution


@pytest.mark.parametrize("bend", [0.6, 0.3, -0.15])
@pytest.mark.parametrize("m", [1.3, 4.5, 7.0])
def test_intervals_hold_the_truth_where_loss_curves_bend(bend: float, m: float) -> None:
    rng = np.random.default_rng(8)
    found = [fit(final_runs(World(bend=bend), 5, math.log(m), rng)) for _ in range(100)]
    assert np.mean([f.low <= m <= f.high for f in found]) >= 0.9
    assert np.median([f.m for f in found]) == pytest.approx(m, rel=0.02)
    assert not any(f.extrapolated for f in found)


def test_where_gains_fade_the_figure_is_that_of_the_middle_budget() -> None:
    rng = np.random.default_rng(9)
    world = World(bend=-0.15, fade=0.2)
    found = [fit(final_runs(world, 5, math.log(4.5), rng)) for _ in range(100)]
    assert np.mean([f.reported.low <= 4.5 <= f.reported.high for f in found]) >= 0.9
    assert np.mean([f.depends_on_scale for f in found]) > 0.8


def test_generation_0_has_reached_a_child_whose_loss_it_has_on_the_mean() -> None:
    assert reached(runs(m=1.9))
    assert not reached(runs(m=2.1))
    assert reached([*runs(m=2.1), Run(8e12, math.inf, False)])  # nothing longer would help
    assert reached([*runs(m=2.1), Run(2e12, math.inf, True)])


def test_a_multiplier_that_generation_0_did_not_reach_is_called_extrapolated() -> None:
    rng = np.random.default_rng(10)
    beyond = runs(rng, m=3.0)
    longer = [
        Run(r.budget * 2, r.loss - 0.15 * math.log(2), False)
        for r in beyond
        if not r.child and r.budget == BUDGETS[-1]
    ]
    assert fit(beyond).extrapolated
    assert "not run until it had the child's loss (4e+12 FLOP at most)" in fit(beyond).caution
    within = fit(beyond + longer)
    assert not within.extrapolated
    assert not within.caution
    assert within.budgets == [*BUDGETS, 8e12]
    assert fit(runs(rng, m=0.3)).extrapolated


def test_of_generation_0_the_largest_budgets_count() -> None:
    rng = np.random.default_rng(11)
    sample = final_runs(World(), 5, math.log(7), rng)
    smallest = [Run(r.budget / 64, 100.0, False) for r in sample if not r.child]
    assert fit(smallest + sample).m == fit(sample).m


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (runs(budgets=(1e12, 2e12)), "at least 3"),
        ([], "at least 3"),
        (runs(seeds=1), "at least 2"),
        ([r for r in runs() if not (r.child and r.budget == 2e12)], r"2 budget\(s\) of the child"),
        ([*runs(), Run(8e12, 2.0, False)], r"1 run\(s\) of generation 0 at 8e\+12"),
        ([*runs(), Run(1e12, math.nan, True)], "the child diverged"),
        ([*runs(), Run(1e12, math.inf, False)], "generation 0 diverged"),
        ([*runs(), Run(0.0, 3.0, False)], "positive number of FLOPs"),
        (runs(slope=-0.1), "does not clearly fall"),
        (runs(np.random.default_rng(0), slope=0.001, sd=0.5), "does not clearly fall"),
    ],
)  # fmt: skip
def test_refusals(sample: list[Run], says: str) -> None:
    with pytest.raises(MultiplierError, match=says):
        fit(sample)


def test_level_out_of_range() -> None:
    with pytest.raises(MultiplierError, match="level"):
        fit(runs(), 95)


def test_where_the_gain_depends_on_scale_the_middle_budget_is_reported_and_said() -> None:
    rng = np.random.default_rng(3)
    runs = [
        Run(c * 1e12, 1 - 0.15 * np.log(c) - child * (0.1 - 0.05 * np.log(c)) + noise, bool(child))
        for c in (0.5, 1.0, 2.0)
        for child in (0, 1)
        for noise in rng.normal(0, 0.003, 5)
    ]
    found = fit(runs)
    assert found.depends_on_scale
    assert found.reported.budget == 1e12
    assert found.reported == found.by_budget[1]
    assert "shrinks with compute" in found.caution
    assert 0 < found.reported_se < 0.2
    assert found.reported.m < found.by_budget[0].m
