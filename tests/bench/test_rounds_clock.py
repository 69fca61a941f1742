"""The virtual clock: what may happen at the same time, and what may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.peer.rounds_clock import Clock, Costs
from duckweed.round.run_log import utilisation

SLOW = Costs(train=10, compress=1, send=2, fetch=3, apply=1)  # exchange: 7 s


def ahead(share, costs=SLOW):
    return Costs(
        costs.train, costs.compress, costs.send, costs.fetch, costs.apply, costs.train * share
    )


def after(rounds, *costs):
    clock = Clock(len(costs))
    for _ in range(rounds):
        times = clock.round(costs)
    return clock.now, times


@pytest.mark.parametrize(
    ("share", "rounds", "seconds"),
    [
        (0.0, 1, 17), (0.0, 3, 51),  # one thing after the other
        (1.0, 1, 17), (1.0, 3, 39),  # every further round: compressed and trained, 11 s
        (0.7, 3, 39),  # as much ahead as the exchange takes is enough
        (0.5, 3, 41),  # 5 of 7 s are hidden
    ],
)  # fmt: skip
def test_what_is_trained_ahead_hides_the_exchange(share, rounds, seconds):
    assert after(rounds, ahead(share))[0] == pytest.approx(seconds)


def test_an_exchange_longer_than_the_computation_is_waited_for():
    now, times = after(3, ahead(1.0, Costs(train=10, compress=1, send=20, fetch=3, apply=1)))
    assert now == pytest.approx(10 + 25 + 2 * 25)
    assert times[0]["wall"] == pytest.approx(25)
    assert utilisation(times[0]) == pytest.approx(10 / 25)


def test_a_round_closes_with_its_slowest_peer_and_the_others_compute_meanwhile():
    far = Costs(train=10, compress=1, send=6, fetch=3, apply=1)
    now, times = after(1, ahead(1.0), ahead(1.0, far))
    assert now == pytest.approx(10 + 1 + 6 + 3 + 1)
    assert (times[0]["wait"], times[1]["wait"]) == (pytest.approx(4), 0)
    _, times = after(4, ahead(1.0), ahead(1.0, far))
    # 11 s from the work of the far one to the next state, of which 10 are computed in.
    assert [utilisation(t) for t in times.values()] == pytest.approx([10 / 11, 10 / 11])


seconds = st.floats(0, 100)
costs = st.builds(Costs, st.floats(1, 100), seconds, seconds, seconds, seconds)
peers = st.lists(costs, min_size=1, max_size=5)


@given(peers, st.floats(0, 1), st.floats(0, 1), st.integers(1, 6))
def test_more_overlap_is_never_slower_and_nobody_computes_more_than_all_the_time(
    each, less, more, rounds
):
    less, more = sorted((less, more))
    clocks = Clock(len(each)), Clock(len(each))
    for _ in range(rounds):
        first = clocks[0].round([ahead(less, c) for c in each])
        second = clocks[1].round([ahead(more, c) for c in each])
        for times in (first, second):
            assert all(0 < utilisation(t) <= 1 + 1e-9 for t in times.values())
    assert clocks[1].now <= clocks[0].now + 1e-6
