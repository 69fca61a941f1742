"""Trends, their coverage, back-tests, crossings, cadence and settings."""

import datetime as dt
import math

import numpy as np
import pytest

from bench.outlook.published import catch_up_years
from duckweed.forecast.cadence import compute_gap, open_lags, record_cadence
from duckweed.forecast.crossing import crossing, dates
from duckweed.forecast.data.table import own_facts
from duckweed.forecast.scenario import Spread
from duckweed.forecast.setting import SettingError, parse, parse_race
from duckweed.forecast.trend import (
    Series,
    Trend,
    TrendError,
    all_series,
    back_test,
    fit,
    with_growth,
)

TODAY = dt.date(2026, 11, 23)
NOW = 2026.9


def line(slope: float, points: int, noise: float, seed: int, start: float = 24.0) -> Series:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(2020, 2026, points))
    y = start + slope * (t - 2023) + noise * rng.standard_normal(points)
    return Series(
        key="s", label="series", unit="FLOP", t=t.tolist(), y=y.tolist(), names=[""] * points
    )


def test_the_80_percent_interval_covers() -> None:
    """76 to 84 % of 1,000 simulated cases, for growth, level in 2028, and the date of crossing a
    fixed level; bench/outlook/forecast.py prints more sizes and noises."""
    rng, hits, points = np.random.default_rng(9), np.zeros(3), 12
    truth = np.array([0.7, 24 + 0.7 * 5, 2023 + 3.0 / 0.7])
    for case in range(1000):
        t = np.sort(rng.uniform(2020, 2026, points))
        y = 24 + 0.7 * (t - 2023) + 0.35 * rng.standard_normal(points)
        series = Series(key="s", label="s", unit="", t=t.tolist(), y=y.tolist(), names=[])
        trend = fit(series, "steady", 300, seed=case)
        at = (27.0 - trend.level) / trend.rate + trend.origin
        for i, draws in enumerate((trend.rate, trend.at(np.array([2028.0]))[:, 0], at)):
            low, high = np.quantile(draws, [0.1, 0.9])
            hits[i] += low <= truth[i] <= high
    assert (hits / 1000 >= 0.76).all()
    assert (hits / 1000 <= 0.84).all()


def test_fit_finds_the_growth_and_its_form() -> None:
    trend = fit(line(math.log10(5), 40, 0.2, 1), "steady", 2000)
    low, middle, high = trend.factor(2026)
    assert low < 5 < high
    assert middle == pytest.approx(5, rel=0.1)
    t = np.linspace(2020, 2026, 40)
    fading = 18 + 2.0 * 1.5 * (1 - np.exp(-(t - 2020) / 1.5))
    noisy = fading + 0.05 * np.random.default_rng(0).standard_normal(40)
    curve = fit(
        Series(key="s", label="s", unit="", t=t.tolist(), y=noisy.tolist(), names=[]), "mixed"
    )
    assert np.isfinite(curve.tau).mean() > 0.99
    assert np.median(curve.tau) == pytest.approx(1.5)
    assert np.median(curve.growth(2026.0)) == pytest.approx(2 * math.exp(-4), abs=0.02)


def test_too_few_points_are_refused_or_said() -> None:
    with pytest.raises(TrendError, match="2 usable points"):
        fit(line(1, 2, 0.1, 0))
    three = fit(line(1, 3, 0.01, 0), "steady")
    assert three.series.few
    assert np.ptp(np.quantile(three.rate, [0.1, 0.9])) > 0.05  # not the 0.01 that three points show


def test_back_test_prefers_the_truth() -> None:
    """On a straight line steady beats no growth, and its interval holds most later points."""
    held = {h.form: h for h in back_test(line(0.7, 40, 0.2, 3), [2023.5])}
    assert held["steady"].error < 0.5 * held["flat"].error
    assert held["steady"].inside > 0.5
    assert held["steady"].seen + held["steady"].later == 40


def exact(level: float, rate: float, origin: float = NOW) -> Trend:
    one = np.ones(3)
    series = Series(key="s", label="s", unit="", t=[origin], y=[level], names=[""])
    return Trend(series, "set", origin, level * one, rate * one, np.inf * one, 0 * one, 0 * one)


