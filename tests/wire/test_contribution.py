"""Round trips of every wire, and what compress and decode refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from duckweed.run.layout import Layout
from duckweed.wire import WireError, codec_of
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse

WIRES = [
    Dense("fp32"),
    Dense("bf16"),
    Dense("int8"),
    Sparse(chunk=64, keep=3),
    Sparse(),
    Integer(),
    Integer(threshold=0.2, value=0.4, levels=7),
]


def draw(layout: Layout, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal(layout.total).astype(np.float32)
    scales = np.array([np.sqrt(np.mean(x[part] ** 2)) for part in layout.slices()], np.float32)
    return x, scales


@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_receiver_decodes_what_the_sender_says_it_sent(wire):
    layout = Layout.of({"a": (50, 40), "scalar": (), "gain": (30,), "cube": (3, 5, 7)})
    x, scales = draw(layout)
    blob, sent = codec_of(wire, layout).encode(x, scales)
    got = codec_of(wire, layout).decode(blob, scales)
    assert got.values.dtype == np.float32
    assert got.values.tobytes() == sent.tobytes()
    assert len(blob) <= codec_of(wire, layout).blob_limit


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def shaped(draw, elements):
    """A layout of any shapes, values in it, and a scale of each tensor."""
    shapes = draw(st.lists(hnp.array_shapes(min_dims=0, max_side=12), min_size=1, max_size=4))
    layout = Layout.of({str(i): shape for i, shape in enumerate(shapes)})
    x = draw(hnp.arrays(np.float32, layout.total, elements=elements))
    scales = hnp.arrays(np.float32, len(shapes), elements=st.floats(0, 2.0**100, width=32))
    return layout, x, draw(scales)


@settings(max_examples=60, deadline=None)
@given(shaped(floats), st.sampled_from(WIRES))
def test_any_shapes_and_finite_values(drawn, wire):
    layout, x, scales = drawn
    blob, sent = codec_of(wire, layout).encode(x, scales)
    assert codec_of(wire, layout).decode(blob, scales).values.tobytes() == sent.tobytes()
    assert np.isfinite(sent).all()
    assert len(blob) <= codec_of(wire, layout).blob_limit


@pytest.mark.parametrize("wire", WIRES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_by_tensor_name(wire, bad):
    layout = Layout.of({"a": (4,), "b": (5, 5)})
    x, scales = draw(layout)
    x[10] = bad
    with pytest.raises(WireError, match="'b'"):
        codec_of(wire, layout).encode(x, scales)


@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_very_many_very_small_tensors_fit_the_stated_size(wire):
    layout = Layout.of({str(i): () if i % 2 else (3,) for i in range(1500)})
    x, scales = draw(layout)
    blob, sent = codec_of(wire, layout).encode(x, scales)
    assert len(blob) <= codec_of(wire, layout).blob_limit
    assert codec_of(wire, layout).decode(blob, scales).values.tobytes() == sent.tobytes()


def test_values_of_another_length_are_refused():
    layout = Layout.of({"a": (4,)})
    with pytest.raises(WireError, match="4 values"):
        codec_of(Dense(), layout).encode(np.zeros(5, np.float32), None)
