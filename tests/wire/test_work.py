"""The work of decoding follows from the size of the model, whatever a blob says: counted in symbols, each of
which takes as long as any other. And it is the same work on several threads."""

from contextlib import suppress

import numpy as np
import pytest

from duckweed.run.layout import Layout
from duckweed.wire import WireError, codec_of, threads
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.entropy import signed, stream
from duckweed.wire.frame import Reader, Writer

from .models import draw

LAYOUT = Layout.of({"embed": (128, 64), "up": (90, 100), "gain": (128,)})
X, SCALES = draw(LAYOUT)
TOP = np.full(LAYOUT.total, 1e6, np.float32)
SAME = np.zeros(LAYOUT.total, np.float32)
WIRES = [Integer(), Integer(threshold=0.3, value=0.5, levels=7), Sparse(), Dense("int8")]
names = [type(wire).__name__ + str(getattr(wire, "levels", "")) for wire in WIRES]


@pytest.fixture
def symbols(monkeypatch):
    """Symbols that were decoded."""
    taken = []
    take = stream.Open.take

    def counted(self, found, contexts, table):
        taken.append(len(found))
        return take(self, found, contexts, table)

    monkeypatch.setattr(stream.Open, "take", counted)
    return taken


@pytest.mark.parametrize("wire", WIRES, ids=names)
@pytest.mark.parametrize("values", [X, SAME, TOP, -TOP], ids=["bell", "zeros", "largest", "least"])
def test_a_value_takes_two_symbols_at_most_and_a_row_or_column_three(wire, values, symbols):
    codec = codec_of(wire, LAYOUT)
    blob, sent = codec.encode(values, SCALES)
    assert codec.decode(blob, SCALES).values.tobytes() == sent.tobytes()
    assert sum(symbols) <= 2 * LAYOUT.total + 3 * (128 + 64 + 90 + 100 + 1 + 128)


@pytest.mark.parametrize("wire", WIRES, ids=names)
def test_no_altered_blob_takes_more(wire, symbols):
    rng, codec = np.random.default_rng(0), codec_of(wire, LAYOUT)
    blobs = [codec.encode(values, SCALES).blob for values in (X, SAME, TOP)]
    for number in range(150):
        blob = bytearray(blobs[number % 3])
        for at in rng.integers(8, min(len(blob), 120), 2):
            blob[at] = rng.integers(0, 256)
        symbols.clear()
        with suppress(WireError):
            codec.decode(bytes(blob), SCALES)
        assert sum(symbols) <= 2 * LAYOUT.total + 3 * (128 + 64 + 90 + 100 + 1 + 128)


@pytest.mark.parametrize("wire", WIRES, ids=names)
def test_several_threads_write_and_read_the_same(wire, monkeypatch):
    monkeypatch.setattr(signed, "CHUNK", 1000)
    monkeypatch.setattr(threads, "AT_ONCE", 700)
    found = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "_count", count)
        codec = codec_of(wire, LAYOUT)
        blob, sent = codec.encode(X, SCALES)
        assert codec.decode(blob, SCALES).values.tobytes() == sent.tobytes()
        found.append((blob, sent.tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("wire", WIRES, ids=names)
def test_chunks_may_end_within_a_row(wire, monkeypatch):
    sent = codec_of(wire, LAYOUT).encode(X, SCALES).sent
    for length in (1, 63, 64, 1001):
        monkeypatch.setattr(signed, "CHUNK", length)
        blob = codec_of(wire, LAYOUT).encode(X, SCALES).blob
        # Tiny chunks take more bytes than a blob may have: `read` has no limit of its own.
        reader = Reader(blob, codec_of(wire, LAYOUT).header, codec_of(wire, LAYOUT)._agreed())
        assert codec_of(wire, LAYOUT).read(reader, SCALES).values.tobytes() == sent.tobytes()


def test_numbers_are_read_all_at_once_as_one_by_one():
    numbers = [0, 1, 127, 128, 300, (1 << 21) - 1, (1 << 62) + 5, 7]
    writer = Writer(9, b"test")
    for number in numbers:
        writer.varint(number)
    writer.raw(b"end")
    reader = Reader(writer.blob(), 9, b"test")
    assert reader.varints(len(numbers), 1 << 62 | 7).tolist() == numbers
    assert bytes(reader.raw(3)) == b"end"
    limits = np.array([0, 1, 127, 127, 300, 1 << 21, 1 << 63 - 1, 7])
    with pytest.raises(WireError, match="is 128; at most 127"):
        Reader(writer.blob(), 9, b"test").varints(len(numbers), limits)
    with pytest.raises(WireError, match="cut short"):
        Reader(writer.blob()[:12], 9, b"test").varints(len(numbers), 1 << 62 | 7)
    with pytest.raises(WireError, match="too many bytes"):
        Reader(b"dw\x02\x09test" + b"\xff" * 10 + b"\x01", 9, b"test").varints(1, 1 << 62)
    assert not len(Reader(b"dw\x02\x09test", 9, b"test").varints(0, 5))
