"""The multiplier: right, with intervals that hold, and refused where there is nothing to fit."""

import math

import numpy as np
import pytest

from duckweed.evolve.multiplier import MultiplierError, Run, fit

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
    assert found.m == pytest.approx(1.5)
    assert found.slope == pytest.approx(0.15)
    assert found.low == pytest.approx(1.5)
    assert found.high == pytest.approx(1.5)
    assert found.p_better == 1
    assert [a.m for a in found.by_budget] == pytest.approx([1.5] * 3)
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


def test_confidence_in_better_is_uniform_when_nothing_changed() -> None:
    rng = np.random.default_rng(6)
    p = np.array([fit(runs(rng, 1.0, 0.03)).p_better for _ in range(400)])
    assert (p > 0.95).mean() == pytest.approx(0.05, abs=0.035)
    assert np.median(p) == pytest.approx(0.5, abs=0.08)


def test_smallest_multiplier_is_found_as_often_as_stated() -> None:
    rng = np.random.default_rng(7)
    smallest = float(np.median([fit(runs(rng, 1.0, 0.02)).smallest for _ in range(100)]))
    found = [fit(runs(rng, smallest, 0.02)).p_better > 0.95 for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


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


def test_checks_are_quiet_when_the_model_is_right_and_see_a_bend() -> None:
    rng = np.random.default_rng(3)
    plain = [fit(runs(rng, 1.5, 0.01)) for _ in range(200)]
    assert np.mean([f.depends_on_scale for f in plain]) < 0.05
    assert np.mean([f.curved for f in plain]) < 0.05
    assert fit(runs(rng, 1.5, 0.003, bend=0.02)).curved


def test_a_multiplier_beyond_the_budgets_is_called_extrapolated() -> None:
    beyond, within = fit(runs(m=5.0)), fit(runs(m=3.0))
    assert beyond.extrapolated
    assert "beyond 4 times" in beyond.caution
    assert not within.extrapolated
    assert not within.caution


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (runs(budgets=(1e12, 2e12)), "at least 3"),
        ([], "at least 3"),
        (runs(seeds=1), "at least 2"),
        ([r for r in runs() if not (r.child and r.budget == 2e12)], r"0 run\(s\) of the child at 2e\+12"),
        ([*runs(), Run(1e12, math.nan, True)], "the child diverged"),
        ([*runs(), Run(1e12, math.inf, False)], "the parent diverged"),
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
    same = fit(
        [r for r in runs if not r.child]
        + [Run(r.budget, r.loss - 0.05, True) for r in runs if not r.child]
    )
    assert not same.caution
    assert same.reported.m == same.m
    assert same.reported_se == same.se
