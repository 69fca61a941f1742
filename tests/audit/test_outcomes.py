"""How audits end and what follows from them."""

import pytest

from duckweed.audit.outcomes import decided, losses, put_out, told, unfounded
from duckweed.ledger.entries import AuditEntry, Verdict


def verdicts(*fits):
    return {10 + n: Verdict(one, "seen", "00") for n, one in enumerate(fits)}


@pytest.mark.parametrize(
    ("fits", "keepers", "more", "outcome"),
    [
        ([True], 5, True, "passed"),
        ([False], 5, True, None),
        ([False, True], 5, True, None),
        ([False] * 3, 5, True, None),
        ([False] * 4, 5, True, "failed"),
        ([False, False, True, False, False], 5, False, "failed"),
        ([False, True, True, True, True], 5, False, "passed"),
        ([False, True, True, False], 5, True, None),
        ([False, True, True, False, True], 5, False, "disputed"),
        ([False, False], 2, False, "failed"),
        ([False, True], 2, False, "disputed"),
        ([False], 1, False, "disputed"),  # nobody is put out on the word of one
    ],
)
def test_one_auditor_finds_no_fault_or_nearly_all_find_one(fits, keepers, more, outcome):
    assert decided(verdicts(*fits), keepers, more) == outcome


def ended(peer, outcome, at, *fits, out=()):
    return AuditEntry(peer, outcome, 100, at, verdicts(*fits), list(out))


def out_by(round_, one, before=()):
    return put_out(round_, one.peer, one.outcome, one.verdicts, one.at, before)


def test_who_is_put_out():
    assert out_by(3, ended(1, "failed", 5, *[False] * 4)) == [1]
    assert out_by(3, ended(1, "passed", 5, False, True, True, True, True)) == [10]
    assert out_by(3, ended(1, "passed", 5, True)) == []
    assert out_by(3, ended(1, "passed", 5, False, True)) == []  # one word against one
    for outcome in ("absent", "disputed", "undone"):
        assert out_by(3, ended(1, outcome, 5, False)) == []


def lost(*pairs, peer=1):
    """Audits of a peer that has not shown its work: (round of the contribution, round in which it ended)."""
    return [(round_, ended(peer, "unshown", at)) for round_, at in pairs]


def test_what_is_lost_before_a_loss_is_known_is_the_same_loss():
    assert losses(lost((0, 4), (1, 5), (3, 7))) == 1
    assert losses(lost((0, 4), (4, 8))) == 2
    assert losses(lost((0, 4), (3, 7), (5, 9), (9, 13))) == 3


def test_the_third_loss_puts_out_and_old_ones_are_forgotten():
    two = lost((0, 4), (10, 14))
    third = ended(1, "unshown", 24)
    assert out_by(20, third, two) == [1]
    assert out_by(20, third, lost((0, 4), (10, 14), peer=2)) == []
    passed = [(n, ended(1, "passed", n + 2, True)) for n in range(20, 39)]
    assert out_by(40, ended(1, "unshown", 44), [*two, *passed]) == []


def test_a_leader_that_puts_out_whom_no_verdict_speaks_against_is_found_out():
    good = [
        (0, ended(1, "passed", 2, True)),
        (0, ended(2, "failed", 6, *[False] * 4, out=[2])),
        *lost((1, 5), (6, 10)),
        (12, ended(1, "unshown", 16, out=[1])),
        (13, ended(3, "passed", 18, False, *[True] * 4, out=[10])),
    ]
    assert list(unfounded(good)) == []
    for false, word in [
        (ended(1, "failed", 2, False, out=[1]), "failed by 1 of 1"),
        (ended(1, "failed", 2, False, False, True, True, out=[1]), "failed by 2 of 4"),
        (ended(1, "unshown", 4, out=[1]), r"puts out [1], where [] follows"),
        (ended(1, "passed", 4), "without an auditor"),
        (ended(1, "failed", 6, *[False] * 4), "puts out [], where [1] follows"),
        (ended(1, "passed", 4, True, out=[7]), "puts out [7]"),
        (ended(10, "passed", 4, True), "audited itself"),
    ]:
        (reason,) = unfounded([(0, false)])
        assert word in reason
        assert f"round 0, peer {false.peer}" in reason


def test_outcomes_are_told_in_one_sentence():
    assert told([]) == ""
    audits = [(0, ended(1, "passed", 2, True))] * 2 + [(3, ended(2, "failed", 6, out=[2]))]
    assert told(audits) == (
        "peers audited 3 contributions: 2 passed, 1 failed; put out: peer 2 (round 3)"
    )
