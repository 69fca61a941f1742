"""Trust over rounds: what is remembered of peers, and what it does to their weight."""

import numpy as np
import pytest

from duckweed.ledger.entries import AuditEntry, Standing, Verdict
from duckweed.merge import trust
from duckweed.merge.filter import Compared, Judged, find_outliers
from duckweed.merge.gram import Gram
from merge.test_filter import LAYOUT, honest

BLOCK = 100
WHOLE = trust.credit(Standing(trust.RIPE * BLOCK), BLOCK)


def compared(codes, memory=trust.NOTHING):
    gram = Gram(LAYOUT, [f"{p:064x}" for p in range(len(codes))])
    for one in codes:
        gram.add(one)
    says = [memory.get(p, trust.NEW).work for p in range(len(codes))]
    peers = list(range(len(codes)))
    return Compared(peers, [1] * len(codes), LAYOUT.names, gram.sizes, list(gram.tables()), says)


def round_of(memory, codes):
    """Who is left out; the memory is taken on by the round."""
    table = compared(codes, memory)
    out, standing = trust.judge(memory, table, find_outliers(table), BLOCK)
    memory |= trust.counted(standing, {p: BLOCK for p in standing if p not in out}, 0)
    return out


def credits(memory):
    return [trust.credit(one, BLOCK) for _, one in sorted(memory.items())]


def mixed(seed, lean, peers=10, hostile=4):
    """Honest codes; of the last ones a share is against what the others have in common."""
    codes = honest(peers, seed)
    against = -np.sign(codes[: peers - hostile].sum(0)).astype(np.int8)
    hit = np.random.default_rng(seed).random(codes.shape) < lean
    hit[: peers - hostile] = False
    return np.where(hit, against, codes)


def test_honest_peers_weigh_alike_at_first_and_whole_after_some_rounds():
    memory = {}
    for seed in range(12):
        assert round_of(memory, honest(10, seed)) == {}
        assert len(set(credits(memory))) == 1
    assert credits(memory) == [WHOLE] * 10


def test_harm_too_small_for_one_round_costs_its_sender_all_weight_after_some():
    memory, left_out = {}, set()
    for seed in range(30):
        codes = mixed(seed, 0.08)
        assert find_outliers(compared(codes)).out == {}  # no single round shows it
        left_out |= set(round_of(memory, codes))
    assert left_out == {6, 7, 8, 9}
    assert credits(memory) == [WHOLE] * 6 + [0] * 4


def test_who_works_honestly_again_gets_its_weight_back_but_slowly():
    memory = {p: Standing(10 * BLOCK, trust.ONE if p == 9 else 0) for p in range(10)}
    rounds = 0
    while credits(memory)[9] < WHOLE:
        round_of(memory, honest(10, rounds))
        rounds += 1
    assert 20 < rounds < 60


def test_work_that_the_filter_leaves_out_lowers_the_weight_at_once():
    memory = {p: Standing(10 * BLOCK) for p in range(10)}
    codes = honest(10)
    codes[9] = -codes[9]
    assert set(round_of(memory, codes)) == {9}
    assert credits(memory)[9] < 0.6 * WHOLE
    assert memory[9].work == 10 * BLOCK  # what did not count is no work


def test_a_thousand_new_keys_that_agree_on_harm_put_out_nobody_whose_work_counted():
    memory = {p: Standing(50 * BLOCK) for p in range(10)}
    other = honest(1, seed=77, agreement=1.0)[0]
    noise = np.random.default_rng(0).random((1000, LAYOUT.total)) < 0.3
    crowd = np.where(noise, 0, other).astype(np.int8)
    out = round_of(memory, [*honest(10), *crowd])
    assert set(out) == set(range(10, 1010))


