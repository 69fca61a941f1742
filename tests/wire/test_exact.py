"""Sums whose bits do not depend on the machine."""

import math

import numpy as np
import pytest
from fixtures.golden import numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from duckweed.wire.exact import median, squared_norm

floats = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=True)


@settings(max_examples=40)
@given(hnp.arrays(np.float32, st.integers(0, 300), elements=floats))
def test_squared_norm_is_that_of_exact_addition(x):
    exact = math.fsum(float(v) * float(v) for v in x)
    assert squared_norm(x) == pytest.approx(exact, rel=1e-12, abs=0)


def in_halves(values):
    """The order that the docstring promises, in plain Python."""
    while len(values) > 1:
        half = (len(values) + 1) // 2
        upper = values[half:]
        values = [v + upper[i] if i < len(upper) else v for i, v in enumerate(values[:half])]
    return values[0] if values else 0.0


@settings(max_examples=40)
@given(hnp.arrays(np.float32, st.integers(0, 300), elements=floats))
def test_squared_norm_adds_in_the_order_that_it_promises(x):
    assert squared_norm(x) == in_halves([float(v) * float(v) for v in x])


def test_squared_norm_has_golden_bits():
    x = numbers(5, 10_001)
    assert squared_norm(x).hex() == "0x1.62cb05e240e01p+10"
    # Neither strides nor shape nor the caller's array matter.
    before = x.copy()
    assert squared_norm(np.repeat(x, 2)[::2]) == squared_norm(x)
    assert squared_norm(x[:10_000].reshape(100, 100)) == squared_norm(x[:10_000])
    assert x.tobytes() == before.tobytes()


def test_squared_norm_neither_overflows_nor_vanishes():
    assert squared_norm(np.full(4, 3e38, np.float32)) == pytest.approx(3.6e77, rel=1e-6)
    assert squared_norm(np.full(4, 1e-40, np.float32)) == pytest.approx(4e-80, rel=1e-4)


@settings(max_examples=40)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_median(values):
    assert median(values) == np.median(values)
    assert median(values[::-1]) == median(values)


@pytest.mark.parametrize("length", [(1 << 16) + 1, (1 << 17) + 3, 300_001])
def test_the_order_is_the_same_for_vectors_that_are_folded_in_parts(length):
    x = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    y = np.square(x.astype(np.float64))
    while len(y) > 1:
        half = (len(y) + 1) // 2
        y[: len(y) - half] += y[half:]
        y = y[:half]
    assert squared_norm(x) == y[0]
