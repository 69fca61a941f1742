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
    "Dense-fp32": "079c58d197f07e27",
    "Dense-bf16": "3b5578479dc351ee",
    "Dense-int8": "5aa7d56f0976211b",
    "Sparse-": "e6013cb23641959c",
    "Integer-1": "ed0c53af516cebf6",
    "Integer-7": "871848d6d2ec50b7",
    "[1, 1, 1, 1]": "a664af59c7d564a1",
    "[10, 9, 10, 7]": "8e3e0e809e5ea20e",
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
