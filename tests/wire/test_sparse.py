import numpy as np
import pytest

from duckweed.run.layout import Layout
from duckweed.wire import WireError, codec_of
from duckweed.wire.codecs.sparse import Sparse, write
from duckweed.wire.frame import Writer

from .models import SMALL, draw


def test_the_largest_of_every_chunk_are_sent():
    wire = Sparse(chunk=100, keep=10)
    x, _ = draw(SMALL)
    got = codec_of(wire, SMALL).decode(codec_of(wire, SMALL).encode(x, None).blob, None)
    for part in SMALL.slices():
        for start in range(part.start, part.stop, 100):
            chunk = slice(start, min(start + 100, part.stop))
            length = chunk.stop - chunk.start
            kept = got.mask[chunk]
            assert kept.sum() == max(1, round(length / 10))
            if kept.sum() < length:
                assert np.abs(x[chunk][kept]).min() >= np.abs(x[chunk][~kept]).max()
    assert (np.sign(got.values[got.mask]) == np.sign(x[got.mask])).all()
    assert (got.values[~got.mask] == 0).all()


def test_of_equal_values_the_first_are_sent():
    layout = Layout.of({"a": (20,)})
    x = np.array([1, 2] * 10, np.float32)
    got = codec_of(Sparse(10, 7), layout).decode(
        codec_of(Sparse(10, 7), layout).encode(x, None).blob, None
    )
    assert got.mask[:10].tolist() == [True, True, True, True, False, True, False, True, False, True]
    assert (got.mask[:10] == got.mask[10:]).all()


def test_two_magnitudes_are_found_again():
    layout = Layout.of({"a": (64, 64)})
    x = np.zeros(4096, np.float32)
    x[::64] = np.where(np.arange(64) % 4 == 0, 8.0, -2.0)
    got = codec_of(Sparse(), layout).encode(x, None).sent
    assert got.tobytes() == x.tobytes()


def test_two_magnitudes_beat_one():
    x, _ = draw(SMALL)
    got = codec_of(Sparse(chunk=64, keep=16), SMALL).encode(x, None).sent
    kept = np.abs(x[got != 0])
    one = ((kept - kept.mean()) ** 2).sum()
    assert ((np.abs(got[got != 0]) - kept) ** 2).sum() < 0.5 * one


def test_a_chunk_with_too_many_values_is_refused():
    wire, layout = Sparse(chunk=16, keep=2), Layout.of({"a": (32,)})
    x = np.arange(1, 33, dtype=np.float32)
    mask = np.zeros(32, np.bool_)
    mask[[0, 1, 2, 20]] = True
    writer = Writer(2, codec_of(wire, layout).encode(x, None).blob[4:8])
    write(writer, x, mask, layout)
    with pytest.raises(WireError, match="number of values"):
        codec_of(wire, layout).decode(writer.blob(), None)
