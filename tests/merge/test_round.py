"""Closing a round: who counts, who does not and why; and the state that follows."""

import math
import tracemalloc

import msgspec
import numpy as np
import pytest
from fixtures.golden import CASES, FIXED, LAYOUT, announce, gathered, merge_trajectory, numbers
from fixtures.golden import PLACE as GOLDEN

from duckweed.merge.round import MergeError, advance, blob_hash, close
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec, override
from duckweed.run.state import State
from duckweed.wire import WireError, carry, codec_of, keep

TENSORS = len(LAYOUT.names)


def specification(case):
    return override(RunSpec(), FIXED | CASES[case])


def state(round_=0):
    scales = np.full(TENSORS, 0.375, np.float32)
    return State(
        round_, LAYOUT.digest(), numbers(1, LAYOUT.total), numbers(2, LAYOUT.total), scales
    )


def contributions(spec, peers, at=None, factor=1.0):
    at = at or state()
    found = []
    for peer in range(peers):
        wanted = numbers(50 + peer, LAYOUT.total) * np.float32(factor)
        blob = codec_of(spec.wire, LAYOUT).encode(wanted, at.shared).blob
        found.append((announce(at.round, peer, blob, wanted, 1024), blob))
    return found


def changed(pair, **facts):
    return msgspec.structs.replace(pair[0], **facts), pair[1]


def closed_and_next(spec, handed, at=None):
    at = at or state()
    closed, blobs = gathered(spec, LAYOUT, at.shared.tolist(), handed)
    if closed.update is not None:
        assert closed.update == blob_hash(blobs[closed.update])
    return closed, advance(spec, LAYOUT, at, closed, blobs.__getitem__)


@pytest.mark.parametrize("case", CASES)
def test_golden_trajectory(case):
    golden = msgspec.json.decode(GOLDEN.read_bytes())["merge"]
    assert merge_trajectory(CASES[case]) == golden[case]


@pytest.mark.parametrize("case", CASES)
def test_the_order_in_which_contributions_arrive_does_not_matter(case):
    spec = specification(case)
    handed = contributions(spec, 4)
    closed, after = closed_and_next(spec, handed)
    closed2, after2 = closed_and_next(spec, [handed[i] for i in (2, 0, 3, 1)])
    assert closed == closed2
    assert after.hash() == after2.hash()
    assert closed.accepted == [0, 1, 2, 3]
    assert closed.weights == [1, 1, 1, 1]


@pytest.mark.parametrize("case", ["fp32 mean", "sparse contributors", "integer-1 bounded"])
def test_what_cannot_count_is_refused_with_a_reason_and_the_rest_counts(case):
    spec = specification(case)
    good = contributions(spec, 7)
    sizes = good[0][0].rms
    cut = good[3][1][:-5]
    noise = bytes(range(200))
    handed = [
        good[0],
        (msgspec.structs.replace(good[0][0], peer=1), good[0][1]),
        changed(good[2], rms=[math.nan, *sizes[1:]]),
        (msgspec.structs.replace(good[3][0], blob=blob_hash(cut)), cut),
        (msgspec.structs.replace(good[4][0], blob=blob_hash(noise)), noise),
        changed(good[5], rms=sizes[1:]),
        good[6],
    ]
    closed, after = closed_and_next(spec, handed)
    assert closed.accepted == [0, 6]
    assert "same bytes as contribution 0" in closed.rejected[1]
    assert "not finite" in closed.rejected[2]
    assert "cannot be decoded" in closed.rejected[3]
    assert "cannot be decoded" in closed.rejected[4]
    assert f"{TENSORS - 1} tensor sizes" in closed.rejected[5]
    # As if only the good ones had come: those refused leave no trace in the weights or scales.
    _, alone = closed_and_next(spec, [good[0], good[6]])
    assert after.hash() == alone.hash()


@pytest.mark.parametrize("size", [-1.0, math.inf, 1e38, 1e300])
def test_a_size_that_would_ruin_the_next_scale_is_refused(size):
    spec = specification("integer-3 mean")
    handed = contributions(spec, 2)
    handed[1] = changed(handed[1], rms=[size] * TENSORS)
    closed, after = closed_and_next(spec, handed)
    assert closed.accepted == [0]
    assert np.isfinite(after.shared).all()
    closed_and_next(spec, contributions(spec, 2, after), after)


