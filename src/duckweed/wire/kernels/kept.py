"""The values that the sparse wire keeps: the largest of each chunk, in one of two sizes."""

from __future__ import annotations

import numpy as np

from duckweed.wire.kernels.jit import kernel

_SIZE = np.uint32(0x7FFFFFFF)


@kernel
def _place(seen, wanted):  # type: ignore[no-untyped-def]
    """The byte that the `wanted`-th largest has, and the how-manieth it is of those with that byte."""
    byte = 255
    while seen[byte] + seen[256 + byte] < wanted:
        wanted -= seen[byte] + seen[256 + byte]
        byte -= 1
    return byte, wanted


@kernel
def largest(mask, bits, starts, counts):  # type: ignore[no-untyped-def]
    """Mark the `counts` largest values of each chunk, of equals the first, bool. bits: of their magnitudes as
    float32, uint32 (they have the order of the values). starts: of the chunks, and the end, int64[C + 1]."""
    longest = 0
    for chunk in range(len(counts)):
        longest = max(longest, starts[chunk + 1] - starts[chunk])
    left = np.empty(longest, np.uint32)
    seen = np.empty(512, np.int32)  # two counts, so that one need not wait for the other
    for chunk in range(len(counts)):
        start, stop = starts[chunk], starts[chunk + 1]
        wanted, count = counts[chunk], stop - start
        here, out = bits[start:stop], mask[start:stop]
        # The border, a byte at a time from the top (the first is the exponent).
        shift = np.uint32(23)
        seen[:] = 0
        for i in range(count):
            value = np.uint32(here[i] & _SIZE)
            seen[(i & 1) << 8 | np.uint8(value >> shift)] += 1
        byte, wanted = _place(seen, wanted)
        kept = 0
        for i in range(count):
            value = np.uint32(here[i] & _SIZE)
            left[kept] = value
            kept += np.intp(value >> shift == byte)
        count = kept
        while count > wanted and shift:
            shift = np.uint32(15) if shift == 23 else np.uint32(7) if shift == 15 else np.uint32(0)
            seen[:] = 0
            for i in range(count):
                seen[np.uint8(left[i] >> shift)] += 1
            byte, wanted = _place(seen, wanted)
            kept = 0
            for i in range(count):
                value = left[i]
                left[kept] = value
                kept += np.intp(np.uint8(value >> shift) == byte)
            count = kept
        border = left[0]
        for i in range(count):
            border = min(border, left[i])
        for i in range(len(here)):
            out[i] = np.uint32(here[i] & _SIZE) > border
        equal = wanted  # of those that are left, some are above the border
        for i in range(count):
            equal -= np.intp(left[i] > border)
        for i in range(start, stop):
            if equal == 0:
                break
            if np.uint32(bits[i] & _SIZE) == border:
                mask[i] = True
                equal -= 1


@kernel
def two_sizes(sizes, x, mask):  # type: ignore[no-untyped-def]
    """The two magnitudes of least squared error for the marked values of a tensor (Lloyd's iteration), and the
    border between them, f64. sizes: room for as many float32 as are marked."""
    count, total = 0, 0.0
    for i in range(len(x)):
        if mask[i]:
            sizes[count] = abs(x[i])
            total += np.float64(sizes[count])
            count += 1
    mean = total / max(count, 1)
    border = 1.3 * mean
    low, high = mean, mean
    for _ in range(8):
        large, above = 0, 0.0
        for i in range(count):
            if np.float64(sizes[i]) > border:
                large += 1
                above += np.float64(sizes[i])
        high = above / max(large, 1) if large > 0 else mean
        low = (mean * count - above) / max(count - large, 1) if count > large else mean
        border = (high + low) / 2
    return low, high, border


@kernel
def mark(numbers, x, mask, border):  # type: ignore[no-untyped-def]
    """numbers int8: 0 where nothing is marked, else the sign times 1, or times 2 above the border."""
    for i in range(len(x)):
        number = np.int8(0)
        if mask[i]:
            number = np.int8(2) if np.float64(abs(x[i])) > border else np.int8(1)
        numbers[i] = -number if x[i] < 0 else number


@kernel
def values(out, mask, numbers, low, high):  # type: ignore[no-untyped-def]
    """What the numbers stand for, float32, and where they are not 0."""
    for i in range(len(numbers)):
        number = numbers[i]
        size = high if abs(number) == 2 else low
        mask[i] = number != 0
        out[i] = np.float32(0) if number == 0 else -size if number < 0 else size


@kernel
def counts(found, numbers, starts):  # type: ignore[no-untyped-def]
    """How many numbers of each chunk are not 0, int64[C]."""
    for chunk in range(len(found)):
        total = 0
        for i in range(starts[chunk], starts[chunk + 1]):
            total += numbers[i] != 0
        found[chunk] = total
