"""The work of decoding is bounded by the size of the model, whatever a blob says: counted in steps of the
entropy coder, each of which takes about as long however much it decodes."""

import numpy as np
import pytest

from duckweed.run.layout import Layout
from duckweed.wire import WireError, codec_of
from duckweed.wire.codecs import sparse
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.entropy import rans
from duckweed.wire.entropy.signed import bits_per_value
from duckweed.wire.frame import Reader, Writer

from .models import decode_update, draw, encode_update

LAYOUT = Layout.of({"embed": (128, 64), "up": (90, 100), "gain": (128,)})
X, SCALES = draw(LAYOUT)
TOP = np.full(LAYOUT.total, 1e6, np.float32)
SAME = np.zeros(LAYOUT.total, np.float32)
WIRES = [Integer(), Integer(threshold=0.3, value=0.5, levels=7), Sparse(), Dense("int8")]
names = [type(wire).__name__ + str(getattr(wire, "levels", "")) for wire in WIRES]


@pytest.fixture
def steps(monkeypatch):
    """Steps of the coder that were taken; cleared by the reader."""
    taken = []
    take = rans.Decoder.take

    def counted(self, count, one):
        taken.append(-(-count // len(self.states)))
        return take(self, count, one)

    monkeypatch.setattr(rans.Decoder, "take", counted)
    return taken


@pytest.fixture
def encoded(monkeypatch):
    """A blob with as many lanes as its sender chooses, which it is free to do."""

    def encode(number, write):
        with monkeypatch.context() as sender:
            sender.setattr(rans, "least_lanes", lambda *_: 1)
            sender.setattr(rans, "_FEW_LANES", number)
            sender.setattr(rans, "_BITS_PER_LANE", 1 << 60)
            sender.setattr(rans, "_MANY_STEPS", 1 << 60)
            return write()

    return encode


def most_steps(wire):
    """Steps for every value: as many flags as a value can have, each within the steps of the wire."""
    one = sparse.STEPS if isinstance(wire, Sparse) else rans.STEPS
    levels = {Dense: 127, Sparse: 1}.get(type(wire)) or wire.levels
    few = 200 * len(LAYOUT.names)  # tables and classes, whose sizes follow from the shapes
    return (bits_per_value(levels) + 1) * (one + one // 8) + few


@pytest.mark.parametrize("wire", WIRES, ids=names)
@pytest.mark.parametrize("values", [X, SAME], ids=["bell", "zeros"])
def test_one_lane_is_refused_before_anything_is_decoded(wire, values, encoded, steps):
    blob = encoded(1, lambda: codec_of(wire, LAYOUT).encode(values, SCALES).blob)
    with pytest.raises(WireError, match="coded stream of 1 lanes"):
        codec_of(wire, LAYOUT).decode(blob, SCALES)
    assert not steps


@pytest.mark.parametrize("wire", WIRES, ids=names)
@pytest.mark.parametrize("values", [X, SAME, TOP, -TOP], ids=["bell", "zeros", "largest", "least"])
def test_what_is_accepted_takes_few_steps_however_few_lanes_its_sender_takes(
    wire, values, encoded, steps
):
    accepted, refused = 0, []
    for lanes in (2, 6, 40):
        blob = encoded(lanes, lambda: codec_of(wire, LAYOUT).encode(values, SCALES).blob)
        steps.clear()
        try:
            codec_of(wire, LAYOUT).decode(blob, SCALES)
        except WireError as error:
            refused.append(str(error))
            assert not steps
            continue
        accepted += 1
        assert sum(steps) <= most_steps(wire)
    assert accepted
    assert all("lanes" in reason for reason in refused)


def test_of_an_update_too(encoded, steps):
    squares, sums = np.zeros((1, len(LAYOUT.sizes)), int), np.zeros(LAYOUT.total, np.int32)
    blob = encoded(1, lambda: encode_update(sums, squares, [1], LAYOUT, 1))
    with pytest.raises(WireError, match="lanes"):
        decode_update(blob, LAYOUT, 1, 1)
    assert not steps


@pytest.mark.parametrize("values", [SAME, TOP], ids=["zeros", "largest"])
@pytest.mark.parametrize("wire", WIRES, ids=names)
def test_what_an_honest_sender_writes_has_lanes_enough(wire, values):
    codec = codec_of(wire, LAYOUT)
    blob, sent = codec.encode(values, SCALES)
    assert codec.decode(blob, SCALES).values.tobytes() == sent.tobytes()


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
        Reader(b"dw\x01\x09test" + b"\xff" * 10 + b"\x01", 9, b"test").varints(1, 1 << 62)
    assert not len(Reader(b"dw\x01\x09test", 9, b"test").varints(0, 5))
