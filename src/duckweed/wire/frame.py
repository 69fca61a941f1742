"""The outer form of every blob: a header that says what it is, and reading that cannot overrun.

Header, 8 bytes: ``b"dw"``, version, kind, and 4 bytes of a blake3 over the parameters that both
ends must agree on (layout, wire settings). A blob for another model or recipe is told apart
before anything of it is decoded.
"""

from __future__ import annotations

import blake3
import numpy as np

VERSION = 2
HEADER = 8
_LONGEST = 9  # bytes of a number below 2^63


class WireError(ValueError):
    """A blob that does not hold what it should, or values that cannot be put into one."""


def fingerprint(*parts: bytes) -> bytes:
    """Four bytes that stand for everything sender and receiver must have in common."""
    hasher = blake3.blake3()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest(4)


class Writer:
    """Bytes in the making, header first."""

    def __init__(self, kind: int, agreed: bytes) -> None:
        self.parts = [b"dw", bytes((VERSION, kind)), agreed]

    def raw(self, data: bytes | np.ndarray) -> None:
        self.parts.append(data.tobytes() if isinstance(data, np.ndarray) else data)

    def varint(self, value: int) -> None:
        """An unsigned integer, 7 bits a byte, low bits first (LEB128)."""
        out = bytearray()
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
        self.parts.append(bytes(out))

    def blob(self) -> bytes:
        return b"".join(self.parts)


class Reader:
    """A cursor over a blob. Every read is checked against what is left."""

    def __init__(self, blob: bytes, kind: int, agreed: bytes) -> None:
        self.blob, self.at = memoryview(blob), HEADER
        if len(blob) < HEADER:
            raise WireError(f"blob of {len(blob)} bytes: shorter than its header")
        if blob[:2] != b"dw":
            raise WireError("not a duckweed blob: it starts with the wrong bytes")
        if blob[2] != VERSION:
            raise WireError(f"blob of format version {blob[2]}; this program reads {VERSION}")
        if blob[3] != kind:
            raise WireError(f"blob of kind {blob[3]} where kind {kind} was expected")
        if blob[4:8] != agreed:
            raise WireError("blob made for another model layout or other wire settings")

    @property
    def left(self) -> int:
        return len(self.blob) - self.at

    def raw(self, size: int) -> memoryview:
        if size > self.left:
            raise WireError(f"blob cut short: {size} bytes expected, {self.left} left")
        self.at += size
        return self.blob[self.at - size : self.at]

    def array(self, dtype: str, count: int) -> np.ndarray:
        """``count`` little-endian numbers, as a copy in the machine's own byte order."""
        wanted = np.dtype(dtype)
        data = np.frombuffer(self.raw(count * wanted.itemsize), wanted)
        return data.astype(wanted.newbyteorder("="))

    def varint(self, largest: int) -> int:
        """An unsigned integer that may be at most ``largest``."""
        value = shift = 0
        while True:
            byte = self.raw(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise WireError("a number in the blob has too many bytes")
        if value > largest:
            raise WireError(f"a number in the blob is {value}; at most {largest} is possible")
        return value

    def varints(self, count: int, largest: int | np.ndarray) -> np.ndarray:
        """Unsigned integers, int64[count], each of which may be at most ``largest``: as many calls of
        `varint`, but in a few passes over all of them."""
        data = np.frombuffer(self.blob, np.uint8)[self.at : self.at + _LONGEST * count]
        ends = np.flatnonzero(data < 128)[:count]
        starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
        lengths = ends - starts + 1
        if len(ends) < count or (lengths > _LONGEST).any():
            raise WireError("numbers in the blob are cut short or have too many bytes")
        if not count:
            return np.zeros(0, np.int64)
        data = data[: int(ends[-1]) + 1]
        shifts = 7 * (np.arange(len(data)) - np.repeat(starts, lengths))
        values = np.add.reduceat((data & 127).astype(np.int64) << shifts, starts)
        if (above := values > largest).any():
            where = int(above.argmax())
            most = int(np.broadcast_to(largest, count)[where])
            raise WireError(f"a number in the blob is {values[where]}; at most {most} is possible")
        self.at += len(data)
        return values

    def end(self) -> None:
        if self.left:
            raise WireError(f"{self.left} bytes too many at the end of the blob")
