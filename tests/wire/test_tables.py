"""Look-ups and counts of small integers, over the border of one part."""

import numpy as np
import pytest

from duckweed.wire.entropy import tables
from duckweed.wire.entropy.tables import count, look_up, parts, smallest

LENGTHS = [0, 1, tables._AT_ONCE - 1, tables._AT_ONCE, 2 * tables._AT_ONCE + 3]


@pytest.mark.parametrize("length", LENGTHS)
def test_parts_are_those_of_the_whole(length):
    values = np.arange(length)
    pieces = [values[part] for part in parts(length)]
    assert np.array_equal(np.concatenate([values[:0], *pieces]), values)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_what_is_found_and_counted_is_what_numpy_finds_and_counts(length, kind):
    index = np.random.default_rng(length).integers(0, 7, length).astype(kind)
    table = np.arange(7, dtype=np.uint16) ** 3
    found = look_up(table, index)
    assert found.dtype == table.dtype
    assert np.array_equal(found, table[index])
    for least in (0, 4, 20):
        assert np.array_equal(count(index, least), np.bincount(index, minlength=least))


@pytest.mark.parametrize("largest", [0, 1, 127, 128, 255, 32767, 32768, 1 << 20])
def test_the_smallest_integer_holds_all_numbers_of_as_many_bits(largest):
    most = (1 << largest.bit_length()) - 1
    assert np.iinfo(smallest(largest)).max >= most
