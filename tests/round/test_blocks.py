"""Blocks, budgets and deadlines."""

from hypothesis import given
from hypothesis import strategies as st

from duckweed.net.timeouts import SILENCE, silence
from duckweed.round.blocks import Blocks, Span, budgets, lead
from duckweed.round.open_round import deadline

STEPS = 6
# A round: for each of its peers the budget and whether its work counted, or None where the
# coordinator died before closing.
peers = st.tuples(st.integers(1, STEPS), st.booleans())
rounds = st.lists(
    st.one_of(st.none(), st.lists(peers, min_size=1, max_size=6)), min_size=1, max_size=25
)


def replayed(closed):
    blocks = Blocks(STEPS)
    for assigned, accepted in closed:
        blocks.replay(assigned, accepted)
    return blocks


def played(course, started=0):
    blocks, closed = Blocks(STEPS), []
    for round_ in course:
        if round_ is None:  # blocks were handed out, then the coordinator was killed
            for _ in range(started):
                blocks.take()
            blocks = replayed(closed)
            continue
        assigned = {peer: blocks.take(budget) for peer, (budget, _) in enumerate(round_)}
        assert all(assigned[peer].steps <= budget for peer, (budget, _) in enumerate(round_))
        accepted = [peer for peer, (_, counted) in enumerate(round_) if counted]
        blocks.close_round(assigned, accepted)
        closed.append((assigned, accepted))
    return blocks, closed


def steps(spans):
    return [(span.block, step) for span in spans for step in range(span.first, span.end)]


@given(rounds, st.integers(1, 5))
def test_nothing_is_skipped_and_nothing_counts_twice_whoever_dies_or_is_slow(course, started):
    blocks, closed = played(course, started)
    for assigned, _ in closed:
        handed = steps(assigned.values())
        assert len(set(handed)) == len(handed)
    counted = steps(assigned[peer] for assigned, accepted in closed for peer in accepted)
    assert len(set(counted)) == len(counted)
    # Slow peers, one step at a time, take up everything that was left behind.
    top = max([s.block for assigned, _ in closed for s in assigned.values()], default=-1)
    left = {(block, step) for block in range(top + 1) for step in range(STEPS)} - set(counted)
    assert sorted(steps(blocks.take(1) for _ in range(len(left)))) == sorted(left)
    assert blocks.take() == Span(top + 1, 0, STEPS)


@given(rounds, st.lists(st.integers(1, STEPS), min_size=40, max_size=40))
def test_a_replay_goes_on_exactly_as_the_live_one(course, then):
    blocks, closed = played(filter(None, course))
    again = replayed(closed)
    assert [again.take(budget) for budget in then] == [blocks.take(budget) for budget in then]


def test_a_block_that_did_not_count_comes_first():
    blocks = Blocks(STEPS)
    assigned = {0: blocks.take(), 1: blocks.take(), 2: blocks.take()}
    blocks.close_round(assigned, [1])
    assert [blocks.take().block for _ in range(4)] == [0, 2, 3, 4]


def test_a_slow_peer_goes_on_with_the_rest_of_its_block():
    blocks = Blocks(STEPS)
    assert [blocks.take(2), blocks.take()] == [Span(0, 0, 2), Span(1, 0, STEPS)]
    assert [blocks.take(2), blocks.take()] == [Span(0, 2, 2), Span(2, 0, STEPS)]
    assert [blocks.take(3), blocks.take(3)] == [Span(0, 4, 2), Span(3, 0, 3)]


def test_rests_of_slow_peers_that_have_gone_are_taken_up_by_fast_ones():
    blocks = Blocks(STEPS)
    assert [blocks.take(2) for _ in range(2)] == [Span(0, 0, 2), Span(0, 2, 2)]
    blocks.close_round({0: Span(0, 0, 2)}, [])
    assert blocks.take() == Span(0, 4, 2)


def test_budgets():
    assert budgets({0: 0.0, 1: 0.0}, 20, 15) == {0: 20, 1: 20}  # nothing is known yet
    assert budgets({0: 1.0, 1: 1.1, 2: 10.0}, 20, 15) == {0: 20, 1: 20, 2: 2}
    assert budgets({0: 1.0, 1: 10.0}, 20, 15) == {0: 20, 1: 2}
    assert budgets({0: 1.0, 1: 1000.0}, 20, 15) == {0: 20, 1: 1}
    assert budgets({0: 1.0, 1: 1.9}, 20, 15) == {0: 20, 1: 20}
    assert budgets({0: 0.01, 1: 0.1}, 20, 15) == {0: 20, 1: 20}  # nobody waits for two seconds


