"""500 simulated campaigns with known effects: the loop's report is right, the greedy rule's not."""

import pytest

from bench.evolve.simulation import Plan, Study, World, study

PLAN = Plan()


@pytest.fixture(scope="module")
def mixed() -> Study:
    return study(World(), PLAN, 500)


@pytest.fixture(scope="module")
def nothing() -> Study:
    return study(World(helpful=0.0, harmful=0.5), PLAN, 300)


def test_the_reported_gain_is_unbiased_and_its_interval_holds_the_truth(mixed: Study) -> None:
    assert 0.90 <= mixed.loop.coverage <= 0.98
    assert abs(mixed.loop.bias) < 0.01
    assert mixed.loop.gain > 1


def test_the_greedy_rule_reports_what_is_not_there(mixed: Study, nothing: Study) -> None:
    assert mixed.greedy.bias > 0.03
    assert mixed.greedy.coverage < mixed.loop.coverage - 0.04
    assert mixed.greedy.false_share > 0.3
    assert nothing.greedy.gain <= 0
    assert nothing.greedy.reported > 0.08
    assert nothing.greedy.coverage < 0.8
    assert nothing.greedy_more.coverage <= nothing.greedy.coverage
    assert 0.90 <= nothing.loop.coverage <= 0.98


def test_false_accepts_stay_below_alpha(mixed: Study, nothing: Study) -> None:
    for found in (mixed.loop, nothing.loop):
        assert found.nulls >= 200
        assert found.nulls_accepted <= PLAN.alpha * found.nulls
        assert found.harmful_accepted <= PLAN.alpha * max(found.harmful, 1)
        assert found.false_share <= PLAN.alpha
    assert nothing.loop.nulls_accepted > 0  # not by accepting nothing


def test_the_stated_power_is_there(mixed: Study) -> None:
    assert mixed.power >= 0.8
    assert mixed.smallest == pytest.approx(1.2 * 2**0.5 * World().noise, rel=0.2)


@pytest.mark.parametrize("world", [World(tails=5), World(child_noise=2.0), World(noise=0.15)])
def test_it_holds_where_the_noise_is_not_as_supposed(world: World) -> None:
    found = study(world, PLAN, 200, seed=1)
    assert 0.90 <= found.loop.coverage <= 1.0
    assert found.loop.false_share <= PLAN.alpha
    assert found.greedy.bias > 5 * abs(found.loop.bias)


def test_the_same_seed_gives_the_same_campaigns() -> None:
    assert study(World(), PLAN, 10, 3) == study(World(), PLAN, 10, 3) != study(World(), PLAN, 10, 4)


def test_it_holds_where_the_loss_curve_bends() -> None:
    found = study(World(bend=0.3), PLAN, 200, seed=2)
    assert 0.90 <= found.loop.coverage <= 0.99
    assert abs(found.loop.bias) < 0.02
    assert found.loop.silent <= 2
