"""A keyed pseudo-random permutation of [0, n): the order of the training windows.

A Feistel network on the smallest number of bits that holds n, with cycle walking back into [0, n)
(Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). Its rounds mix with the
finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014). Only uint64 arithmetic modulo 2^64: the same on every machine. It needs no memory,
unlike a shuffled list: any place in the order is computed on its own.
"""

from typing import overload

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the increment of splitmix64
MASK = (1 << 64) - 1


def mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64, elementwise: a bijection of 64 bits without visible pattern."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def derive(seed: int, *parts: int) -> int:
    """A 64-bit key from a seed and further integers, each 0 <= part < 2^64 (order matters)."""
    key = np.array([seed & MASK], dtype=np.uint64)
    for part in parts:
        key = mix(mix(key + np.uint64(GOLDEN)) ^ np.uint64(part & MASK))
    return int(mix(key + np.uint64(GOLDEN))[0])


@overload
def permute(key: int, index: int, n: int) -> int: ...
@overload
def permute(key: int, index: NDArray[np.int64], n: int) -> NDArray[np.int64]: ...
def permute(key: int, index: int | NDArray[np.int64], n: int) -> int | NDArray[np.int64]:
    """Where `index` goes in the permutation of [0, n) that `key` names.

    `index` is an integer or an int64 array of any shape, 0 <= index < n < 2^63; the result has
    the same form. A bijection for every key and n. Raises ValueError outside that range.
    """
    places = np.asarray(index, dtype=np.int64)
    if not 0 < n < 1 << 63 or (places.size and (places.min() < 0 or places.max() >= n)):
        raise ValueError(f"permute: an index is outside [0, {n})")
    # A power of two below 2n: a walk back into [0, n) takes under two steps on average.
    bits = max(2, (n - 1).bit_length())
    value = places.reshape(-1).astype(np.uint64)
    keys = [np.uint64(derive(key, turn)) for turn in range(ROUNDS)]
    value = _feistel(value, bits, keys)
    while (outside := np.flatnonzero(value >= np.uint64(n))).size:
        value[outside] = _feistel(value[outside], bits, keys)
    result = value.astype(np.int64).reshape(places.shape)
    return int(result) if np.ndim(index) == 0 else result


def _feistel(value: NDArray[np.uint64], bits: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    """The network on [0, 2^bits): the two parts in turn are XORed with a hash of the other."""
    low = bits // 2
    low_mask = np.uint64((1 << low) - 1)
    high_mask = np.uint64((1 << (bits - low)) - 1)
    left, right = value >> np.uint64(low), value & low_mask
    for turn, key in enumerate(keys):
        # The top bits of the product: the best mixed ones.
        if turn % 2:
            left = left ^ ((mix(right + key) >> np.uint64(32)) & high_mask)
        else:
            right = right ^ ((mix(left + key) >> np.uint64(32)) & low_mask)
    return (left << np.uint64(low)) | right
