"""The outer step, and what its momentum and error feedback do to each other."""

import numpy as np
import pytest
from blake3 import blake3
from fixtures.golden import numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from duckweed.merge.outer import outer_step
from duckweed.run.layout import Layout
from duckweed.run.sections import Outer
from duckweed.wire import carry, codec_of, keep
from duckweed.wire.codecs.sparse import Sparse

floats = st.floats(-1000, 1000, width=32, allow_subnormal=False)
vectors = st.lists(hnp.arrays(np.float32, 12, elements=floats), min_size=3, max_size=3)


@settings(max_examples=40)
@given(vectors, st.floats(0.01, 2), st.floats(0, 0.99))
def test_nesterov_is_the_formula_in_float64(arrays, rate, mu):
    w, b, g = arrays
    new, moved = outer_step(Outer("nesterov", rate, mu), w, b, g)
    w64, b64, g64 = (a.astype(np.float64) for a in arrays)
    moved64 = mu * b64 + g64
    step = g64 + mu * moved64
    size = np.abs(b64) + np.abs(g64)
    assert (np.abs(moved - moved64) <= 1e-6 * size + 1e-30).all()
    assert (np.abs(new - (w64 - rate * step)) <= 1e-6 * (np.abs(w64) + 3 * size) + 1e-30).all()
    assert new.dtype == moved.dtype == np.float32


def test_none_steps_by_the_pseudo_gradient_and_leaves_momentum():
    w, b, g = numbers(1, 9), numbers(2, 9), numbers(3, 9)
    new, moved = outer_step(Outer("none"), w, b, g)
    assert new.tobytes() == (w - g).tobytes()
    assert moved is b


def test_what_goes_in_is_not_changed():
    arrays = [numbers(key, 100) for key in range(3)]
    before = [a.tobytes() for a in arrays]
    outer_step(Outer(), *arrays)
    assert [a.tobytes() for a in arrays] == before


def test_golden_bits():
    w, b = numbers(1, 1000), np.zeros(1000, np.float32)
    for key in range(5):
        w, b = outer_step(Outer("nesterov", 0.7, 0.6), w, b, numbers(10 + key, 1000))
    assert (
        blake3(w.tobytes() + b.tobytes()).hexdigest()
        == "198b2556625c4d273cdb7e9baa35d146112af426febbb2bf646a5c6537952411"
    )


@pytest.mark.parametrize("mu", [0.0, 0.6, 0.9])
def test_a_constant_gradient_is_followed_at_rate_over_one_minus_momentum(mu):
    w, b, g = np.zeros(1, np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)
    for _ in range(200):
        before = w
        w, b = outer_step(Outer("nesterov", 0.5, mu), w, b, g)
    assert (before - w)[0] == pytest.approx(0.5 / (1 - mu), rel=1e-4)


def test_momentum_does_not_count_what_error_feedback_sends_later_twice():
    """Outer momentum against error feedback: a one-time pseudo-gradient that is sent over many
    rounds, a little each, moves the weights in the end exactly as far as if sent at once: the
    residual holds what is unsent and nothing else, and momentum is applied once, after the merge."""
    layout, wire = Layout.of({"a": (64,)}), Sparse(chunk=64, keep=4, feedback=1.0)
    outer = Outer("nesterov", 0.7, 0.6)
    delta = numbers(3, 64)
    residual = np.zeros(64, np.float32)
    slow = fast = (np.zeros(64, np.float32), np.zeros(64, np.float32))
    for round_ in range(120):
        fresh = delta if round_ == 0 else np.zeros(64, np.float32)
        wanted = carry(fresh, residual, wire.feedback)
        sent = codec_of(wire, layout).encode(wanted, None).sent
        residual = keep(wanted, sent)
        slow = outer_step(outer, *slow, sent)
        fast = outer_step(outer, *fast, fresh)
    assert np.abs(residual).max() < 0.01 * np.abs(delta).max()
    np.testing.assert_allclose(slow[0], fast[0], atol=0.05 * np.abs(fast[0]).max())
    np.testing.assert_allclose(fast[0], -0.7 / 0.4 * delta, rtol=1e-4)
