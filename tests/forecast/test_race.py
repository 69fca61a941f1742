"""The race: its limits, its closed forms, published figures, and that it never breaks."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.outlook.published import blow_up, closed_form, constant_law, doublings
from duckweed.forecast.field import Actors, Cut, Events, Paradigm, Shock
from duckweed.forecast.law import NO_CEILING, Law, log_speed, slope
from duckweed.forecast.outcome import explain, outcome, regime, regimes
from duckweed.forecast.race import run
from duckweed.forecast.scenario import PATHS, PRESETS, Actor, Scenario, Spread, draw, with_world
from duckweed.plan import paths as planned

MONTH = 1 / 12


def actors(**columns: list[float]) -> Actors:
    count = len(next(iter(columns.values())))
    values = {
        "compute": 1.0, "skill": 1.0, "behind": 0.0, "leak": 0.0, "delay": 0.3, "imitate": 1.0,
    }  # fmt: skip
    filled = {k: columns.get(k, [v] * count) for k, v in values.items()}
    arrays = {k: np.array(v, dtype=float)[:, None] for k, v in filled.items()}
    return Actors([f"a{i}" for i in range(count)], **arrays)


def race(law: Law, who: Actors, horizon: float, reports: int = 48, **more):
    return run(law, who, [horizon * (i + 1) / reports for i in range(reports)], **more)


def scene(world: dict, follower: Actor, horizon: float) -> Scenario:
    return Scenario("test", "", [Actor("leader"), follower], world, horizon)


@pytest.mark.parametrize("returns", [0.6, 1.0, 1.2, 2.5])
@pytest.mark.parametrize("start", [0.1, 1.0])
def test_equal_peers_keep_their_lag_on_the_calendar(returns: float, start: float) -> None:
    world = {"returns": returns, "automation_start": start, "automation_span": 2.0}
    drawn = draw(scene(world, Actor("peer", lag=1.0), 3.0), 1)
    track = race(drawn.law, drawn.actors, 3.0)
    assert track.lag[:, 1, 0] == pytest.approx(MONTH, rel=0.05)


@pytest.mark.parametrize("lag", [0.5, 24.0])
def test_full_leak_brings_the_lag_to_the_delay(lag: float) -> None:
    follower = Actor("follower", compute=0.05, lag=lag, leak=1.0, delay=4.0)
    world = {"automation_start": 0.0, "automation_full": 0.0, "ceiling": 0.0}
    drawn = draw(scene(world, follower, 30.0), 1)
    track = race(drawn.law, drawn.actors, 30.0, reports=240)
    assert track.lag[-1, 1, 0] == pytest.approx(4 * MONTH, rel=0.02)


def test_fewer_resources_and_returns_above_one_diverge_in_finite_time() -> None:
    law = constant_law(2.0, 8.0, 0.3, NO_CEILING)
    track = race(law, actors(compute=[1.0, 0.3], behind=[0.0, MONTH]), 2.0)
    expected = blow_up(32.0, math.log(2) * 0.3 * 0.5)
    assert track.diverges[0] == pytest.approx(expected, rel=1e-4)
    assert track.peak[1, 0] / 8 > 30  # decades of today's progress, all at once
    assert np.isfinite(track.level).all()
    assert np.isfinite(track.lag).all()


def test_returns_below_one_bound_the_gap() -> None:
    """With v ~ e^(-kx) two actors settle ln(w1/w2)/k apart, however long the race lasts."""
    law, weight = constant_law(0.7, 8.0, 0.3, NO_CEILING), 0.5**0.3
    track = race(law, actors(compute=[1.0, 0.5], behind=[0.0, MONTH]), 50.0)
    k = math.log(2) * 0.3 * (1 / 0.7 - 1)
    gap = track.level[:, 0, 0] - track.level[:, 1, 0]
    assert gap[-1] == pytest.approx(-math.log(weight) / k, rel=0.05)
    assert gap.max() < 1.2 * -math.log(weight) / k


@pytest.mark.parametrize("speedup", [1.0, 12.0, 36.0])
def test_a_month_at_a_speed_up_s_is_s_months(speedup: float) -> None:
    """At constant speed (returns 1): 12 times today's speed makes a month a year."""
    law = constant_law(1.0, speedup, 0.3, NO_CEILING)
    track = race(law, actors(behind=[0.0, MONTH]), 1.0)
    years = track.gap_years(np.ones(1), np.zeros(1), np.array([[0.0], [MONTH]]))
    assert years[-1, 1, 0] == pytest.approx(speedup * MONTH, rel=1e-6)


