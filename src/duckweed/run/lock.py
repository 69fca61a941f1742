"""A lock file: one process at a time. It dies with its process, however that ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Busy(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def alone(path: Path, wait: bool = True, patience: float = 0) -> Iterator[None]:
    """Hold the lock file `path`. While another process does: wait, or raise Busy after
    `patience` seconds."""
    lock = FileLock(path, timeout=-1 if wait else patience)
    try:
        lock.acquire()
    except Timeout as error:
        raise Busy(f"{path}: held by another process") from error
    try:
        yield
    finally:
        lock.release()
