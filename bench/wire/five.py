"""Five ternary codes to a byte: 3^5 = 243."""

import numpy as np
from numba import njit


def five_to_a_byte(codes: np.ndarray) -> np.ndarray:
    """Ternary codes, int8[P], as uint8[P / 5 rounded up]."""
    out = np.zeros(-(-len(codes) // 5), np.uint8)
    _pack(codes, out)
    return out


def five_of_a_byte(packed: np.ndarray, count: int) -> np.ndarray:
    out = np.empty(count, np.int8)
    digits = np.arange(243)[:, None] // 3 ** np.arange(5) % 3 - 1
    _unpack(packed, out, digits.astype(np.int8))
    return out


@njit(nogil=True)
def _pack(codes, out):  # type: ignore[no-untyped-def]
    whole = len(codes) // 5
    for i in range(whole):
        c = codes[5 * i : 5 * i + 5]
        out[i] = np.uint8(
            (c[0] + 1) + 3 * (c[1] + 1) + 9 * (c[2] + 1) + 27 * (c[3] + 1) + 81 * (c[4] + 1)
        )
    power = 1
    for j in range(5 * whole, len(codes)):
        out[whole] += np.uint8(power * (codes[j] + 1))
        power *= 3


@njit(nogil=True)
def _unpack(packed, out, digits):  # type: ignore[no-untyped-def]
    whole = len(out) // 5
    for i in range(whole):
        of, at = digits[packed[i]], out[5 * i : 5 * i + 5]
        for j in range(5):
            at[j] = of[j]
    for j in range(5 * whole, len(out)):
        out[j] = digits[packed[whole], j - 5 * whole]