def test_peers_whose_round_closes_with_that_of_faster_ones_elsewhere_get_fewer_steps():
    slow = {0: 10.0, 1: 10.5}
    assert budgets(slow, 20, 15) == {0: 20, 1: 20}
    assert budgets(slow, 20, 15, [1.0, 1.0, 1.1]) == {0: 2, 1: 2}
    assert budgets({0: 1.0}, 20, 15, [10.0, 10.0, 9.0]) == {0: 20}
    assert budgets({0: 0.0}, 20, 15, [1.0]) == {0: 20}  # how fast this one is is not known


@given(
    st.dictionaries(st.integers(0, 50), st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1),
    st.integers(1, 500),
    st.floats(1, 100),
)
def test_a_budget_is_at_least_a_step_and_nobody_with_one_is_slower_than_patience(
    paces, most, patience
):
    given_ = budgets(paces, most, patience)
    usual = sorted(p for p in paces.values() if p) or [0.0]
    usual = usual[(len(usual) - 1) // 2]
    for peer, budget in given_.items():
        assert 1 <= budget <= most
        late = budget * paces[peer] - most * usual
        slack = max(most * usual, patience / 4, paces[peer])
        assert late <= slack * (1 + 1e-6)


def test_a_peer_whose_signs_come_late_is_given_longer():
    assert silence(0.0) == silence(1.0) == SILENCE[0]
    assert silence(3.0) == 12.0
    assert silence(1e9) == SILENCE[1]


def test_deadline():
    assert deadline([], 15) is None
    assert deadline([10.0], 15) == 25
    assert deadline([10.0, 10.0, 90.0], 15) == 25  # one slow peer does not move it
    assert deadline([8.0, 10.0, 12.0], 15) == 10 + 6 * 2 + 15


@given(st.lists(st.floats(0, 1e4), min_size=1), st.floats(1, 100))
def test_a_deadline_leaves_half_of_the_peers_their_time_and_patience(durations, patience):
    limit = deadline(durations, patience)
    assert sum(d + patience <= limit + 1e-6 for d in durations) >= len(durations) / 2


@given(st.floats(0, 1), st.integers(1, 500))
def test_no_more_steps_ahead_than_there_are(overlap, steps):
    assert 0 <= lead(overlap, steps) <= steps
    assert (lead(0.0, steps), lead(1.0, steps)) == (0, steps)
    assert abs(lead(overlap, steps) - overlap * steps) <= 0.5 + 1e-9


@given(st.lists(st.lists(peers, min_size=1, max_size=5), min_size=1, max_size=25))
def test_rounds_of_different_lengths_take_one_block_without_gaps(course):
    """With a budget of bytes all data is one block, and each round has its own usual number of steps."""
    blocks, closed, usual = Blocks(1 << 31), [], 2
    for number, round_ in enumerate(course):
        usual = 2 + number
        budgets_ = {peer: min(budget, usual) for peer, (budget, _) in enumerate(round_)}
        if number % 2:
            budgets_ = dict.fromkeys(budgets_, usual)
        assigned = blocks.share(budgets_, usual)
        accepted = [peer for peer, (_, counted) in enumerate(round_) if counted]
        blocks.close_round(assigned, accepted)
        closed.append((assigned, accepted))
    again = Blocks(1 << 31)
    for assigned, accepted in closed:
        again.replay(assigned, accepted)
    assert [again.take(x, usual) for x in (1, usual, usual)] == [
        blocks.take(x, usual) for x in (1, usual, usual)
    ]
    counted = steps(assigned[peer] for assigned, accepted in closed for peer in accepted)
    assert len(set(counted)) == len(counted)


def test_peers_of_usual_speed_get_as_many_steps_as_their_round_has():
    blocks = Blocks(1 << 31)
    first = blocks.share({0: 3, 1: 3}, 3)
    blocks.close_round(first, [0, 1])
    assert first == {0: Span(0, 0, 3), 1: Span(0, 3, 3)}
    assert blocks.share({0: 4, 1: 1, 2: 4}, 4) == {
        0: Span(0, 7, 4), 1: Span(0, 6, 1), 2: Span(0, 11, 4),
    }  # fmt: skip


def test_spans_with_answers_of_others_are_handed_out_before_other_whole_ones():
    blocks = Blocks(STEPS)
    given_back = [blocks.take() for _ in range(3)]
    blocks.give_back(given_back)
    blocks.written = [Span(2, 0, STEPS)]
    assert [blocks.take().block for _ in range(4)] == [2, 0, 1, 3]
