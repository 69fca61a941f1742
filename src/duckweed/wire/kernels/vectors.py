"""Arithmetic on all values of a vector, one rounded operation of float32 at a time: the bits are those that
NumPy gives for the same operations."""

from __future__ import annotations

import numpy as np

from duckweed.wire.kernels.jit import kernel

MOST = np.float32(2.67e36)
"""The largest scale of int8 codes: 127 times that is finite."""


@kernel
def largest_bits(bits):  # type: ignore[no-untyped-def]
    """The largest magnitude among float32 values, given and returned as bits, uint32."""
    most = np.uint32(0)
    for i in range(len(bits)):
        most = max(most, bits[i] & np.uint32(0x7FFFFFFF))
    return most


@kernel
def ternary(codes, x, border):  # type: ignore[no-untyped-def]
    """Codes int8 of x: 1 above the border, -1 below minus the border, else 0. Returns the largest magnitude of x
    as bits, uint32."""
    minus, bits, largest = -border, x.view(np.uint32), np.uint32(0)
    for i in range(len(x)):
        largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
        codes[i] = np.int8(x[i] > border) - np.int8(x[i] < minus)
    return largest


@kernel
def levels(codes, x, border, step, most):  # type: ignore[no-untyped-def]
    """Codes int8 of x, float32: beyond the border sign(x) * clip(rint(|x| / step), 1, most), else 0. Returns the
    largest magnitude of x as bits, uint32."""
    one, top = np.float32(1), np.float32(most)
    bits, largest = x.view(np.uint32), np.uint32(0)
    for i in range(len(x)):
        largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
        size = abs(x[i])
        level = np.int8(max(one, min(top, np.rint(size / step))))
        code = level if size > border else np.int8(0)
        codes[i] = code if x[i] > 0 else -code
    return largest


@kernel
def scale(out, codes, step):  # type: ignore[no-untyped-def]
    """out = codes * step, one float32 multiplication each."""
    for i in range(len(codes)):
        out[i] = np.float32(codes[i]) * step


@kernel
def leave(x, codes, step):  # type: ignore[no-untyped-def]
    """x -= codes * step: a float32 multiplication, then a float32 subtraction."""
    for i in range(len(codes)):
        x[i] -= np.float32(codes[i]) * step


@kernel
def carry(out, delta, residual, beta):  # type: ignore[no-untyped-def]
    """out = beta * residual + delta: a float32 multiplication, then a float32 addition."""
    for i in range(len(out)):
        out[i] = beta * residual[i] + delta[i]


@kernel
def outer(after, moved, weights, momentum, gradient, rate, mu):  # type: ignore[no-untyped-def]
    """moved = mu * momentum + gradient; after = weights - rate * (mu * moved + gradient), each operation of float32
    rounded."""
    for i in range(len(after)):
        moved[i] = mu * momentum[i] + gradient[i]
        after[i] = weights[i] - rate * (mu * moved[i] + gradient[i])


@kernel
def add(total, codes, weight):  # type: ignore[no-untyped-def]
    """total += weight * codes, integers that hold it; returns the sum of squares of the codes."""
    square = np.int64(0)
    for i in range(len(codes)):
        code = np.int32(codes[i])
        total[i] += code * weight
        square += np.int64(code * code)
    return square


@kernel
def magnitudes(numbers, apart):  # type: ignore[no-untyped-def]
    """The sum of the magnitudes of every `apart`-th integer."""
    total = np.int64(0)
    for i in range(0, len(numbers), apart):
        total += abs(np.int64(numbers[i]))
    return total


@kernel
def present(found, numbers):  # type: ignore[no-untyped-def]
    """Mark the magnitudes that come, bool."""
    for i in range(len(numbers)):
        found[abs(numbers[i])] = True


@kernel
def rank(out, numbers, ranks):  # type: ignore[no-untyped-def]
    """out = sign(number) * ranks[|number|]."""
    for i in range(len(numbers)):
        number = numbers[i]
        size = ranks[abs(number)]
        out[i] = -size if number < 0 else size


@kernel
def unrank(out, numbers, values, middle):  # type: ignore[no-untyped-def]
    """out = values[number + middle]; numbers are from -middle to middle."""
    for i in range(len(numbers)):
        out[i] = values[numbers[i] + middle]


@kernel
def round_bf16(out, bits):  # type: ignore[no-untyped-def]
    """bf16 bits, uint16, of the bits of float32 values: to nearest, ties to even; finite stays finite."""
    for i in range(len(bits)):
        one = bits[i]
        top = (one + np.uint32(0x7FFF) + (one >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        size = min(np.uint32(top & np.uint32(0x7FFF)), np.uint32(0x7F7F))
        out[i] = np.uint16(size | (one >> np.uint32(16) & np.uint32(0x8000)))


@kernel
def to_int8(codes, scales, x, starts):  # type: ignore[no-untyped-def]
    """Codes int8 of blocks of x, clip(rint(x / scale), -127, 127), at the scale max |x| / 127 of each block.
    starts: of each block, and the end, int64[B + 1]. Returns the largest magnitude of x as bits, uint32."""
    top, most = np.float32(127), MOST
    room, above = np.empty(1, np.uint32), np.uint32(0)
    for block in range(len(starts) - 1):
        here, code = x[starts[block] : starts[block + 1]], codes[starts[block] : starts[block + 1]]
        largest = np.uint32(0)  # of the bits, which have the order of the magnitudes
        bits = here.view(np.uint32)
        for i in range(len(bits)):
            largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
        above = max(above, largest)
        room[0] = largest
        scale = min(room.view(np.float32)[0] / top, most)
        scales[block] = scale
        divisor = scale if scale > 0 else np.float32(np.inf)
        for i in range(len(here)):
            code[i] = np.int8(max(-top, min(top, np.rint(here[i] / divisor))))
    return above


@kernel
def split_int8(high, rest, low):  # type: ignore[no-untyped-def]
    """code = high * 2^low + rest - 2^low / 2, with 0 <= rest < 2^low. high: holds the codes before."""
    half, shift = np.int32((1 << low) >> 1), np.int32(low)
    for i in range(len(high)):
        shifted = np.int32(np.int32(high[i]) + half)
        top = np.int32(shifted >> shift)
        high[i] = np.int8(top)
        rest[i] = np.uint8(shifted - np.int32(top << shift))


@kernel
def from_int8(out, high, rest, low, scales, starts):  # type: ignore[no-untyped-def]
    """What the codes of `split_int8` stand for; returns the largest magnitude of a code."""
    half, shift, most = np.int32((1 << low) >> 1), np.int32(low), np.int32(0)
    for block in range(len(starts) - 1):
        scale, start, stop = scales[block], starts[block], starts[block + 1]
        here, above, below = out[start:stop], high[start:stop], rest[start:stop]
        for i in range(len(here)):
            code = np.int32((np.int32(above[i]) << shift) - half)
            code = np.int32(code + np.int32(below[i]))
            most = max(most, np.int32(abs(code)))
            here[i] = np.float32(code) * scale
    return most


@kernel
def leave_int8(x, high, rest, low, scales, starts):  # type: ignore[no-untyped-def]
    """x minus what the codes of `split_int8` stand for."""
    half, shift = np.int32((1 << low) >> 1), np.int32(low)
    for block in range(len(starts) - 1):
        scale, start, stop = scales[block], starts[block], starts[block + 1]
        here, above, below = x[start:stop], high[start:stop], rest[start:stop]
        for i in range(len(here)):
            code = np.int32((np.int32(above[i]) << shift) - half)
            here[i] -= np.float32(np.int32(code + np.int32(below[i]))) * scale
