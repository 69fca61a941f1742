"""Seconds a value of the slowest valid blob that is found, against an honest one: of values that say nothing or
everything, and with headers altered at random."""

from functools import partial

import numpy as np

from bench.wire.record import Row, told
from bench.wire.timing import seconds
from bench.wire.vector import Vector, synthetic
from duckweed.run.sections import Wire
from duckweed.wire import codec_of
from duckweed.wire.codec import Codec
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.frame import WireError

WIRES: dict[str, Wire] = {
    "integer, threshold 1": Integer(),
    "integer, 7 levels": Integer(threshold=0.3, value=0.5, levels=7),
    "sparse, 64 of 4096": Sparse(),
    "dense int8": Dense("int8"),
}
HONEST = "as it is"


def work(millions: int, tries: int = 40) -> list[Row]:
    """For each wire the slowest valid blob: nanoseconds a value, and times the honest one's."""
    vector, dice = synthetic(millions, 1), np.random.default_rng(0)
    return [
        told({"what": what, "millions": millions, **_figures(wire, vector, tries, dice)})
        for what, wire in WIRES.items()
    ]


def _figures(wire: Wire, vector: Vector, tries: int, dice: np.random.Generator) -> Row:
    codec, scales, total = codec_of(wire, vector.layout), vector.scales, vector.layout.total
    blobs = _extremes(codec, vector)
    altered = _altered(codec, scales, blobs, tries, dice)
    took = {
        name: seconds(partial(codec.decode, blob, scales), 3)
        for name, blob in (blobs | altered).items()
    }
    worst = max(took, key=took.__getitem__)
    return {
        "honest, ns a value": round(1e9 * took[HONEST] / total, 1),
        "worst, ns a value": round(1e9 * took[worst] / total, 1),
        "times": round(took[worst] / took[HONEST], 2),
        "worst": worst,
        "altered": tries,
        "of them valid": len(altered),
    }


def _extremes(codec: Codec, vector: Vector) -> dict[str, bytes]:
    """The blob of the vector as it is, and of values that say nothing or everything."""
    x, scales, layout = vector
    columns = np.resize(np.array([1e6, -1e6, 1e6], np.float32), layout.total)
    values = {
        HONEST: x, "largest": np.full_like(x, 1e6), "zeros": np.zeros_like(x),
        "one sign a column": columns,
    }  # fmt: skip
    return {name: codec.encode(one, scales).blob for name, one in values.items()}


def _altered(
    codec: Codec, scales: np.ndarray, blobs: dict[str, bytes], tries: int, dice: np.random.Generator
) -> dict[str, bytes]:
    """The blobs in turn, each with two bytes near its beginning drawn anew: those that are valid."""
    names, valid = list(blobs), {}
    for number in range(tries):
        name = names[number % len(names)]
        blob = bytearray(blobs[name])
        for at in dice.integers(8, min(len(blob), 60), 2):
            blob[at] = dice.integers(0, 256)
        try:
            codec.decode(bytes(blob), scales)
        except WireError:
            continue
        valid[f"{name}, altered {number}"] = bytes(blob)
    return valid
