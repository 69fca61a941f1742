"""Arrays on disk, written so that after a crash the old file or the new one is there, whole."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], facts: dict[str, str]) -> None:
    """Write named arrays and facts about them as safetensors. Raises OSError, also for a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several peers of one machine may save the same state at the same time.
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file({name: np.asarray(a, order="C") for name, a in arrays.items()}, part, facts)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except SafetensorError as error:
        code = errno.ENOSPC if "No space" in str(error) else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        part.unlink(missing_ok=True)
