"""The bytes of fixed inputs. A change here is a change of the format: raise `frame.VERSION`."""

import blake3
import numpy as np
import pytest

from duckweed.wire import codec_of
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse

from .models import MEDIUM, decode_update, draw, encode_update

SCALES = np.array([0.28, 0.07, 0.28, 0.28], np.float32)
GOLDEN = {
    "Dense-fp32": "8018d395409b279f",
    "Dense-bf16": "add72d50da37885f",
    "Dense-int8": "8bfa35e99fa1ecb1",
    "Sparse-": "0e61c8ba9edcf3b8",
    "Integer-1": "daee67b80ea60b6d",
    "Integer-7": "f048829ceaff4da4",
    "[1, 1, 1, 1]": "9980c99d3b292d8d",
    "[10, 9, 10, 7]": "e53cdcb97ebe1e45",
}


def uneven() -> np.ndarray:
    """Rows that halve in activity, f32[P]; powers of two, so that no rounding is involved."""
    x, _ = draw(MEDIUM)
    return x * (0.5 ** (np.arange(MEDIUM.total) // 128 % 4)).astype(np.float32)


@pytest.mark.parametrize(
    "wire",
    [
        Dense("fp32"),
        Dense("bf16"),
        Dense("int8"),
        Sparse(),
        Integer(),
        Integer(threshold=0.3, value=0.5, levels=7),
    ],
    ids=lambda wire: f"{type(wire).__name__}-{getattr(wire, 'dtype', getattr(wire, 'levels', ''))}",
)
def test_contributions(wire, request):
    blob, sent = codec_of(wire, MEDIUM).encode(uneven(), SCALES)
    assert codec_of(wire, MEDIUM).decode(blob, SCALES).values.tobytes() == sent.tobytes()
    assert blake3.blake3(blob).hexdigest()[:16] == GOLDEN[request.node.callspec.id]


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [10, 9, 10, 7]], ids=str)
def test_updates(weights):
    peers = [codes_of(seed) for seed in range(4)]
    sums = sum(w * c.astype(np.int32) for w, c in zip(weights, peers, strict=True))
    squares = np.array([[np.count_nonzero(c[part]) for part in MEDIUM.slices()] for c in peers])
    blob = encode_update(sums, squares, weights, MEDIUM, 1)
    assert (decode_update(blob, MEDIUM, 1, 4).sums == sums).all()
    assert blake3.blake3(blob).hexdigest()[:16] == GOLDEN[str(weights)]


def codes_of(seed: int) -> np.ndarray:
    x, _ = draw(MEDIUM, seed)
    return (x > 0.3).astype(np.int8) - (x < -0.3).astype(np.int8)