def test_epochs_five_and_a_half_years() -> None:
    """20x against 5x from a 2,000-fold gap: 5.48 by formula, by trends, and from the settings."""
    assert catch_up_years(2000, 20, 5) == pytest.approx(5.48, abs=0.01)
    assert catch_up_years(1000, 20, 5) == pytest.approx(4.98, abs=0.01)
    assert catch_up_years(1000, 5, 5) == math.inf
    series = all_series(own_facts(TODAY))
    crowd = with_growth(fit(series["decentralised"]), 20, 20)
    frontier = with_growth(fit(series["frontier"]), 5, 5)
    cross = crossing(crowd, frontier, NOW, "the frontier", math.log10(2000))
    assert cross.date[1] - NOW == pytest.approx(5.48, abs=0.01)


def test_crossing_is_never_where_growth_is_slower() -> None:
    assert np.isinf(dates(exact(23, 0.5), exact(26, 0.7), NOW)).all()
    assert dates(exact(23, 1.0), exact(26, 0.7), NOW) == pytest.approx(NOW + 10)
    assert dates(exact(27, 0.1), exact(26, 0.7), NOW) == pytest.approx(NOW)
    cross = crossing(exact(23, 0.5), exact(26, 0.7), NOW, "x")
    assert cross.never == 1.0
    assert cross.date == (None, None, None)
    assert cross.years[1] == pytest.approx(3 / 0.7)


def test_the_tables_as_they_are() -> None:
    facts = own_facts(TODAY)
    assert len(facts.models) >= 60
    assert facts.models[0].name == "GPT-2"
    assert all(m.source and m.basis for m in facts.models)
    runs = [r for r in facts.runs if r.status == "complete"]
    gap = compute_gap(runs, facts.models, TODAY)
    assert gap is not None
    assert 2.5 < gap.orders < 3.5
    cadence = record_cadence(facts.scores, "all makers", dt.date(2025, 1, 1))
    assert cadence is not None
    assert 20 < cadence.median_days < 60
    assert 0 <= min(lag.months for lag in open_lags(facts.scores)) < 24


def test_growth_agrees_with_epoch() -> None:
    """Epoch: about 5x a year (4.2 to 5.9); our records give 4.2 to 5.0 at 80 %."""
    low, middle, high = fit(all_series(own_facts(TODAY))["frontier"], "steady").factor(2026)
    assert 4.2 < middle < 5.9
    assert low < high


def test_as_of_uses_only_what_was_known_then() -> None:
    then = own_facts(dt.date(2023, 6, 1))
    assert max(m.date for m in then.models) <= dt.date(2023, 6, 1)
    assert {m.name for m in then.models} >= {"GPT-4", "PaLM 540B"}
    assert not [r for r in then.runs if r.name == "INTELLECT-1"]


def test_settings_read_factors_ranges_and_names() -> None:
    chosen = parse(
        ["frontier.growth=3x", "decentralised.growth=2x..5x", "decentralised.gap=2000x",
         "china_open.form=steady", "race.returns=0.8..1.6", "race.rival.leak=0..0.4"],
        ["frontier", "decentralised", "china_open"],
    )  # fmt: skip
    assert chosen.growth == {"frontier": (3.0, 3.0), "decentralised": (2.0, 5.0)}
    assert chosen.gap == 2000
    assert chosen.form == {"china_open": "steady"}
    assert isinstance(chosen.race["returns"], Spread)
    assert chosen.race["rival.leak"] == Spread(0.2, 0.0, 0.4, "linear")
    assert parse_race(["race.returns=2", "speedup=4"]) == {"returns": 2.0, "speedup": 4.0}


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["frontier.growth"], "expected KEY=VALUE"),
        (["frontier.growth=fast"], "is no number"),
        (["frontier.growth=0"], "low <= high"),
        (["frontier.growth=5..3"], "low <= high"),
        (["nobody.growth=3"], "no series nobody"),
        (["frontier.gap=3"], "only decentralised a gap"),
        (["frontier.growth=3", "frontier.growth=4"], "given twice"),
        (["frontier.growth=3", "frontier.form=steady"], "contradict"),
        (["frontier.form=round"], "steady, slowing, mixed"),
        (["race.luck=3"], "the race has returns"),
        (["race.rival.luck=3"], "a field of compute"),
        (["decentralised.gap=0.5"], "at least 1"),
        (["race.returns=nan"], "is no number"),
    ],
)
def test_bad_settings_say_what_was_expected(items: list[str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        parse(items, ["frontier", "decentralised"])
