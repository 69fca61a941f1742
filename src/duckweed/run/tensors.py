"""Arrays on disk, written so that after a crash the old file or the new one is there, whole."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import get_ident
from typing import BinaryIO

import numpy as np
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.numpy import save_file


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], facts: dict[str, str], sync: bool = True
) -> None:
    """Write named arrays and facts about them as safetensors, the same bytes for the same contents, so
    that peers that hold one state give one file to a newcomer, a piece each. sync: wait for the disk; without, a
    file may be damaged if the machine itself fails, and is whole if no more than the process ends. Raises OSError,
    also for a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several peers of one machine, and threads of a peer, may save the same at the same time.
    part = path.with_suffix(f".{os.getpid()}.{get_ident()}.part")
    try:
        save_file({name: np.asarray(a, order="C") for name, a in arrays.items()}, part, facts)
        with part.open("r+b") as file:
            _order(file)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
    except SafetensorError as error:
        code = errno.ENOSPC if "No space" in str(error) else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """blake3 over the names and the numbers of arrays, 64 hex digits."""
    found = blake3(max_threads=1)
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        found.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _order(file: BinaryIO) -> None:
    """Put the facts of a safetensors file into the order of their names: the library writes them in one
    that changes from call to call."""
    size = int.from_bytes(file.read(8), "little")
    table = json.loads(file.read(size))
    table["__metadata__"] = dict(sorted(table.get("__metadata__", {}).items()))
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) <= size:  # else it holds what JSON can spell in two ways: left as it is
        file.seek(8)
        file.write(text.ljust(size))
