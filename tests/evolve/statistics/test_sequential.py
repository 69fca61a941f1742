"""The sequential test: valid at every look with unknown noise, and as powerful as it says."""

import math

import msgspec
import numpy as np
import pytest

from duckweed.evolve.statistics.sequential import (
    Evidence,
    SequentialError,
    decision,
    interval,
    log_e,
    pilot,
    power,
    run,
    smallest_effect,
)
from duckweed.evolve.statistics.t_distribution import t_cdf, t_quantile

ALPHA = 0.05


def observe(differences: list[float], delta: float = 0.0, **more: float) -> Evidence:
    """Evidence after all the differences, in order."""
    evidence = Evidence(delta, **more)
    for d in differences:
        evidence = evidence.update(d)
    return evidence


def test_e_is_the_ratio_that_the_docstring_says() -> None:
    """Against direct integration over effect and sd: the definition, not the closed form."""
    d = np.array([0.3, -0.1, 0.5, 0.7, 0.2])
    spread, n = 1.5, d.size
    effect, de = np.linspace(0, 12, 1500, retstep=True)
    log_sd, ds = np.linspace(-6, 5, 1500, retstep=True)
    sd = np.exp(log_sd)[:, None]

    def likelihood(delta: np.ndarray) -> np.ndarray:
        squares = sum((x / sd - delta) ** 2 for x in d)
        return (sd ** (-n) * np.exp(-0.5 * squares)).sum(axis=0) * ds  # prior dsd/sd = d ln sd

    prior = 2 / (spread * math.sqrt(2 * math.pi)) * np.exp(-0.5 * (effect / spread) ** 2)
    inside = likelihood(effect[None]) * prior * de
    expected = (inside.sum() - 0.5 * inside[0]) / likelihood(np.zeros((1, 1)))[0]
    assert observe(d.tolist(), spread=spread).e_value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5, 9, 24])
def test_mean_of_e_is_one_without_an_effect(n: int) -> None:
    """Exactly: under the null, c = sqrt(n) cos(angle) with density ~ sin(angle)^(n-2)."""
    angle = (np.arange(400_000) + 0.5) * math.pi / 400_000
    density = np.sin(angle) ** (n - 2)
    e = np.exp(log_e(n, math.sqrt(n) * np.cos(angle)))
    assert (e * density).sum() / density.sum() == pytest.approx(1, abs=1e-4)


