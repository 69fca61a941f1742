import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckweed.learn.data.permutation import derive, permute

KEYS = st.integers(0, 2**64 - 1)


@given(KEYS, st.integers(1, 3000))
def test_is_a_bijection(key, n):
    assert np.array_equal(np.sort(permute(key, np.arange(n), n)), np.arange(n))


@given(KEYS, st.integers(1, 2**62), st.data())
def test_stays_in_range_and_apart_for_any_size(key, n, data):
    index = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=50))
    images = permute(key, np.array(index, dtype=np.int64), n)
    assert len(set(images.tolist())) == len(index)
    assert all(0 <= image < n for image in images)


@given(KEYS, st.integers(1, 10**9), st.data())
def test_a_scalar_goes_where_the_array_goes(key, n, data):
    index = data.draw(st.integers(0, n - 1))
    assert permute(key, index, n) == permute(key, np.array([[index]]), n)[0, 0]
    assert type(permute(key, index, n)) is int


def test_golden_values_that_every_machine_must_reach():
    assert permute(1, np.arange(10), 10).tolist() == [2, 3, 4, 9, 1, 6, 0, 8, 5, 7]
    assert permute(2**64 - 1, 123_456_789, 10**12) == 760_712_135_428
    assert derive(7, 1, 2) == 14_242_661_006_515_779_283


def test_every_place_is_equally_likely():
    n, keys = 10, 1000
    counts = np.zeros((n, n))
    for key in range(keys):
        counts[np.arange(n), permute(derive(key), np.arange(n), n)] += 1
    chi_square = ((counts - keys / n) ** 2 / (keys / n)).sum()
    assert chi_square < 81 + 4 * np.sqrt(2 * 81)  # (n - 1)^2 degrees of freedom, 4 sigma


def test_neighbours_do_not_stay_neighbours():
    n = 100_000
    image = permute(3, np.arange(n), n)
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 4 / np.sqrt(n)
    assert (np.abs(np.diff(image)) == 1).sum() < 20  # 2 expected


def test_keys_differ_by_every_part_and_their_order():
    keys = {derive(1), derive(2), derive(1, 0), derive(1, 1), derive(1, 0, 1), derive(1, 1, 0)}
    assert len(keys) == 6


@pytest.mark.parametrize(("index", "n"), [(-1, 5), (5, 5), (0, 0), (0, 1 << 63)])
def test_outside_the_range_is_refused(index, n):
    with pytest.raises(ValueError, match="outside"):
        permute(1, index, n)
