"""Bytes from strangers: anything but a valid blob raises WireError, and costs little to refuse."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckweed.run.layout import Layout
from duckweed.wire import WireError, codec_of
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.codecs.sums import max_size

from .models import SMALL, codes, decode_update, draw, encode_update

X, SCALES = draw(SMALL)
WIRES = [Dense("fp32"), Dense("bf16"), Dense("int8"), Sparse(chunk=64, keep=4), Integer(levels=3)]
BLOBS = [codec_of(wire, SMALL).encode(X, SCALES).blob for wire in WIRES]
PEERS = [codes(SMALL, 0.4, seed) for seed in range(3)]
UPDATE = encode_update(
    sum(c.astype(np.int32) for c in PEERS),
    np.array([[np.abs(c[part]).sum(dtype=int) for part in SMALL.slices()] for c in PEERS]),
    [1, 1, 1],
    SMALL,
    1,
)


def accept(which: int, blob: bytes) -> bool:
    """Decode; check that what is accepted is in range; say whether it was."""
    try:
        if which < len(WIRES):
            wire = WIRES[which]
            got = codec_of(wire, SMALL).decode(blob, SCALES)
            assert np.isfinite(got.values).all()
            assert got.values.shape == (SMALL.total,)
            if isinstance(wire, Integer):
                assert np.abs(got.codes).max() <= wire.levels
            if isinstance(wire, Sparse):
                assert (got.mask | (got.values == 0)).all()
        else:
            update = decode_update(blob, SMALL, 1, 3)
            assert np.abs(update.sums).max() <= sum(update.weights)
            assert (np.array(update.squares) <= np.array(SMALL.sizes)).all()
        return True
    except WireError:
        return False


every = st.integers(0, len(WIRES))


def blob_of(which: int) -> bytes:
    return [*BLOBS, UPDATE][which]


@settings(max_examples=200, deadline=None)
@given(every, st.binary(max_size=600))
def test_random_bytes(which, data):
    assert not accept(which, data)


@settings(max_examples=150, deadline=None)
@given(every, st.binary(max_size=600))
def test_random_bytes_after_a_good_header(which, data):
    accept(which, blob_of(which)[:8] + data)


@settings(max_examples=200, deadline=None)
@given(every, st.data())
def test_flipped_bits(which, data):
    blob = bytearray(blob_of(which))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, 8 * len(blob) - 1))
        blob[bit // 8] ^= 1 << bit % 8
    accept(which, bytes(blob))


@pytest.mark.parametrize("which", range(len(WIRES) + 1))
def test_damaged_blobs_take_no_memory_beyond_what_the_layout_says(which):
    rng = np.random.default_rng(which)
    tracemalloc.start()
    for _ in range(40):
        blob = bytearray(blob_of(which))
        at = rng.integers(8, min(len(blob), 80), 4)
        for i in at:
            blob[i] = rng.integers(0, 256)
        accept(which, bytes(blob))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * SMALL.total + 1_000_000


@pytest.mark.parametrize("which", range(len(WIRES) + 1))
def test_truncated_or_longer_blobs(which):
    blob = blob_of(which)
    assert accept(which, blob)
    ends = {*range(30), *range(len(blob) - 10, len(blob)), *range(0, len(blob), 397)}
    for end in ends & set(range(len(blob))):
        assert not accept(which, blob[:end])
    assert not accept(which, blob + b"\0")
    assert not accept(which, blob + blob)


def test_most_flips_in_a_coded_stream_are_noticed():
    """The states must end where they began: a check that nobody has to pay for."""
    blob = bytearray(codec_of(Integer(), SMALL).encode(X, SCALES).blob)
    noticed = 0
    for at in range(8, len(blob)):
        blob[at] ^= 16
        try:
            codec_of(Integer(), SMALL).decode(bytes(blob), SCALES)
        except WireError:
            noticed += 1
        blob[at] ^= 16
    assert noticed > 0.5 * (len(blob) - 8)


@pytest.mark.parametrize("at", range(8))
def test_every_byte_of_the_header_counts(at):
    for which in range(len(WIRES) + 1):
        blob = bytearray(blob_of(which))
        blob[at] ^= 1
        assert not accept(which, bytes(blob))


def test_a_blob_for_another_model_or_recipe_is_told_apart():
    blob = codec_of(Integer(), SMALL).encode(X, SCALES).blob
    other = Layout.of(dict(zip(["w", *SMALL.names[1:]], SMALL.shapes, strict=True)))
    with pytest.raises(WireError, match="another model layout or other wire settings"):
        codec_of(Integer(), other).decode(blob, SCALES)
    with pytest.raises(WireError, match="another model layout or other wire settings"):
        codec_of(Integer(threshold=2.0), SMALL).decode(blob, SCALES)
    with pytest.raises(WireError, match="kind"):
        codec_of(Sparse(keep=2048), SMALL).decode(blob, SCALES)


def test_longer_than_possible_is_refused_unread():
    for wire in WIRES:
        with pytest.raises(WireError, match="at most"):
            codec_of(wire, SMALL).decode(bytes(codec_of(wire, SMALL).blob_limit + 1), SCALES)
    with pytest.raises(WireError, match="at most"):
        decode_update(bytes(max_size(SMALL, 1, 3, 4096) + 1), SMALL, 1, 3)
