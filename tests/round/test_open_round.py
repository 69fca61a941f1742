"""A round that waits for the rewards of its answers to be checked, but not for ever."""

from duckweed.merge.announcement import Announcement
from duckweed.net.timeouts import REWARDS_CHECK
from duckweed.round.blocks import Span
from duckweed.round.open_round import Member, OpenRound, Timings
from duckweed.run.sections import Rounds
from duckweed.run.task.written import Written

BOTH = {0, 1}


def with_both() -> OpenRound:
    """A round for which two peers have handed in what their models wrote."""
    open_ = OpenRound(0, 0.0, {peer: Span(peer, 0, 1) for peer in BOTH})
    for peer in BOTH:
        said = Announcement(0, peer, peer, "ab" * 32, 10, 8, 1, 0.5, [1.0], rollouts="cd" * 32)
        open_.take(Member(peer, f"{peer}"), said, b"", Timings(), (0.0, 0), 1.0, Written(answers=9))
        open_.unchecked[peer] = 1.0
    return open_


def complete(open_: OpenRound) -> bool:
    return open_.complete(BOTH, set(), [], Rounds(), 2.0)


def test_a_round_closes_when_the_rewards_of_all_are_checked_and_tells_what_was_found():
    open_ = with_both()
    open_.checked(0, "", Written(answers=8))
    assert not complete(open_)
    assert "rewards of answers are being checked" in open_.waiting_for()
    open_.checked(1, "", Written(answers=8))
    assert complete(open_)
    assert open_.written == {peer: Written(answers=8) for peer in BOTH}


def test_false_rewards_take_a_contribution_out_and_the_round_closes_with_the_others():
    open_ = with_both()
    open_.checked(0, "", Written())
    open_.checked(1, "a reward of 1 is claimed", Written())
    assert list(open_.contributions) == [0]
    assert open_.false == {1: "a reward of 1 is claimed"}
    assert not open_.lacks(1)
    assert complete(open_)


def test_a_check_that_takes_too_long_holds_up_nobody():
    open_ = with_both()
    open_.checked(0, "", Written())
    open_.give_up_checks(REWARDS_CHECK)
    assert not complete(open_)
    open_.give_up_checks(REWARDS_CHECK + 2.0)
    assert list(open_.contributions) == [0]
    assert "not checked within" in open_.false[1]
    assert complete(open_)