def noise(kind: str, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(3)
    if kind == "t5":
        return rng.standard_t(5, shape)
    if kind == "laplace":
        return rng.laplace(0, 1, shape)
    scale = np.exp(rng.normal(0, 3, (shape[0], 1))) if kind == "any sd" else 1.0
    return scale * (rng.standard_normal(shape) - (0.3 if kind == "harmful" else 0.0))


@pytest.mark.parametrize("kind", ["normal", "any sd", "harmful", "t5", "laplace"])
@pytest.mark.parametrize("most", [6, 24])
def test_false_accepts_stay_below_alpha_with_a_look_after_every_pair(kind: str, most: int) -> None:
    rate = run(noise(kind, (20_000, most)), ALPHA, most).accepted.mean()
    assert rate <= ALPHA
    if kind == "normal" and most == 24:  # not valid by never accepting
        assert rate > 0.01


def test_the_same_looks_break_the_usual_t_test() -> None:
    x = noise("normal", (4000, 24))
    wrong = np.zeros(4000, bool)
    for n in range(2, 25):
        seen = x[:, :n]
        t = seen.mean(axis=1) / (seen.std(axis=1, ddof=1) / math.sqrt(n))
        wrong |= t > t_quantile(1 - ALPHA, n - 1)
    assert wrong.mean() > 3 * ALPHA


def test_interval_holds_the_truth_at_all_looks_at_once() -> None:
    rng = np.random.default_rng(5)
    misses = 0
    for _ in range(300):
        evidence = Evidence()
        missed = False
        for d in rng.normal(0.7, 1.3, 12):
            evidence = evidence.update(float(d))
            low, high = interval(evidence, 0.9)
            missed |= not low <= 0.7 <= high
        misses += missed
    assert misses / 300 <= 0.1
    low, high = interval(observe(rng.normal(5, 1, 40).tolist()), 0.9)
    assert 4 < low < high < 6


def test_decision_agrees_with_the_vectorised_run() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((150, 12)) + rng.normal(0.3, 1, (150, 1))
    together = run(x, 0.02, 12)
    seen = set()
    for i, row in enumerate(x):
        evidence, verdict = Evidence(), "continue"
        for d in row:
            evidence = evidence.update(float(d))
            verdict = decision(evidence, 0.02, 12)
            if verdict != "continue":
                break
        seen.add(verdict)
        assert (verdict == "accepted") == together.accepted[i]
        assert (verdict == "worse") == together.worse[i]
        assert evidence.pairs == together.pairs[i]
        assert evidence.mean == pytest.approx(together.mean[i])
    assert seen >= {"accepted", "worse", "futile"}


def test_units_and_threshold() -> None:
    d = [0.02, 0.05, 0.03, 0.06]
    plain = observe(d)
    assert observe([1e6 * x for x in d]).e_value == pytest.approx(plain.e_value)
    assert observe([x + 7 for x in d], delta=7).e_value == pytest.approx(plain.e_value)
    assert observe(d, delta=0.01).e_value < plain.e_value
    assert plain.e_value > 1 > plain.e_worse
    assert observe([-x for x in d]).e_worse == pytest.approx(plain.e_value)
    assert plain.sd == pytest.approx(np.std(d, ddof=1))
    assert msgspec.json.decode(msgspec.json.encode(plain), type=Evidence) == plain


def test_no_evidence_without_data() -> None:
    assert Evidence().e_value == pytest.approx(1)
    assert observe([1.0]).e_value < 2
    assert interval(observe([1.0])) == (-math.inf, math.inf)


def test_divergence_of_the_child_is_a_loss_and_of_the_parent_an_error() -> None:
    evidence = observe([5.0, 5.1, 4.9, -math.inf])
    assert (evidence.e_value, decision(evidence, ALPHA, 24)) == (0, "worse")
    for d in (math.inf, math.nan):
        with pytest.raises(SequentialError, match="run the pair again"):
            observe([1.0, d])


def test_seeds_that_do_not_reach_the_runs_are_found() -> None:
    with pytest.raises(SequentialError, match="seeds do not reach"):
        decision(observe([0.3, 0.3, 0.3]), ALPHA, 24)
    inert = observe([0.0, 0.0])
    assert inert.inert
    assert decision(inert, ALPHA, 24) == "futile"
    assert observe([0.0, 0.0], delta=0.1).inert


def test_hopeless_tests_end_early_and_hopeful_ones_go_on() -> None:
    assert decision(observe([0.1, -0.1, 0.05, -0.08]), 1e-3, 6) == "futile"
    assert decision(observe([0.8, 1.1, 1.3]), 1e-3, 12) == "continue"
    assert decision(observe([0.1, 0.9]), 0.05, 2) == "undecided"


def test_smallest_effect_is_found_with_the_stated_power() -> None:
    sd, most = 0.02, 12
    effect = smallest_effect(sd, 0.01, most)
    fresh = np.random.default_rng(99).normal(effect, sd, (4000, most))
    assert run(fresh, 0.01, most).accepted.mean() == pytest.approx(0.8, abs=0.03)
    assert smallest_effect(2 * sd, 0.01, most) == pytest.approx(2 * effect)
    assert smallest_effect(sd, 0.01, 24) < effect < smallest_effect(sd, 0.001, most)
    assert smallest_effect(sd, 1e-3, 2) == math.inf
    assert power(0.0, 1.0, 0.01, 12) <= 0.01


def test_pilot() -> None:
    rng = np.random.default_rng(0)
    pilots = [pilot(rng.normal(0, 0.3, 16).tolist()) for _ in range(1000)]
    assert np.mean([p.sd**2 for p in pilots]) == pytest.approx(0.09, rel=0.05)
    extreme = [float(t_cdf(-abs(p.t), 15)) < 0.025 for p in pilots]
    assert np.mean(extreme) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ([0.1] * 3, "at least 4"),
        ([0.0] * 5, "seeds do not reach"),
        ([1, 2, math.nan, 3], "diverge"),
    ],
)
def test_pilots_that_say_nothing(differences: list[float], says: str) -> None:
    with pytest.raises(SequentialError, match=says):
        pilot(differences)


def test_settings_out_of_range() -> None:
    for alpha, most, says in ((0.0, 5, "alpha"), (1.0, 5, "alpha"), (0.05, 0, "one pair")):
        with pytest.raises(SequentialError, match=says):
            decision(Evidence(), alpha, most)
    with pytest.raises(SequentialError, match="sd"):
        power(1.0, 0.0, 0.05, 8)
