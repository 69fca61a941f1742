"""How contributions become one step: properties, and the pitfalls of the literature."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from duckweed.merge.rules import find_rule, weights_of
from duckweed.run.layout import Layout
from duckweed.wire import codec_of
from duckweed.wire.codecs.integer import Codes, Integer
from duckweed.wire.codecs.sums import Sums
from duckweed.wire.total import Decoded, FloatTotal

LAYOUT = Layout.of({"a": (4, 3), "b": (5,)})
P = LAYOUT.total
floats = st.floats(-100, 100, width=32, allow_subnormal=False)
vectors = hnp.arrays(np.float32, P, elements=floats)
codes = hnp.arrays(np.int8, P, elements=st.integers(-3, 3))


def dense(values, mask=None):
    return Decoded(np.asarray(values, np.float32), mask)


def pseudo_gradient(name, contributions, weights):
    rule = find_rule(name)
    total = FloatTotal(LAYOUT, rule.needs)
    for contribution, weight in zip(contributions, weights, strict=True):
        total.add(contribution, weight)
    return rule(total)


def merged(rule, vectors_, weights=None):
    contributions = [dense(v, v != 0) for v in vectors_]
    return pseudo_gradient(rule, contributions, weights or [1] * len(contributions))


def sum_of(contributions, weights, scales, value=1.5):
    steps = np.float32(value) * np.asarray(scales, np.float32)
    total = Sums(LAYOUT, steps, 127)
    for codes_, weight in zip(contributions, weights, strict=True):
        total.add(Codes(codes_, steps, LAYOUT), weight)
    return total


def norms(x):
    return [float(np.linalg.norm(x[part].astype(np.float64))) for part in LAYOUT.slices()]


# --- weights


def test_equal_work_weighs_one_and_other_work_in_proportion():
    assert weights_of([20480] * 5) == [1] * 5
    assert weights_of([1000, 500]) == [2, 1]
    assert weights_of([1000, 1]) == [16, 1]
    assert weights_of([3]) == [1]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=20))
def test_weights_are_small_whole_and_never_zero(tokens):
    weights = weights_of(tokens)
    assert all(isinstance(w, int) and 1 <= w <= 16 for w in weights)
    assert math.gcd(*weights) == 1
    order = sorted(range(len(tokens)), key=tokens.__getitem__)
    assert [weights[i] for i in order] == sorted(weights)


# --- the count to divide by


def test_mean_divides_by_all_and_contributors_by_those_that_sent():
    """The wrong count: with 4 peers, a value that one of them sent is a quarter of it or all of it."""
    one, none = np.zeros(P, np.float32), np.zeros(P, np.float32)
    one[2] = 8.0
    assert merged("mean", [one, none, none, none])[2] == 2.0
    assert merged("contributors", [one, none, none, none])[2] == 8.0
    assert merged("contributors", [one, one, none, none])[2] == 8.0
    assert merged("contributors", [one, -one, none, none])[2] == 0.0


def test_a_zero_that_was_sent_counts_as_sent():
    x, y = np.zeros(P, np.float32), np.zeros(P, np.float32)
    x[0] = 6.0
    sent = np.arange(P) == 0
    got = pseudo_gradient("contributors", [dense(x, sent), dense(y, sent)], [1, 1])
    assert got[0] == 3.0


def test_weights_count_in_numerator_and_denominator():
    x, y = np.full(P, 3.0, np.float32), np.full(P, 6.0, np.float32)
    assert merged("mean", [x, y], [2, 1]).tolist() == [4.0] * P
    assert merged("contributors", [x, y], [2, 1]).tolist() == [4.0] * P


def test_a_coordinate_that_nobody_sent_stays_where_it_is():
    x = np.zeros(P, np.float32)
    for rule in ("mean", "contributors", "bounded"):
        assert not merged(rule, [x, x]).any()


@settings(max_examples=40)
@given(st.lists(codes, min_size=1, max_size=5), st.data())
def test_the_integer_mean_divides_the_exact_sum_by_the_sum_of_weights(contributions, data):
    weights = data.draw(
        st.lists(st.integers(1, 16), min_size=len(contributions), max_size=len(contributions))
    )
    scales = np.array([0.5, 3.0], np.float32)
    got = find_rule("mean")(sum_of(contributions, weights, scales))
    for t, part in enumerate(LAYOUT.slices()):
        exact = (
            np.average([c[part] for c in contributions], axis=0, weights=weights) * 1.5 * scales[t]
        )
        np.testing.assert_allclose(got[part], exact, rtol=1e-6, atol=0)


# --- order and number of peers


@settings(max_examples=40)
@given(st.lists(codes, min_size=2, max_size=6), st.sampled_from(["mean", "bounded"]), st.randoms())
def test_the_order_of_peers_does_not_change_the_integer_result(contributions, rule, random):
    scales = np.array([0.7, 0.01], np.float32)
    weights = [1 + i % 3 for i in range(len(contributions))]
    first = find_rule(rule)(sum_of(contributions, weights, scales))
    pairs = list(zip(contributions, weights, strict=True))
    random.shuffle(pairs)
    shuffled = sum_of([c for c, _ in pairs], [w for _, w in pairs], scales)
    other = find_rule(rule)(shuffled)
    assert first.tobytes() == other.tobytes()


@settings(max_examples=40)
@given(vectors, st.integers(1, 9), st.sampled_from(["mean", "bounded", "contributors"]))
def test_identical_contributions_give_what_one_gives(x, count, rule):
    np.testing.assert_allclose(merged(rule, [x] * count), x, rtol=1e-6, atol=1e-37)


@settings(max_examples=40)
@given(codes, st.integers(1, 9), st.sampled_from(["mean", "bounded"]))
def test_identical_integer_contributions_give_what_one_gives(x, count, rule):
    scales = np.array([0.7, 0.01], np.float32)
    one = find_rule(rule)(sum_of([x], [1], scales))
    many = find_rule(rule)(sum_of([x] * count, [1] * count, scales))
    np.testing.assert_allclose(many, one, rtol=1e-6, atol=0)


# --- the bounded rule: single senders and outliers


@settings(max_examples=40)
@given(st.lists(vectors, min_size=1, max_size=7))
def test_bounded_steps_by_the_median_norm_in_every_tensor(contributions):
    got = norms(merged("bounded", contributions))
    mean = norms(np.mean(np.array(contributions, np.float64), axis=0))
    size = [np.median(column) for column in zip(*map(norms, contributions), strict=True)]
    for g, m, s in zip(got, mean, size, strict=True):
        if m > 1e-3 * s:  # else nothing but rounding is left of the direction
            assert g == pytest.approx(s, rel=1e-5, abs=1e-30)
        assert g <= s * (1 + 1e-5)


@settings(max_examples=40)
@given(st.lists(codes, min_size=1, max_size=7))
def test_bounded_steps_by_the_median_norm_of_integer_contributions(contributions):
    scales = np.array([0.5, 2.0], np.float32)
    weights = [1] * len(contributions)
    total = sum_of(contributions, weights, scales)
    got = norms(find_rule("bounded")(total))
    for t, part in enumerate(LAYOUT.slices()):
        sizes = [np.linalg.norm(c[part].astype(float)) for c in contributions]
        wanted = 0 if not total.sums[part].any() else 1.5 * scales[t] * np.median(sizes)
        assert got[t] == pytest.approx(wanted, rel=1e-5)


@settings(max_examples=40)
@given(st.lists(vectors, min_size=2, max_size=6), vectors, st.floats(1, 1e6))
def test_bounded_cannot_be_stretched_by_one_outlier(honest, strange, factor):
    """The median among the honest and one more lies within the range of the honest."""
    outlier = (strange * np.float32(factor)).astype(np.float32)
    got = norms(merged("bounded", [*honest, outlier]))
    for size, column in zip(got, zip(*map(norms, honest), strict=True), strict=True):
        assert size <= max(column) * (1 + 1e-5)


def test_a_value_sent_by_one_peer_a_thousand_times_too_large_moves_the_size_by_the_median_only():
    rng = np.random.default_rng(1)
    honest = [rng.standard_normal(P).astype(np.float32) for _ in range(4)]
    liar = honest[0] * np.float32(1000)
    plain, attacked = norms(merged("mean", honest)), norms(merged("mean", [*honest, liar]))
    assert min(a / p for a, p in zip(attacked, plain, strict=True)) > 100
    sizes = np.array([norms(x) for x in honest])
    got = norms(merged("bounded", [*honest, liar]))
    for t, size in enumerate(got):
        assert size == pytest.approx(np.sort(sizes[:, t])[2], rel=1e-5)  # one place up, no more


@settings(max_examples=30)
@given(st.lists(vectors, min_size=1, max_size=5), st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**20]))
def test_every_rule_scales_with_its_input(contributions, factor):
    contributions = [np.where(np.abs(x) < 1e-3, 0, x).astype(np.float32) for x in contributions]
    for rule in ("mean", "bounded", "contributors"):
        scaled = merged(rule, [x * np.float32(factor) for x in contributions])
        np.testing.assert_allclose(
            scaled, merged(rule, contributions) * np.float32(factor), rtol=1e-6, atol=0
        )


def test_bounded_stays_finite_where_the_mean_all_but_vanishes():
    x, y = np.zeros(P, np.float32), np.zeros(P, np.float32)
    x[0], y[0], y[1] = 1.0, -1.0, 1e-44
    assert np.isfinite(merged("bounded", [x, y])).all()


# --- with the codec


def test_codes_merge_to_what_their_values_merge_to():
    """The path of exact sums and the path of decoded values are the same rule."""
    wire = Integer(threshold=0.3, value=0.8, levels=3)
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 0.5], np.float32)
    blobs = [
        codec_of(wire, LAYOUT).encode(rng.standard_normal(P).astype(np.float32), scales).blob
        for _ in range(5)
    ]
    decoded = [codec_of(wire, LAYOUT).decode(blob, scales) for blob in blobs]
    weights = [1, 2, 1, 3, 1]
    total = sum_of([d.codes for d in decoded], weights, scales, wire.value)
    for rule in ("mean", "bounded"):
        by_sum = find_rule(rule)(total)
        by_value = pseudo_gradient(rule, decoded, weights)
        np.testing.assert_allclose(by_sum, by_value, rtol=1e-5, atol=1e-7)