@pytest.mark.parametrize("returns", [0.6, 1.0, 1.2, 2.0, 3.6])
@pytest.mark.parametrize("parallel", [0.15, 0.6])
def test_closed_form_without_ceiling(returns: float, parallel: float) -> None:
    law = constant_law(returns, 8.0, parallel, NO_CEILING)
    k = math.log(2) * parallel * (1 - 1 / returns)
    until = min(2.0, 0.99 * blow_up(32.0, k))
    times = np.linspace(until / 10, until, 10)
    track = run(law, actors(behind=[0.0, 0.0]), list(times), step=0.02)
    assert track.level[:, 0, 0] == pytest.approx(closed_form(32.0, k, times), rel=1e-6)


def test_forethoughts_central_path() -> None:
    """Years of progress after 1, 3, 6, 12, 24, 48 months at (8, 1.2, 0.3, 9), as published."""
    months = np.array([1, 3, 6, 12, 24, 48])
    published = np.array([0.34, 1.11, 2.31, 3.94, 5.05, 5.71])
    times, levels = doublings(8, 1.2, 9, 0.3)
    assert np.interp(months / 12, times, levels) / 8 == pytest.approx(published, rel=0.01)
    track = run(constant_law(1.2, 8.0, 0.3, 72.0), actors(behind=[0.0, 0.0]), list(months / 12))
    assert track.level[:, 0, 0] / 8 == pytest.approx(published, rel=0.03)


def test_forethoughts_published_figures() -> None:
    """About 60 % for 3 years of progress within one, about 20 % for 10; and a follower one month
    behind is over a year behind in 39 %, over three in 27 % (30,000 samples of their code)."""
    result = outcome(PRESETS["forethought"], 6000, seed=1)
    assert result.compressed[0] == pytest.approx(0.6, abs=0.05)
    assert result.compressed[1] == pytest.approx(0.2, abs=0.05)
    follower = result.followers[0]
    assert follower.chance[0] == pytest.approx(0.392, abs=0.025)
    assert follower.chance[1] == pytest.approx(0.274, abs=0.025)


def test_access_cut_leaves_the_follower_alone_while_it_lasts() -> None:
    who = actors(compute=[1.0, 0.01], behind=[0.0, 0.5], leak=[0.0, 1.0])
    law = constant_law(1.0, 1.0, 0.3, NO_CEILING)
    cut = Events(cuts=(Cut(1.0, 2.0, (1,)),))
    free, held = race(law, who, 4.0), race(law, who, 4.0, events=cut)
    assert held.lag[11, 1, 0] == pytest.approx(free.lag[11, 1, 0], rel=1e-6)
    own = 0.01**0.3  # what it manages alone, of the leader's speed
    assert held.lag[23, 1, 0] - held.lag[11, 1, 0] == pytest.approx(1 - own, rel=0.01)
    assert held.lag[-1, 1, 0] < held.lag[23, 1, 0]


def test_compute_shock_changes_the_speed_from_then_on() -> None:
    law = constant_law(1.0, 1.0, 0.5, NO_CEILING)
    track = race(law, actors(behind=[0.0, 0.0]), 2.0, events=Events(shocks=(Shock(1.0, 1, 0.25),)))
    assert track.level[23, 1, 0] == pytest.approx(4.0, rel=1e-9)
    assert track.level[-1, 1, 0] == pytest.approx(4.0 + 4.0 * 0.5, rel=1e-9)


def test_new_paradigm_is_found_in_proportion_to_effort() -> None:
    one = np.ones(4000)
    law = Law(one, one, 0.5 * one, NO_CEILING * one, one, one, one)
    who = actors(compute=[1.0, 0.25], behind=[0.0, 2.0])
    track = run(law, who, [20.0], Events(paradigm=Paradigm(1.0, 2.0)), seed=3)
    assert (track.finder >= 0).all()
    assert (track.finder == 1).mean() == pytest.approx(0.5 / 1.5, abs=0.03)
    assert (track.level[-1].max(axis=0) > track.level[-1].min(axis=0)).all()