def test_new_keys_that_do_honest_work_count_though_they_have_no_say():
    memory = {p: Standing(50 * BLOCK) for p in range(6)}
    assert round_of(memory, honest(12)) == {}
    assert credits(memory)[6:] == [WHOLE // trust.RIPE * 2] * 6


def test_those_who_did_less_than_half_of_the_work_are_never_left_out_alone_in_a_majority():
    memory = {p: Standing(10 * BLOCK, trust.ONE) for p in range(10)}
    out = round_of(memory, honest(10))
    assert len(out) == 4  # all lack agreement, as far as is remembered: most count all the same


def test_the_order_of_the_peers_does_not_matter():
    memory = {p: Standing((p + 1) * BLOCK, 300 * p) for p in range(10)}
    codes = mixed(1, 0.3)
    straight, turned = dict(memory), {9 - p: one for p, one in memory.items()}
    out = round_of(straight, codes)
    assert {9 - p for p in round_of(turned, codes[::-1])} == set(out)
    assert {9 - p: one for p, one in turned.items()} == straight


@pytest.mark.parametrize("agreement", [-3.0, 0.0, 0.5, 1.0, 9.0])
def test_what_is_remembered_stays_between_nothing_and_all(agreement):
    memory, table = {}, compared(honest(3))
    for _ in range(200):
        _, memory = trust.judge(
            memory, table, Judged({}, dict.fromkeys(range(3), agreement)), BLOCK
        )
        assert 0 <= memory[0].lack <= trust.ONE
        assert 0 <= trust.credit(memory[0], BLOCK) <= WHOLE


def test_of_a_filter_that_says_nothing_of_agreement_nothing_is_remembered():
    table = compared(honest(5))
    assert trust.judge({}, table, Judged({4: "so"}), BLOCK) == ({4: "so"}, {})


def audit(outcome, auditors=(), out=()):
    found = {peer: Verdict(outcome == "passed", "seen", "00") for peer in auditors}
    return AuditEntry(1, outcome, BLOCK, 9, found, list(out))


def test_an_audit_is_work_of_those_who_did_it():
    memory = {2: Standing(300, 7)}
    trust.recall(memory, audit("passed", auditors=[2, 5]))
    assert memory == {2: Standing(400, 7), 5: Standing(BLOCK, 0)}


@pytest.mark.parametrize("outcome", ["unshown", "absent"])
def test_a_peer_that_does_not_show_its_work_begins_again_as_a_newcomer_and_sheds_no_lack(outcome):
    memory = {1: Standing(10 * BLOCK, 4000)}
    trust.recall(memory, audit(outcome))
    assert memory == {1: Standing(0, 4000)}
    whole = trust.credit(Standing(10 * BLOCK, 0), BLOCK)
    assert trust.RIPE * trust.credit(Standing(0, 0), BLOCK) == whole
    trust.recall(memory := {}, audit(outcome))
    assert memory == {1: Standing(0, 0)}


def test_who_is_put_out_weighs_nothing():
    memory = {1: Standing(10 * BLOCK, 0)}
    trust.recall(memory, audit("failed", auditors=[2, 3, 4, 5], out=[1]))
    assert trust.credit(memory[1], BLOCK) == 0


@pytest.mark.parametrize("outcome", ["disputed", "undone"])
def test_an_audit_that_decides_nothing_costs_nothing(outcome):
    memory = {1: Standing(10 * BLOCK, 3)}
    trust.recall(memory, audit(outcome))
    assert memory == {1: Standing(10 * BLOCK, 3)}


def test_the_last_round_in_which_a_peer_counted_is_remembered():
    memory = {1: Standing(BLOCK, 5, 3), 2: Standing(BLOCK, 5, 3)}
    memory |= trust.counted(memory, {2: 10}, 7)
    assert memory == {1: Standing(BLOCK, 5, 3), 2: Standing(BLOCK + 10, 5, 7)}


def test_what_is_left_out_of_a_peer_that_was_away_is_not_held_against_it():
    """A newcomer, whose momenta have yet to grow; a peer that counted in the round before has no such excuse."""
    codes = honest(6)
    codes[4:] = honest(2, seed=9)  # two that agree with nobody
    table = compared(codes, {p: Standing(BLOCK) for p in range(4)})
    for away, lack in (([False] * 6, trust.ONE // trust.MEMORY), ([False] * 4 + [True] * 2, 0)):
        judged = table._replace(away=away)
        out, standing = trust.judge({}, judged, find_outliers(judged), BLOCK)
        assert set(out) == {4, 5}
        assert standing[4].lack == standing[5].lack == lack
