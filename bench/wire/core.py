"""What one core reaches in each of the codec's jobs, in processor time and beside copies of memory that are made in turn
with it; which part of it a second thread can take; and how much faster two threads are by the clock (figures of a machine
with two idle cores only)."""

from collections.abc import Iterator

import numpy as np

from bench.wire.record import Row, told
from bench.wire.timing import InTurn, Work
from bench.wire.vector import Vector, synthetic
from duckweed.run.sections import Wire
from duckweed.wire import codec_of
from duckweed.wire.codec import Codec
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer, quantise
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.entropy.signed import put_integers
from duckweed.wire.frame import Writer

WIRES: dict[str, Wire] = {
    "integer, threshold 1": Integer(),
    "integer, threshold 1.5, three levels": Integer(threshold=1.5, value=2.1, levels=3),
    "integer, threshold 2": Integer(threshold=2.0, value=2.4),
    "int8": Dense("int8"),
    "bf16": Dense("bf16"),
    "sparse, 64 of 4096": Sparse(),
}
PEERS = 8  # whose contributions an update is the sum of


def core(millions: int, repeat: int) -> list[Row]:
    vector = synthetic(millions, 1)
    turn = InTurn(vector.values, repeat)
    return [
        told({"wire": wire, "job": job, **turn.figures(work)})
        for wire, job, work in _jobs(vector, turn.spare)
    ]


def _jobs(vector: Vector, spare: np.ndarray) -> Iterator[tuple[str, str, Work]]:
    yield "copy by numpy", "", lambda: np.copyto(spare, vector.values)
    for name, wire in WIRES.items():
        for job, work in _jobs_of(wire, vector, spare):
            yield name, job, work


def _jobs_of(wire: Wire, vector: Vector, spare: np.ndarray) -> Iterator[tuple[str, Work]]:
    x, scales, layout = vector
    codec = codec_of(wire, layout)
    blob = codec.encode(x, scales).blob
    yield "compress", lambda: codec.compress(spare, scales)
    if isinstance(wire, Integer):
        codes = quantise(wire, x, layout, scales)
        yield "encode", lambda: put_integers(Writer(3, b"rate"), codes, wire.levels, layout)
    yield "decode", lambda: codec.decode(blob, scales)
    found, total = codec.decode(blob, scales), codec.total(scales)
    yield "accumulate", lambda: total.add(found, 1)
    if codec.additive:
        yield from _jobs_of_update(codec, vector)


def _jobs_of_update(codec: Codec, vector: Vector) -> Iterator[tuple[str, Work]]:
    """One vector, shifted, from each of several peers."""
    x, scales, _ = vector
    total = codec.total(scales)
    for peer in range(PEERS):
        total.add(codec.decode(codec.encode(np.roll(x, peer), scales).blob, scales), 1)
    blob = codec.update(total)
    yield f"encode an update of {PEERS}", lambda: codec.update(total)
    yield f"decode an update of {PEERS}", lambda: codec.read_update(blob, scales, PEERS)