@settings(max_examples=25, deadline=None)
@given(
    returns=st.floats(0.05, 50), speedup=st.floats(1, 1000), parallel=st.floats(0.02, 1),
    ceiling=st.sampled_from([4.0, 100.0, NO_CEILING]), start=st.floats(0, 1),
    compute=st.floats(1e-6, 10), lag=st.floats(0, 20), leak=st.floats(0, 1),
    delay=st.floats(0, 3), imitate=st.floats(1, 50),
)  # fmt: skip
@example(  # a follower that imitates on its way to zero, under a law that falls steeply after it
    returns=0.125, speedup=1.0, parallel=1.0, ceiling=100.0, start=0.0, compute=1.0, lag=12.0,
    leak=0.0, delay=0.0, imitate=2.0,
)  # fmt: skip
def test_no_parameters_break_the_integrator(
    returns, speedup, parallel, ceiling, start, compute, lag, leak, delay, imitate
) -> None:
    """No NaN, no infinity but in `diverges`, no endless loop, levels never fall."""
    one = np.ones(1)
    law = Law(
        returns * one, speedup * one, parallel * one, ceiling * one, start * one, one, 4 * one
    )
    who = actors(compute=[1.0, compute], behind=[0.0, lag], leak=[0.0, leak],
                 delay=[0.0, delay], imitate=[1.0, imitate])  # fmt: skip
    track = race(law, who, 5.0, reports=10)
    assert np.isfinite(track.level).all()
    assert np.isfinite(track.lag).all()
    assert (np.diff(track.level, axis=0) >= -1e-9).all()
    assert (track.lag >= -1e-6).all()


@settings(max_examples=50, deadline=None)
@given(
    returns=st.floats(0.3, 5), parallel=st.floats(0.1, 1), start=st.floats(0, 1),
    span=st.floats(0.5, 50), x=st.floats(0.01, 60),
)  # fmt: skip
def test_slope_is_the_derivative_of_the_speed(returns, parallel, start, span, x) -> None:
    one = np.ones(1)
    law = Law(returns * one, 8 * one, parallel * one, 72 * one, start * one, one, span * one)
    h = 1e-5
    if abs(x - span) < 2 * h:
        return
    ends = log_speed(law, np.array([x + h])) - log_speed(law, np.array([x - h]))
    assert ends[0] / (2 * h) == pytest.approx(slope(law, np.array([x]))[0], rel=1e-3, abs=1e-3)


def test_samples_do_not_depend_on_their_neighbours() -> None:
    """A sample alone and among thousands gives the same, as do two runs."""
    drawn = draw(PRESETS["collective"], 5000, seed=4)
    many = run(drawn.law, drawn.actors, [0.5, 1.0])
    again = run(drawn.law, drawn.actors, [0.5, 1.0])
    pick = np.array([17, 4321])
    few = run(drawn.law.take(pick), drawn.actors.take(pick), [0.5, 1.0])
    assert (many.level == again.level).all()
    assert many.level[:, :, pick] == pytest.approx(few.level, rel=1e-9)
    assert many.lag[:, :, pick] == pytest.approx(few.lag, rel=1e-6, abs=1e-9)


def test_regime_map_names_the_corners() -> None:
    chart = regimes(PRESETS["peers"], compute=(1.0, 0.03))
    assert chart.gap[0][0][-1] >= 1  # equal means, no leak, high returns: in the dust
    assert regime(chart.gap[1][0][-1], chart.start) == "left in the dust"
    assert regime(chart.gap[1][-1][0], chart.start) in ("keeps pace", "catches up")
    poor, rich = np.array(chart.gap[1]), np.array(chart.gap[0])
    assert (poor[:, 0] >= rich[:, 0] - 1e-6).all()


def test_what_it_depends_on_is_returns() -> None:
    result = outcome(PRESETS["forethought"], 3000)
    by = [part.chance[0] for part in result.by_returns]
    assert by == sorted(by)
    assert by[0] < 0.1 < 0.8 < by[-1]


def test_measured_returns_replace_the_prior() -> None:
    spread = Spread(1.5, 1.2, 1.9, "lognormal", 0.8)
    draws = spread.draw(np.random.default_rng(0), 20_000)
    assert np.quantile(draws, 0.5) == pytest.approx(1.5, rel=0.02)
    assert np.quantile(draws, 0.9) - np.quantile(draws, 0.1) == pytest.approx(0.7, rel=0.05)


def test_paths_are_worth_what_the_planner_takes_for_as_many_as_were_measured() -> None:
    worth = planned.equivalent(planned.most(), 1.0)
    assert PATHS.low == pytest.approx(worth.low, abs=0.05)
    assert PATHS.central == pytest.approx(worth.median, abs=0.05)
    assert PATHS.high == pytest.approx(worth.high, abs=0.05)


def test_a_collective_of_paths_is_a_collective_with_as_many_times_the_compute() -> None:
    scenario = PRESETS["paths"]
    worth = with_world(scenario, {"collective.paths": 4.0, "collective.compute": 0.01})
    plain = with_world(scenario, {"collective.paths": 1.0, "collective.compute": 0.04})
    assert outcome(worth, 200, seed=2).followers == outcome(plain, 200, seed=2).followers
    assert "extrapolated" in scenario.about
    assert "extrapolated" in {row[0]: row[3] for row in explain(scenario)}["collective.paths"]
