"""Blocks and deadlines."""

from hypothesis import given
from hypothesis import strategies as st

from duckweed.swarm.rounds import Blocks, deadline

# A round: for each of its peers "counted" or not, or None where the coordinator died before closing.
rounds = st.lists(
    st.one_of(st.none(), st.lists(st.booleans(), min_size=1, max_size=6)), min_size=1, max_size=25
)


def replayed(closed):
    blocks = Blocks()
    for assigned, accepted in closed:
        blocks.replay(assigned, accepted)
    return blocks


@given(rounds, st.integers(1, 5))
def test_nothing_is_skipped_and_nothing_counts_twice_whoever_dies(course, started):
    blocks, closed = Blocks(), []
    for round_ in course:
        if round_ is None:  # blocks were handed out, then the coordinator was killed
            for _ in range(started):
                blocks.take()
            blocks = replayed(closed)
            continue
        assigned = {peer: blocks.take() for peer in range(len(round_))}
        assert len(set(assigned.values())) == len(assigned)
        accepted = [peer for peer, counted in enumerate(round_) if counted]
        blocks.settle(assigned, accepted)
        closed.append((assigned, accepted))
    counted = [assigned[peer] for assigned, accepted in closed for peer in accepted]
    assert len(set(counted)) == len(counted)
    # One last round in which all counts takes up everything that was left behind.
    top = max([b for assigned, _ in closed for b in assigned.values()], default=-1)
    left = set(range(top + 1)) - set(counted)
    assert sorted(blocks.take() for _ in range(len(left))) == sorted(left)
    assert blocks.take() == top + 1


@given(rounds)
def test_a_replay_goes_on_exactly_as_the_live_one(course):
    blocks, closed = Blocks(), []
    for round_ in filter(None, course):
        assigned = {peer: blocks.take() for peer in range(len(round_))}
        accepted = [peer for peer, counted in enumerate(round_) if counted]
        blocks.settle(assigned, accepted)
        closed.append((assigned, accepted))
    again = replayed(closed)
    assert [again.take() for _ in range(40)] == [blocks.take() for _ in range(40)]


def test_a_block_that_did_not_count_comes_first():
    blocks = Blocks()
    assigned = {0: blocks.take(), 1: blocks.take(), 2: blocks.take()}
    blocks.settle(assigned, [1])
    assert [blocks.take() for _ in range(4)] == [0, 2, 3, 4]


def test_deadline():
    assert deadline([], 15) is None
    assert deadline([10.0], 15) == 25
    assert deadline([10.0, 10.0, 90.0], 15) == 25  # one slow peer does not move it
    assert deadline([8.0, 10.0, 12.0], 15) == 10 + 6 * 2 + 15


@given(st.lists(st.floats(0, 1e4), min_size=1), st.floats(1, 100))
def test_a_deadline_leaves_half_of_the_peers_their_time_and_patience(durations, patience):
    limit = deadline(durations, patience)
    assert sum(d + patience <= limit + 1e-6 for d in durations) >= len(durations) / 2
