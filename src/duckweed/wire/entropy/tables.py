"""Tables of frequencies, from rates on a fixed grid.

Rates lie on a grid of 64 points, a quarter of a natural logit apart: at most 0.2 % of the entropy is lost to
the rounding, and an entry of a table costs 6 bits. The frequencies of several symbols are a chain of such
rates: of being more than 0, of being more than 1 where it is more than 0, and so on.
"""

from __future__ import annotations

import numpy as np

from duckweed.wire.frame import Reader, WireError, Writer

BITS = 14
ONE = 1 << BITS
# round(2^14 / (1 + exp((32 - k) / 4))); written out, because exp differs between machines.
# fmt: off
GRID = np.array([
    5, 7, 9, 12, 15, 19, 25, 32, 41, 52, 67, 86, 110, 141, 180, 230,
    295, 376, 480, 612, 777, 984, 1243, 1562, 1953, 2426, 2989, 3649, 4406, 5256, 6186, 7173,
    8192, 9211, 10198, 11128, 11978, 12735, 13395, 13958, 14431, 14822, 15141, 15400, 15607,
    15772, 15904, 16008, 16089, 16154, 16204, 16243, 16274, 16298, 16317, 16332, 16343, 16352,
    16359, 16365, 16369, 16372, 16375, 16377,
], np.int64)
# fmt: on
PER_NAT = 4  # grid points in one natural logit
LEVELS = len(GRID)
HALF_LEVEL = LEVELS // 2
FLAGS = np.stack([ONE - GRID, GRID], axis=1)
"""Of yes and no, where the level is the rate of yes, int64[64, 2]."""
MAX_CLASS = 63
_MIDDLES = (GRID[1:] + GRID[:-1]) // 2


def nearest(yes: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Index of the grid point nearest to the rate yes / count; of one half where count is 0."""
    rate = (yes * ONE + count // 2) // np.maximum(count, 1)
    return np.where(count > 0, np.searchsorted(_MIDDLES, rate), HALF_LEVEL).astype(np.uint8)


def chained(counts: np.ndarray) -> np.ndarray:
    """Of counts int64[C, K + 1], the chain of rates on the grid: of being more than k where it is at least k,
    uint8[C, K]."""
    at_least = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    return nearest(at_least[:, 1:], at_least[:, :-1])


def frequencies(mass: np.ndarray, chain: np.ndarray) -> np.ndarray:
    """Frequencies int64[C, K + 1] of at least 1 that add up to `mass`, int64[C], from a chain uint8[C, K].
    mass: K + 1 at least."""
    left, symbols = mass.copy(), chain.shape[1]
    out = np.empty((len(chain), symbols + 1), np.int64)
    for k in range(symbols):
        more = np.clip(left * GRID[chain[:, k]] >> BITS, symbols - k, left - 1)
        out[:, k] = left - more
        left = more
    out[:, symbols] = left
    return out


def put_indices(writer: Writer, indices: np.ndarray) -> None:
    """Indices of grid points, 6 bits each."""
    bits = np.asarray(indices, np.uint8).reshape(-1, 1) >> np.arange(6, dtype=np.uint8) & 1
    writer.raw(np.packbits(bits.ravel(), bitorder="little"))


def take_indices(reader: Reader, count: int) -> np.ndarray:
    """What `put_indices` wrote, uint8[count]. Raises WireError."""
    data = np.frombuffer(reader.raw(-(-6 * count // 8)), np.uint8)
    bits = np.unpackbits(data, bitorder="little")
    if bits[6 * count :].any():
        raise WireError("padding of a table is not zero: damaged")
    return bits[: 6 * count].reshape(count, 6) @ (1 << np.arange(6, dtype=np.uint8))
