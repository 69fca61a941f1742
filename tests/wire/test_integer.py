import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.run.layout import Layout
from duckweed.wire import WireError, codec_of
from duckweed.wire.codecs.integer import Integer

from .models import SMALL, draw


def reference(wire: Integer, x: float, scale: float) -> int:
    """The rule of the specification, one value at a time."""
    x, scale = np.float32(x), np.float32(scale)
    if scale == 0 or abs(x) <= np.float32(wire.threshold) * scale:
        return 0
    level = int(np.rint(abs(x) / (np.float32(wire.value) * scale)))
    return int(np.sign(x)) * min(max(level, 1), wire.levels)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 4, width=32),
    st.floats(0.125, 4, width=32),
    st.integers(1, 7),
    st.integers(0, 100),
)
def test_codes_follow_the_rule(threshold, value, levels, seed):
    wire = Integer(threshold, value, levels)
    layout = Layout.of({"a": (5, 8), "b": (9,)})
    x, scales = draw(layout, seed)
    got = codec_of(wire, layout).decode(codec_of(wire, layout).encode(x, scales).blob, scales)
    for part, scale in zip(layout.slices(), scales, strict=True):
        assert got.codes[part].tolist() == [reference(wire, v, scale) for v in x[part]]
        step = np.float32(value) * scale
        assert got.values[part].tolist() == [np.float32(c) * step for c in got.codes[part]]


def test_a_value_at_the_threshold_is_not_sent():
    layout = Layout.of({"a": (3,)})
    x = np.array([2.0, np.nextafter(np.float32(2), np.float32(3)), -2.0], np.float32)
    scales = np.array([1.0], np.float32)
    wire = Integer(threshold=2.0, value=2.5)
    assert codec_of(wire, layout).encode(x, scales).sent.tolist() == [0.0, 2.5, 0.0]


def test_a_scale_of_zero_sends_nothing():
    x, scales = draw(SMALL)
    scales[0] = 0
    got = codec_of(Integer(), SMALL).decode(
        codec_of(Integer(), SMALL).encode(x, scales).blob, scales
    )
    assert not got.codes[SMALL.slices()[0]].any()
    assert got.codes[SMALL.slices()[3]].any()


@pytest.mark.parametrize(
    "scales",
    [
        None,
        np.ones(3, np.float32),
        np.array([1, 1, -1, 1], np.float32),
        np.array([1, 1, np.nan, 1], np.float32),
        np.array([1, 1, np.inf, 1], np.float32),
        np.array([1, 1, 3e38, 1], np.float32),
    ],
)
def test_impossible_scales_are_refused_on_both_sides(scales):
    x, good = draw(SMALL)
    blob = codec_of(Integer(), SMALL).encode(x, good).blob
    with pytest.raises(WireError, match="scale"):
        codec_of(Integer(), SMALL).encode(x, scales)
    with pytest.raises(WireError, match="scale"):
        codec_of(Integer(), SMALL).decode(blob, scales)
