"""A lock file: one process at a time. It dies with its process, however that ends."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Busy(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def alone(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`. While another process does: wait, or raise Busy."""
    with path.open("a+b") as file:
        while not _taken(file):
            if not wait:
                raise Busy(f"{path}: held by another process")
            time.sleep(0.1)
        yield


def _taken(file: IO[bytes]) -> bool:
    """Try to take the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
