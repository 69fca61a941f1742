"""Ternary codes of a given density by the integer wire, by five of them to a byte and zstandard, and by zstandard alone;
level 1."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import zstandard

from bench.wire.bound import entropy
from bench.wire.five import five_of_a_byte, five_to_a_byte
from bench.wire.record import Row, told
from bench.wire.timing import InTurn
from bench.wire.vector import Vector, synthetic
from duckweed.run.layout import Layout
from duckweed.wire.codecs.integer import Integer, quantise
from duckweed.wire.entropy.signed import put_integers, take_integers
from duckweed.wire.frame import Reader, Writer

DENSITIES = (0.03, 0.1, 0.3)
SQUEEZE, EXPAND = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()


class Way(NamedTuple):
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def packed(millions: int, repeat: int) -> list[Row]:
    vector = synthetic(millions, 1)
    ways, turn = _ways(vector.layout), InTurn(vector.values, repeat)
    relative, rows = _relative(vector), []
    for density in DENSITIES:
        wire = Integer(threshold=float(np.quantile(relative, 1 - density)), value=2.0)
        codes = quantise(wire, vector.values, vector.layout, vector.scales)
        bound = entropy(codes, vector.layout)
        for name, way in ways.items():
            figures = _figures(way, codes, bound, turn)
            rows.append(told({"density": density, "way": name, **figures}))
    return rows


def _relative(vector: Vector) -> np.ndarray:
    """Sizes of the values, in units of the scale of their tensor."""
    parts = zip(vector.layout.slices(), vector.scales, strict=True)
    return np.concatenate([np.abs(vector.values[part]) / scale for part, scale in parts])


def _figures(way: Way, codes: np.ndarray, bound: float, turn: InTurn) -> Row:
    blob = way.encode(codes)
    assert np.array_equal(way.decode(blob), codes)
    there = turn.figures(partial(way.encode, codes))
    back = turn.figures(partial(way.decode, blob))
    bits = 8 * len(blob) / len(codes)
    return {
        "bits": round(bits, 4),
        "over the entropy": f"{100 * (bits / bound - 1):+.1f} %",
        "encode MB/s": there["MB/s"],
        "of a copy": there["of a copy"],
        "decode MB/s": back["MB/s"],
        "of a copy ": back["of a copy"],
    }


def _ways(layout: Layout) -> dict[str, Way]:
    def coded(codes: np.ndarray) -> bytes:
        writer = Writer(3, b"rate")
        put_integers(writer, codes, 1, layout)
        return writer.blob()

    def decoded(blob: bytes) -> np.ndarray:
        return take_integers(Reader(blob, 3, b"rate"), 1, layout, np.int8)[0]

    def unpacked(blob: bytes) -> np.ndarray:
        return five_of_a_byte(np.frombuffer(EXPAND.decompress(blob), np.uint8), layout.total)

    return {
        "integer wire": Way(coded, decoded),
        "five to a byte, zstandard": Way(lambda c: SQUEEZE.compress(five_to_a_byte(c)), unpacked),
        "zstandard alone": Way(
            SQUEEZE.compress, lambda blob: np.frombuffer(EXPAND.decompress(blob), np.int8)
        ),
    }
