"""Who is audited, and by whom: anybody draws the same."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.audit.draw import auditors, drawn

BEACONS = [f"{n:064x}" for n in range(1000)]


def test_each_contribution_is_drawn_with_the_same_probability():
    counts = Counter(peer for beacon in BEACONS for peer in drawn(beacon, range(10), 0.05))
    # 1,000 draws of probability 0.05: 50, give or take 6.9.
    assert all(22 < counts[peer] < 78 for peer in range(10))


@settings(max_examples=30)
@given(st.text(max_size=64), st.sets(st.integers(0, 99), max_size=10), st.floats(0, 1))
def test_the_share_is_kept_at_its_ends_and_a_draw_depends_on_nothing_but_beacon_and_peer(
    beacon, accepted, share
):
    peers = sorted(accepted)
    assert drawn(beacon, peers, 0.0) == []
    assert drawn(beacon, peers, 1.0) == peers
    found = drawn(beacon, peers, share)
    assert found == [peer for peer in peers if drawn(beacon, [peer], share)]


@settings(max_examples=30)
@given(st.text(max_size=64), st.dictionaries(st.integers(0, 30), st.integers(0, 1 << 48)))
def test_all_others_are_auditors_in_an_order_that_everybody_draws(beacon, work):
    order = auditors(beacon, 3, work)
    assert sorted(order) == sorted(work.keys() - {3})
    assert order == auditors(beacon, 3, dict(reversed(work.items())))


def test_many_keys_without_work_audit_no_more_often_than_their_work_is_worth():
    work = {0: 10_000} | dict.fromkeys(range(1, 5), 10000) | dict.fromkeys(range(10, 40), 0)
    first = Counter(auditors(beacon, 0, work)[0] for beacon in BEACONS)
    assert sum(first[peer] for peer in range(10, 40)) < 0.02 * len(BEACONS)
    # A quarter each of those who have worked: 250, give or take 14.
    assert all(190 < first[peer] < 310 for peer in range(1, 5))