@pytest.mark.parametrize("lie", [1e30, 3.9, 100.0, 1e-30, 0.0])
@pytest.mark.parametrize("peers", [2, 4, 10])
def test_half_of_the_peers_cannot_make_the_common_scale_what_they_like(peers, lie):
    codec = codec_of(RunSpec().wire, LAYOUT)
    honest = [[1.0 + 0.01 * peer] * TENSORS for peer in range(peers // 2)]
    shared = [1.0] * TENSORS
    for _ in range(20):
        shared = codec.next_shared([*honest, *[[lie] * TENSORS] * (peers // 2)], shared)
        assert all(0.5 <= scale <= 2.5 for scale in shared)


def test_sizes_within_bounds_never_stop_the_next_round():
    spec = override(specification("integer-3 mean"), {"wire.levels": 127, "wire.value": 1000.0})
    handed = [changed(pair, rms=[1e30] * TENSORS) for pair in contributions(spec, 2)]
    closed, after = closed_and_next(spec, handed)
    assert closed.accepted == [0, 1]
    _, later = closed_and_next(spec, contributions(spec, 2, after), after)
    assert np.isfinite(later.weights).all()


@pytest.mark.parametrize("case", ["fp32 mean", "bf16 bounded", "sparse contributors"])
def test_a_norm_far_above_the_median_is_refused(case):
    spec = specification(case)
    handed = contributions(spec, 4)
    handed[2] = contributions(spec, 4, factor=1000.0)[2]
    closed, _ = closed_and_next(spec, handed)
    assert closed.accepted == [0, 1, 3]
    assert "times as large as the median" in closed.rejected[2]


def test_contributions_that_are_refused_do_not_move_the_median_of_norms():
    """Three peers that send rubbish must not make the honest ones look too large."""
    spec = specification("fp32 mean")
    handed = contributions(spec, 6)
    handed[5] = contributions(spec, 6, factor=0.01)[5]
    for peer in (0, 1, 2):
        noise = bytes([peer]) * 50
        handed[peer] = (msgspec.structs.replace(handed[peer][0], blob=blob_hash(noise)), noise)
    closed, _ = closed_and_next(spec, handed)
    assert closed.accepted == [3, 4, 5]


@pytest.mark.parametrize("case", CASES)
def test_a_round_in_which_nothing_counted_changes_only_its_number(case):
    spec, before = specification(case), state()
    handed = contributions(spec, 2)
    handed = [(msgspec.structs.replace(a, rms=[]), blob) for a, blob in handed]
    closed, after = closed_and_next(spec, handed)
    assert (closed.accepted, closed.update, closed.needed()) == ([], None, [])
    assert sorted(closed.rejected) == [0, 1]
    before.round += 1
    assert after.hash() == before.hash()


def test_the_next_scales_are_the_median_of_the_sizes_that_counted():
    spec = specification("integer-1 mean")
    handed = [
        changed(pair, rms=[float(peer)] * TENSORS)
        for peer, pair in enumerate(contributions(spec, 5))
    ]
    closed, after = closed_and_next(spec, handed)
    assert closed.shared == [2.0] * TENSORS
    assert after.shared.tolist() == [2.0] * TENSORS


def test_work_weighs_in_proportion_to_tokens():
    spec = override(specification("fp32 mean"), {"outer.optimizer": "none"})
    handed = contributions(spec, 2)
    handed[1] = changed(handed[1], tokens=256)
    closed, after = closed_and_next(spec, handed)
    assert closed.weights == [4, 1]
    x, y = numbers(50, LAYOUT.total), numbers(51, LAYOUT.total)
    np.testing.assert_allclose(after.weights, state().weights - (4 * x + y) / 5, atol=1e-6)


def test_a_round_that_does_not_follow_is_refused():
    spec = specification("fp32 mean")
    handed = contributions(spec, 2)
    closed, _ = gathered(spec, LAYOUT, state().shared.tolist(), handed)
    with pytest.raises(MergeError, match="round 0 does not follow on state 1"):
        advance(spec, LAYOUT, state(1), closed, dict.fromkeys(closed.blobs, b"").__getitem__)


def test_another_update_than_the_ledger_names_is_refused():
    spec = specification("integer-1 mean")
    closed, blobs = gathered(spec, LAYOUT, state().shared.tolist(), contributions(spec, 3))
    update = blobs[closed.update]
    closed.weights = [1, 1]
    with pytest.raises(MergeError, match="is not the sum of the contributions"):
        advance(spec, LAYOUT, state(), closed, lambda digest: update)
    with pytest.raises(WireError):
        advance(spec, LAYOUT, state(), closed, lambda digest: update[:-3])


def test_weights_that_are_not_finite_are_refused():
    spec, at = specification("fp32 mean"), state()
    closed, blobs = gathered(spec, LAYOUT, at.shared.tolist(), contributions(spec, 1))
    at.weights[3] = np.inf
    with pytest.raises(MergeError, match="not finite"):
        advance(spec, LAYOUT, at, closed, blobs.__getitem__)


@pytest.mark.parametrize("case", ["int8 mean", "sparse mean", "integer-1 mean", "integer-3 mean"])
def test_error_feedback_sends_everything_once_and_refused_work_never(case):
    """Stale error feedback: over many rounds what was sent and the residual add up to the deltas of
    the rounds that counted, each once, whatever came of the others."""
    spec = override(specification(case), {"wire.feedback": 1.0})
    scales = np.full(TENSORS, 0.25, np.float32)
    residual, sent_in_all, counted = (np.zeros(LAYOUT.total, np.float64) for _ in range(3))
    residual = residual.astype(np.float32)
    for round_ in range(12):
        delta = numbers(300 + round_, LAYOUT.total)
        wanted = carry(delta, residual, spec.wire.feedback)
        sent = codec_of(spec.wire, LAYOUT).encode(wanted, scales).sent
        if round_ % 3 == 1:
            continue  # refused: neither what it sent nor what it kept may appear anywhere
        residual = keep(wanted, sent)
        sent_in_all += sent
        counted += delta
    np.testing.assert_allclose(sent_in_all + residual, counted, atol=1e-5)


def reads(spec, handed):
    """How a round closes, and how often each blob was read for that."""
    blobs, count = (
        {a.blob: blob for a, blob in handed},
        dict.fromkeys((a.peer for a, _ in handed), 0),
    )

    def read(digest):
        for announcement, _ in handed:
            count[announcement.peer] += announcement.blob == digest
        return blobs[digest]

    closed, _ = close(spec, LAYOUT, state().shared.tolist(), [a for a, _ in handed], read)
    return closed, count


@pytest.mark.parametrize("case", ["fp32 mean", "sparse contributors", "integer-1 bounded"])
def test_each_blob_is_read_once_where_all_count(case):
    spec = specification(case)
    closed, count = reads(spec, contributions(spec, 5))
    assert closed.accepted == [0, 1, 2, 3, 4]
    assert count == dict.fromkeys(range(5), 1)


def test_blobs_are_read_again_only_where_a_refused_one_changes_the_weights():
    spec = specification("integer-1 mean")
    handed = contributions(spec, 4)
    handed[2] = handed[2][0], handed[2][1][:-3]  # cannot be decoded
    assert reads(spec, handed)[1] == {0: 1, 1: 1, 2: 1, 3: 1}
    tokens = [1024, 768, 768, 512]
    handed = [changed(pair, tokens=n) for pair, n in zip(handed, tokens, strict=True)]
    handed[0] = handed[0][0], handed[0][1][:-3]
    closed, count = reads(spec, handed)
    assert (closed.accepted, closed.weights) == ([1, 3], [16, 11])
    assert count == {0: 1, 1: 2, 2: 1, 3: 2}
    assert closed == close_alone(spec, handed, closed)


def close_alone(spec, handed, closed):
    """The same round, had those that were refused never come, but for their mention."""
    alone, _ = gathered(spec, LAYOUT, state().shared.tolist(), [handed[1], handed[3]])
    return msgspec.structs.replace(alone, rejected=closed.rejected)


@pytest.mark.parametrize("case", ["bf16 mean", "sparse mean", "integer-3 mean"])
def test_nothing_is_kept_of_a_contribution_while_the_next_is_read(case):
    layout = Layout.of({"a": (50, 200), "b": (300,)})
    spec, shared = specification(case), [0.4, 0.4]
    codec, handed, blobs, held = codec_of(spec.wire, layout), [], {}, []
    for peer in range(8):
        x = np.random.default_rng(peer).standard_normal(layout.total).astype(np.float32)
        blob = codec.encode(x, np.array(shared, np.float32)).blob
        handed.append(announce(0, peer, blob, x, 1024, layout))
        blobs[handed[-1].blob] = blob

    def read(digest):
        held.append(tracemalloc.get_traced_memory()[0])
        return blobs[digest]

    tracemalloc.start()
    close(spec, layout, shared, handed, read)
    tracemalloc.stop()
    assert max(held[2:]) < held[1] + layout.total / 2
