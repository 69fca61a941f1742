import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from duckweed.run.layout import Layout
from duckweed.wire import WireError
from duckweed.wire.codecs.integer import Codes
from duckweed.wire.codecs.sums import MAX_WEIGHT, Sums, decode, encode, max_size

from .models import MEDIUM, SMALL, codes, decode_update, encode_update


def merge(peers: list[np.ndarray], weights: list[int], layout: Layout):
    sums = sum(w * c.astype(np.int32) for w, c in zip(weights, peers, strict=True))
    squares = [[int((c[part].astype(int) ** 2).sum()) for part in layout.slices()] for c in peers]
    return sums, np.array(squares, np.int64)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_codes_and_weights_come_back_exactly(data):
    shapes = data.draw(st.lists(hnp.array_shapes(min_dims=0, max_side=12), min_size=1, max_size=3))
    layout = Layout.of({str(i): shape for i, shape in enumerate(shapes)})
    levels = data.draw(st.integers(1, 7))
    weights = data.draw(st.lists(st.integers(1, MAX_WEIGHT), min_size=1, max_size=5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    spread = data.draw(st.integers(0, levels))
    peers = [rng.integers(-spread, spread + 1, layout.total, np.int8) for _ in weights]
    sums, squares = merge(peers, weights, layout)
    blob = encode_update(sums, squares, weights, layout, levels)
    got = decode_update(blob, layout, levels, len(weights))
    narrow = levels * sum(weights) <= np.iinfo(np.int16).max
    assert got.sums.dtype == (np.int16 if narrow else np.int32)
    assert (got.sums == sums).all()
    assert got.squares == squares.tolist()
    assert got.weights == weights
    assert len(blob) <= max_size(layout, levels, len(weights), max(weights))


def test_unequal_weights_cost_what_their_sums_hold():
    """With weights 100, 90, 70 a sum is one of 27: its size is that of 27 symbols, not of 521."""
    peers = [codes(MEDIUM, 0.3, seed) for seed in range(3)]
    sums, squares = merge(peers, [100, 90, 70], MEDIUM)
    count = np.unique(sums, return_counts=True)[1]
    entropy = -(count * np.log2(count / count.sum())).sum()
    blob = encode_update(sums, squares, [100, 90, 70], MEDIUM, 1)
    assert 8 * len(blob) < 1.03 * entropy


def arguments(layout=SMALL):
    peers = [codes(layout, 0.3, seed) for seed in range(3)]
    return (*merge(peers, [1, 2, 1], layout), [1, 2, 1], layout, 1)


def test_what_no_codes_give_is_refused():
    sums, squares, weights, layout, levels = arguments()
    with pytest.raises(WireError, match="contributors"):
        encode_update(sums, squares[:0], [], layout, levels)
    with pytest.raises(WireError, match="weight 1 to"):
        encode_update(sums, squares, [1, 0, 1], layout, levels)
    with pytest.raises(WireError, match="weight 1 to"):
        encode_update(sums, squares, [1, MAX_WEIGHT + 1, 1], layout, levels)
    with pytest.raises(WireError, match="do not fit the layout"):
        encode_update(sums[:-1], squares, weights, layout, levels)
    with pytest.raises(WireError, match="above 1 levels"):
        encode_update(np.where(np.arange(len(sums)) == 5, -5, sums), squares, weights, layout, 1)
    with pytest.raises(WireError, match="squares"):
        encode_update(sums, squares + layout.total, weights, layout, levels)


def test_more_contributors_than_allowed_are_refused():
    blob = encode_update(*arguments())
    with pytest.raises(WireError, match="at most 2"):
        decode_update(blob, SMALL, 1, 2)


def test_an_update_for_other_levels_is_refused():
    blob = encode_update(*arguments())
    with pytest.raises(WireError, match="other wire settings"):
        decode_update(blob, SMALL, 2, 3)


def test_a_sum_that_outgrows_its_integers_is_exact():
    """Weights that add up to more than int16 holds, one contribution after the other."""
    steps = np.ones(len(SMALL.names), np.float32)
    total = Sums(SMALL, steps, 1)
    ones = np.ones(SMALL.total, np.int8)
    weights = [MAX_WEIGHT] * 9
    for weight in weights:
        total.add(Codes(ones, steps, SMALL), weight)
    assert (total.sums == sum(weights)).all()
    assert (decode(encode(total), SMALL, steps, 1, len(weights)).sums == sum(weights)).all()
