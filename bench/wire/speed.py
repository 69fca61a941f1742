"""MB/s of each wire on a made-up pseudo-gradient, counting its float32 values, against a plain copy of it by numpy."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from bench.wire.bound import choices, entropy
from bench.wire.record import Row, told
from bench.wire.timing import Work, seconds
from bench.wire.vector import Vector, synthetic
from duckweed.run.sections import Wire
from duckweed.wire import codec_of
from duckweed.wire.codecs import sums as updates
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Codes, Integer, quantise, steps
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.codecs.sums import Sums
from duckweed.wire.entropy.signed import put_integers
from duckweed.wire.frame import Writer

SPARSE_CODES = Integer(threshold=2.0, value=2.4)
PEERS = 8

Rate = Callable[[Work], int]


def speed(millions: int, repeat: int) -> list[Row]:
    vector = synthetic(millions, 1)
    spare = vector.values.copy()
    megabytes = vector.values.nbytes / 1e6
    copied = _rate(megabytes, 5, lambda: np.copyto(spare, vector.values))
    rows: list[Row] = [{"what": "copy by numpy", "millions": millions, "compress": copied}]
    for what, figures in _figures(vector, millions, partial(_rate, megabytes, repeat)):
        rows.append(told({"what": what, "millions": millions, **figures}))
    return rows


def _rate(megabytes: float, repeat: int, work: Work) -> int:
    return round(megabytes / seconds(work, repeat))


def _figures(vector: Vector, millions: int, rate: Rate) -> Iterator[tuple[str, Row]]:
    yield "integer, threshold 1", _integer(Integer(), vector, rate)
    yield "integer, threshold 2", _integer(SPARSE_CODES, vector, rate)
    yield "sparse, 64 of 4096", _wire(Sparse(), vector, rate, choices(Sparse()))
    yield "dense bf16", _wire(Dense("bf16"), vector, rate, None)
    yield "dense int8", _wire(Dense("int8"), vector, rate, None)
    yield f"update of {PEERS}, threshold 2", _update(millions, rate)


def _integer(wire: Integer, vector: Vector, rate: Rate) -> Row:
    """The coder alone, too."""
    x, scales, layout = vector
    codes = quantise(wire, x, layout, scales)
    encode = rate(lambda: put_integers(Writer(3, b"rate"), codes, 1, layout))
    return _wire(wire, vector, rate, entropy(codes, layout), encode=encode)


def _wire(wire: Wire, vector: Vector, rate: Rate, bound: float | None, **more: float) -> Row:
    x, scales, layout = vector
    blob = codec_of(wire, layout).encode(x, scales).blob
    return {
        "compress": rate(lambda: codec_of(wire, layout).encode(x, scales)),
        **more,
        "decode": rate(lambda: codec_of(wire, layout).decode(blob, scales)),
        "bits": round(8 * len(blob) / layout.total, 4),
        "bound": bound and round(bound, 4),
    }


def _update(millions: int, rate: Rate) -> Row:
    """Summing the codes of eight peers, and coding the sum."""
    codes = _codes(millions, 0)
    layout, total = codes.layout, Sums(codes.layout, codes.steps, 1)
    total.add(codes, 1)
    for peer in range(1, PEERS):
        codes = _codes(millions, peer)
        total.add(codes, 1)
    blob = updates.encode(total)
    spare = Sums(layout, codes.steps, 1)
    return {
        "merge": rate(lambda: spare.add(codes, 1)),
        "encode": rate(lambda: updates.encode(total)),
        "decode": rate(lambda: updates.decode(blob, layout, codes.steps, 1, PEERS)),
        "bits": round(8 * len(blob) / layout.total, 4),
        "bound": round(entropy(total.sums, layout), 4),
    }


def _codes(millions: int, peer: int) -> Codes:
    x, scales, layout = synthetic(millions, peer + 2)
    step = steps(SPARSE_CODES, scales, layout)
    return Codes(quantise(SPARSE_CODES, x, layout, scales), step, layout)
