"""Tables of frequencies from rates on the grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.wire import WireError
from duckweed.wire.entropy.tables import (
    LEVELS,
    ONE,
    chained,
    frequencies,
    put_indices,
    take_indices,
)
from duckweed.wire.frame import Reader, Writer


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 89))
def test_any_chain_gives_frequencies_of_at_least_one_that_add_up(seed, length):
    rng = np.random.default_rng(seed)
    mass = rng.integers(length + 1, ONE + 1, 64)
    found = frequencies(mass, rng.integers(0, LEVELS, (64, length)).astype(np.uint8))
    assert found.shape == (64, length + 1)
    assert (found >= 1).all()
    assert (found.sum(axis=1) == mass).all()


def test_a_chain_from_counts_gives_frequencies_close_to_them():
    counts = np.array([[9000, 3000, 1500, 400, 100]])
    found = frequencies(np.array([ONE]), chained(counts))
    share = counts / counts.sum()
    lost = (share * np.log2(share / (found / ONE))).sum()
    assert lost < 0.005


@pytest.mark.parametrize("count", [0, 1, 4, 7, 100])
def test_indices_take_six_bits_each_and_their_padding_is_checked(count):
    indices = np.random.default_rng(count).integers(0, LEVELS, count).astype(np.uint8)
    writer = Writer(9, b"test")
    put_indices(writer, indices)
    blob = writer.blob()
    reader = Reader(blob, 9, b"test")
    assert take_indices(reader, count).tolist() == indices.tolist()
    assert reader.left == 0
    if 6 * count % 8:
        with pytest.raises(WireError, match="padding"):
            take_indices(Reader(blob[:-1] + bytes([blob[-1] | 128]), 9, b"test"), count)
