"""Merge rule `filtered`: honest contributions count, hostile ones do not, and anybody gets the same answer."""

import msgspec
import numpy as np
import pytest
from fixtures.golden import gathered

from bench.hostile.attacks import ATTACKS
from bench.hostile.swarm import PlainInteger, PlainIntegerCodec, View
from duckweed.merge import gram as grams
from duckweed.merge.announcement import Announcement
from duckweed.merge.filter import Compared, find_outliers
from duckweed.merge.gram import Gram, products, sample
from duckweed.merge.round import advance, blob_hash
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec, override
from duckweed.run.state import State
from duckweed.wire import codec_of

LAYOUT = Layout.of(
    {"embed": (64, 48), "a.weight": (64, 64), "norm": (64,), "b.weight": (64, 90), "lm_head.weight": (64, 64)}
)  # fmt: skip
HARMLESS = ("stale", "sizes", "hidden", "alie", "min-max", "min-sum", "short", "label-flip")
"""Attacks that look honest enough to count, in whole or in part; docs/merge.md has what they cost."""


def honest(peers, seed=0, agreement=0.5, signal=None):
    """Codes int8[peers, P] of peers that have a part in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=LAYOUT.total) if signal is None else signal
    own = rng.normal(size=(peers, LAYOUT.total))
    x = agreement**0.5 * common + (1 - agreement) ** 0.5 * own
    return ((x > 1).astype(np.int8) - (x < -1)).astype(np.int8)


def left_out(codes, peers=None, weights=None, says=(), away=()):
    gram = Gram(LAYOUT, [f"{p:064x}" for p in range(len(codes))])
    for one in codes:
        gram.add(one)
    named = peers or list(range(len(codes)))
    compared = Compared(
        named, weights or [1] * len(named), LAYOUT.names, gram.sizes, gram.tables(), says, away
    )
    return find_outliers(compared).out


def under(attack, hostile=4, peers=10):
    """Codes of honest peers, then of hostile ones."""
    right = honest(peers - hostile)
    codec = PlainIntegerCodec(PlainInteger(), LAYOUT)
    sizes = [[1.0] * len(LAYOUT.names)] * len(right)
    past = [honest(peers - hostile, seed=9)]
    state = State(0, LAYOUT.digest(), np.zeros(0), np.zeros(0), np.ones(5, np.float32))
    rng = np.random.default_rng(3)
    view = View(3, state, codec, right, sizes, hostile, past, None, {}, [], rng)
    codes, _ = ATTACKS[attack](view)
    return [*right, *codes]


@pytest.mark.parametrize("peers", [1, 2, 3, 4, 5, 10, 33])
@pytest.mark.parametrize("agreement", [0.02, 0.2, 0.8])
def test_of_an_honest_round_everything_counts(peers, agreement):
    for seed in range(3):
        assert left_out(honest(peers, seed, agreement)) == {}


def test_peers_that_have_nothing_in_common_all_count():
    assert left_out(honest(12, agreement=0.0)) == {}


def test_who_missed_a_round_may_send_more_and_is_still_bounded():
    """What was left unsent comes with it: half as many codes again count, twice as many do not."""

    def longer(times):
        rng, codes = np.random.default_rng(5), honest(6)
        added = (codes[0] == 0) & (rng.random(LAYOUT.total) < (times - 1) * np.mean(codes[0] != 0))
        signs = np.sign(codes[1:].sum(0) + rng.normal(0, 2, LAYOUT.total)).astype(np.int8)
        codes[0] = np.where(added, signs, codes[0])
        return codes

    first = [True] + [False] * 5
    assert list(left_out(longer(1.6))) == [0]
    assert left_out(longer(1.6), away=first) == {}
    assert list(left_out(longer(2.4), away=first)) == [0]


@pytest.mark.parametrize("hostile", [1, 3, 4])
@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in HARMLESS])
def test_what_works_against_the_others_is_left_out_and_nobody_else(attack, hostile):
    out = left_out(under(attack, hostile))
    assert set(out) == set(range(10 - hostile, 10))
    assert all(len(reason) > 20 for reason in out.values())


def test_a_slow_peer_with_fewer_steps_need_not_agree_as_well():
    codes = [*honest(6), *honest(7, agreement=0.12)[6:]]
    assert list(left_out(codes)) == [6]
    assert left_out(codes, weights=[4] * 6 + [1]) == {}


def test_of_near_copies_one_counts_and_the_others_name_it():
    codes = honest(6)
    copy = codes[2].copy()
    copy[::50] = 0
    out = left_out([*codes, copy, copy])
    assert set(out) == {6, 7}
    assert "nearly a copy of what peer 2 sent" in out[6]


def test_a_group_that_leans_the_same_way_is_left_out():
    codes, lean = honest(10), honest(1, seed=77)[0]
    hit = np.random.default_rng(1).random(LAYOUT.total) < 0.35
    for peer in range(6, 10):
        codes[peer] = np.where(hit, lean, codes[peer])
    out = set(left_out(codes))
    assert out <= {6, 7, 8, 9}
    assert len(out) >= 3  # one alone is no group


def test_work_against_the_others_in_one_tensor_names_the_tensor():
    out = left_out(under("head", 1))
    assert "in lm_head.weight" in out[9]


def test_the_order_of_the_peers_does_not_matter():
    codes = under("sign-flip", 3) + under("mimic", 1)[-1:]
    straight = left_out(codes)
    order = np.random.default_rng(2).permutation(len(codes)).tolist()
    assert left_out([codes[p] for p in order], order) == straight


def test_a_majority_is_always_kept():
    rng = np.random.default_rng(0)
    for count in range(3, 14):
        codes = rng.integers(-1, 2, (count, LAYOUT.total)).astype(np.int8)
        codes[: count // 2] = codes[0]
        assert len(left_out(codes)) < count / 2
        assert len(left_out([codes[0]] * count)) < count / 2


def test_contributions_without_any_code_are_compared_without_an_error():
    assert left_out(np.zeros((5, LAYOUT.total), np.int8)) == {}
    out = left_out([*honest(5), np.zeros(LAYOUT.total, np.int8)])
    assert list(out) == [5]


@pytest.mark.parametrize("at_once", [1, 7, 1000, 1040])
def test_inner_products_are_exact_whatever_is_multiplied_at_once(monkeypatch, at_once):
    rows = np.random.default_rng(0).integers(-127, 128, (6, 5000)).astype(np.int8)
    rows[0] = 127
    rows[1] = -127
    monkeypatch.setattr(grams, "_AT_ONCE", at_once)
    wide = rows.astype(np.int64)
    assert np.array_equal(products(list(rows)), wide @ wide.T)


def test_the_sample_is_the_same_for_the_same_hashes_and_another_for_others():
    layout = Layout.of({"small": (10,), "large": (100_000,), "larger": (300_000,)})
    first, again, other = (sample(layout, seed, 2010) for seed in (b"a", b"a", b"b"))
    assert [len(x) for x in first] == [10, 1000, 1000]
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])
    for found, part in zip(first, layout.slices(), strict=True):
        assert part.start <= found[0]
        assert found[-1] < part.stop
        assert (np.diff(found) > 0).all()


def test_a_sample_gives_the_cosines_of_the_whole_within_four_deviations():
    codes = honest(4)
    whole, part = Gram(LAYOUT, ["a"]), Gram(LAYOUT, ["a"])
    part.sample = sample(LAYOUT, b"x", 4000)
    part._chosen = np.concatenate(part.sample)
    for one in codes:
        whole.add(one)
        part.add(one)

    def cosine(gram):
        total = sum(gram.tables())
        return total[0, 1] / np.sqrt(float(total[0, 0]) * float(total[1, 1])), total[0, 0]

    (right, _), (guess, values) = cosine(whole), cosine(part)
    assert abs(right - guess) < 4 / np.sqrt(values)


def specification(**changes):
    return override(RunSpec(), {"merge.rule": "filtered"} | changes)


def handed_in(spec, state, codes):
    """Announcements and blobs of contributions that decode to these codes."""
    found = []
    codec = codec_of(spec.wire, LAYOUT)
    for peer, one in enumerate(codes):
        x = one.astype(np.float32) * np.repeat(state.shared * 1.5, LAYOUT.sizes)
        blob = codec.encode(x, state.shared).blob
        said = Announcement(0, peer, peer, blob_hash(blob), len(blob), 64, 4, 3.0, [1.0] * 5)
        found.append((said, blob))
    return found


def test_a_round_closes_as_if_only_those_that_count_had_come():
    spec = specification()
    zeros = np.zeros(LAYOUT.total, np.float32)
    state = State(0, LAYOUT.digest(), zeros, zeros, np.full(5, 0.5, np.float32))
    handed = handed_in(spec, state, under("sign-flip", 4))
    closed, blobs = gathered(spec, LAYOUT, state.shared.tolist(), handed)
    assert closed.accepted == [0, 1, 2, 3, 4, 5]
    assert closed.weights == [1] * 6
    assert set(closed.rejected) == {6, 7, 8, 9}
    alone, others = gathered(spec, LAYOUT, state.shared.tolist(), handed[:6])
    assert closed.update == alone.update
    after = advance(spec, LAYOUT, state, closed, blobs.__getitem__)
    assert after.hash() == advance(spec, LAYOUT, state, alone, others.__getitem__).hash()
    again, _ = gathered(spec, LAYOUT, state.shared.tolist(), handed[::-1])
    assert again == closed


def test_mean_and_filtered_give_the_same_weights_in_an_honest_round():
    zeros = np.zeros(LAYOUT.total, np.float32)
    state = State(0, LAYOUT.digest(), zeros, zeros, np.full(5, 0.5, np.float32))
    hashes = set()
    for rule in ("mean", "filtered"):
        spec = specification(**{"merge.rule": rule})
        handed = handed_in(spec, state, honest(8))
        closed, blobs = gathered(spec, LAYOUT, state.shared.tolist(), handed)
        hashes.add(advance(spec, LAYOUT, state, closed, blobs.__getitem__).hash())
    assert len(hashes) == 1


def test_open_runs_are_filtered_unless_they_say_otherwise():
    is_open = {"members.join": "open"}
    assert RunSpec().rule == "mean"
    assert override(RunSpec(), is_open).rule == "filtered"
    assert override(RunSpec(), is_open | {"merge.rule": "mean"}).rule == "mean"
    assert override(RunSpec(), is_open | {"wire.kind": "dense"}).rule == "mean"
    named = msgspec.structs.replace(RunSpec(), merge=type(RunSpec().merge)("mean"))
    assert named.identity == RunSpec().identity
