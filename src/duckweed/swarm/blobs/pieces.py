"""A large file in pieces: hashed one by one, so that each can come from another holder and be passed
on before the whole is there."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

LEAST = 1 << 16  # bytes of a piece, but for the last one
MOST = 8192  # pieces of one file: their hashes must fit into one answer


def length(size: int) -> int:
    """Bytes of each piece, the last excepted, of `size` bytes: a power of two, LEAST or more."""
    piece = LEAST
    while piece * MOST < size:
        piece *= 2
    return piece


def hashes_of(path: Path) -> list[bytes]:
    """blake3, 32 bytes, of every piece of a file."""
    step, found = length(path.stat().st_size), []
    with path.open("rb") as file:
        while data := file.read(step):
            found.append(blake3(data).digest())
    return found


class Parts:
    """Pieces of one file that is being gathered; what does not fit its hash is not taken.

    path: where they are kept, so that a transfer that broke off goes on with what is there; None:
    in memory. Raises ValueError if size and number of hashes do not belong together.
    """

    def __init__(self, size: int, hashes: Sequence[bytes], path: Path | None = None) -> None:
        self.size, self.hashes, self.path = size, list(hashes), path
        self.step = length(size)
        if size < 1 or len(self.hashes) != -(-size // self.step):
            raise ValueError(f"{len(self.hashes)} pieces do not make {size} bytes")
        self.here: set[int] = set()
        self.came = asyncio.Condition()
        self._memory = bytearray(size) if path is None else None
        if path is not None:
            self._recall(path)

    def _recall(self, path: Path) -> None:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(self.size)
            for number, wanted in enumerate(self.hashes):
                if blake3(file.read(self.step)).digest() == wanted:
                    self.here.add(number)

    @property
    def whole(self) -> bool:
        return len(self.here) == len(self.hashes)

    async def take(self, number: int, data: bytes) -> bool:
        """Keep a piece; False if it is not the one that belongs there."""
        if blake3(data).digest() != self.hashes[number]:
            return False
        start = number * self.step
        if self._memory is not None:
            self._memory[start : start + len(data)] = data
        else:
            assert self.path is not None
            with self.path.open("r+b") as file:
                file.seek(start)
                file.write(data)
        self.here.add(number)
        async with self.came:
            self.came.notify_all()
        return True

    def piece(self, number: int) -> bytes | None:
        """A piece that is here."""
        if number not in self.here:
            return None
        start = number * self.step
        if self._memory is not None:
            return bytes(self._memory[start : start + self.step])
        assert self.path is not None
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(self.step)

    def all(self) -> bytes:
        """The whole, of what is gathered in memory."""
        assert self._memory is not None
        return bytes(self._memory)
