"""What a contribution weighs and how long three-way exchange takes: upload, aggregation, download.

A peer of M replicas holds P parameters and sends `up` bits for each; what comes back depends on how
the contributions meet:

- `store`: an object store or a peer with an ample link adds up: one upload, one download of the sum;
- `shards`: every peer adds up 1/M of the parameters: what is sent also comes in, both ways;
- `gather`: every peer needs every contribution and passes on its share of them: M - 1 each way.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from duckweed.plan.errors import unknown
from duckweed.plan.inputs import table

Array = NDArray[np.float64]

AGREEMENT = 0.06
"""Correlation between peers' ternary codes that gives the measured sums: 2.29 bits for four peers
and 2.89 for eight where each sends 1.15 (prototype measurement, see docs/wire.md)."""


@dataclass(frozen=True)
class Wire:
    """How a contribution is written. up: bits a parameter; density: share of non-zero codes where
    contributions are added as integers; gap: relative loss; merge: dense, sum or gather."""

    name: str
    merge: str
    up: float
    density: float = 0.0
    gap: float = 0.0
    source: str = "given by hand"

    @property
    def paths(self) -> tuple[str, ...]:
        return ("store", "gather") if self.merge == "gather" else ("store", "shards")


def wires() -> list[Wire]:
    return [
        Wire(
            row["name"],
            row["merge"],
            float(row["up_bits"]),
            float(row["density"] or 0),
            float(row["loss_gap"]),
            row["source"],
        )
        for row in table.rows("wire")
    ]


def find(name: str) -> Wire:
    known = {wire.name: wire for wire in wires()}
    if name not in known:
        raise unknown("wire", name, known)
    return known[name]


def entropy(variance: float) -> float:
    """Bits of a symmetric integer with that variance, as a difference of two Poisson counts
    (Skellam); above 400 the Gaussian value 0.5 log2(2 pi e v), which it meets there."""
    if variance <= 0:
        return 0.0
    if variance > 400:
        return 0.5 * math.log2(2 * math.pi * math.e * variance)
    rate, reach = variance / 2, int(10 * math.sqrt(variance) + 12)
    k = np.arange(reach * 2)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, reach * 2)))])
    poisson = np.exp(-rate + k * np.log(rate) - log_factorial)
    law = np.convolve(poisson, poisson[::-1])
    law = law[law > 1e-300]
    return float(-(law * np.log2(law)).sum())


@cache
def sums(density: float) -> tuple[Array, Array]:
    """log2 of the replicas, and bits of the sum of that many codes."""
    logs = np.linspace(0, 16, 65)
    many = 2.0**logs
    variance = density * many * (1 + (many - 1) * AGREEMENT)
    return logs, np.array([entropy(float(v)) for v in variance])


def down_bits(wire: Wire, count: Array) -> Array:
    """Bits a parameter of the merged update of `count` replicas."""
    if wire.merge == "sum":
        logs, bits = sums(wire.density)
        return np.interp(np.log2(np.maximum(count, 1.0)), logs, bits)
    if wire.merge == "gather":
        return np.maximum(count - 1, 0.0) * wire.up
    return np.full(np.shape(count), wire.up)


def volumes(wire: Wire, path: str, count: Array) -> tuple[Array, Array]:
    """Bits a parameter that one peer of `count` sends and receives in a round (0 for a lone one)."""
    others = (count - 1) / np.maximum(count, 1.0)
    together = down_bits(wire, count)
    if path == "store":
        up, down = np.full(np.shape(count), wire.up), together
    elif path == "shards":
        up = down = (wire.up + together) * others
    else:
        up = down = np.maximum(count - 1, 0.0) * wire.up
    alone = count <= 1
    return np.where(alone, 0.0, up), np.where(alone, 0.0, down)


def paths(chosen: Iterable[Wire]) -> list[tuple[Wire, str]]:
    return [(wire, path) for wire in chosen for path in wire.paths]
