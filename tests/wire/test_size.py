"""Sizes against entropy: within 5 % of it where values are independent, below it where not."""

from math import lgamma, log

import numpy as np
import pytest

from duckweed.run.layout import Layout
from duckweed.wire import codec_of
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse

from .models import MEDIUM, codes, draw, encode_update, entropy

ONES = {layout: np.ones(len(layout.sizes), np.float32) for layout in (MEDIUM,)}
TWENTY = Layout.of({"a": (160, 125)})


def packed(c: np.ndarray, layout: Layout, levels: int = 1) -> int:
    """Bits of a blob with these codes."""
    ones = np.ones(len(layout.sizes), np.float32)
    wire = Integer(threshold=0.5, value=1.0, levels=levels)
    return 8 * len(codec_of(wire, layout).encode(c.astype(np.float32), ones).blob)


@pytest.mark.parametrize("layout", [MEDIUM, TWENTY], ids=["121k", "20k"])
@pytest.mark.parametrize("rate", [0.03, 0.3, 0.8])
def test_independent_ternary_codes(layout, rate):
    c = codes(layout, rate)
    assert packed(c, layout) < 1.05 * entropy(c, layout)


@pytest.mark.parametrize("levels", [2, 3, 7])
def test_independent_codes_of_several_levels(levels):
    c = np.clip(np.rint(draw(MEDIUM)[0] * 8), -levels, levels)
    assert packed(c, MEDIUM, levels) < 1.02 * entropy(c, MEDIUM)


@pytest.mark.parametrize("peers", [4, 8])
def test_sums_of_independent_codes(peers):
    every = [codes(MEDIUM, 0.3, seed).astype(np.int32) for seed in range(peers)]
    sums = sum(every)
    squares = np.array([[np.abs(c[part]).sum() for part in MEDIUM.slices()] for c in every])
    blob = encode_update(sums, squares, [1] * peers, MEDIUM, 1)
    assert 8 * len(blob) < 1.02 * entropy(sums, MEDIUM)


@pytest.mark.parametrize("keep", [16, 64, 256])
def test_sparse_indices_take_log2_of_the_number_of_choices(keep):
    layout = Layout.of({"a": (512, 512)})
    x, _ = draw(layout)
    choices = (lgamma(4097) - lgamma(keep + 1) - lgamma(4097 - keep)) / log(2)
    blob = codec_of(Sparse(keep=keep), layout).encode(x, None).blob
    assert 8 * len(blob) < 1.05 * 64 * (choices + 2 * keep)


def test_rows_and_columns_of_uneven_activity_take_less_than_their_entropy():
    layout = Layout.of({"a": (256, 512)})
    rows, columns = np.arange(256) % 4, np.arange(512) % 3
    rate = (0.4 ** rows[:, None] * 0.5**columns * 0.8).ravel()
    c = codes(layout, rate)
    real = -(np.where(c != 0, np.log2(rate), np.log2(1 - rate))).sum() + np.count_nonzero(c)
    assert real < packed(c, layout) < 1.05 * real < 0.9 * entropy(c, layout)


def test_columns_that_lean_to_one_sign_take_less_than_a_bit_a_sign():
    layout = Layout.of({"head": (512, 128)})
    rng = np.random.default_rng(0)
    sign = np.where(rng.random((512, 128)) < 0.95, rng.choice([-1, 1], 128), 0).ravel()
    c = codes(layout, 0.2)
    leaning = np.where(sign != 0, np.abs(c) * sign, c)
    assert packed(leaning, layout) < packed(c, layout) - 0.6 * np.count_nonzero(c)


def test_tiny_models_take_tens_of_bytes():
    layout = Layout.of({"a": (4, 4), "b": ()})
    assert packed(codes(layout, 0.5), layout) < 8 * 40
