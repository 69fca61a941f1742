"""Alpha spending: the formula, and the false discovery rate under the worst dependence."""

import numpy as np
import pytest

from duckweed.evolve.statistics.spending import Spending, SpendingError, gamma


@pytest.mark.parametrize("planned", [1, 7, 20])
def test_the_parts_sum_to_one(planned: int) -> None:
    total = sum(gamma(t, planned) for t in range(1, 20_001))
    assert total < 1
    assert total == pytest.approx(1, abs=planned / 20_000)  # the tail beyond is N / (2 * 20000)


def test_levels_follow_e_lond() -> None:
    history = [False, True, False, True, True]
    state = Spending(0.1, 4)
    for accepted in history:
        state = state.record(accepted)
    assert state.level == pytest.approx(0.1 * gamma(6, 4) * (3 + 1))
    assert Spending(0.05, 20).level == pytest.approx(0.05 / 40)


def test_no_single_level_reaches_alpha() -> None:
    state = Spending(0.05, 10)
    for _ in range(500):
        assert state.level < 0.05
        state = state.record(True)


def test_false_discovery_rate_when_all_e_values_are_one_and_the_same() -> None:
    """The nulls share a single heavy e-value, U^-1/2 / 2 with mean 1; a few tests are real."""
    rng = np.random.default_rng(2)
    share = []
    for _ in range(4000):
        e = 0.5 / np.sqrt(rng.random())
        state, false = Spending(0.2, 10), 0
        for t in range(30):
            real = t % 6 == 0
            accepted = real or e >= 1 / state.level
            false += accepted and not real
            state = state.record(bool(accepted))
        share.append(false / max(state.accepted, 1))
    assert 0 < np.mean(share) <= 0.2


@pytest.mark.parametrize(
    ("settings", "says"),
    [((0.0, 5), "alpha"), ((1.5, 5), "alpha"), ((0.05, 0), "at least one"), ((0.05, 5, 1, 2), "2 accepted of 1")],
)  # fmt: skip
def test_settings_out_of_range(settings: tuple[float, int], says: str) -> None:
    with pytest.raises(SpendingError, match=says):
        Spending(*settings)
