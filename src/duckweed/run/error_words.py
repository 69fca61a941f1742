"""Errors in words that say what happened and what to do: for commands, processes and volunteers."""

import errno
import os
import sqlite3
from pathlib import Path

EXPECTED = (OSError, ValueError, RuntimeError, MemoryError, sqlite3.Error)
"""Kinds of errors whose message is meant for the user; any other is a fault of ours."""


def words(error: BaseException, place: Path | None = None, again: str = "try again") -> str:
    """An error as its reader can use it.

    place: the folder that was worked in. again: how to go on once the cause is mended.
    """
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        disk = f"the disk of {place or error.filename or 'this machine'}"
        said = error.strerror or ""
        detail = f": {said}" if said and said != os.strerror(errno.ENOSPC) else ""
        return f"{disk} is full{detail}. Nothing that counted is lost; make room, then {again}"
    if out_of_memory(error):
        return (
            f"this machine ran out of memory ({_first_line(error)}). Close other programs, or allow more where "
            f"--memory limits it; then {again}"
        )
    if lost_device(error):
        return (
            f"the device failed ({_first_line(error)}), and this process cannot compute on it any more. What was in "
            "training is given back, and nothing that counted is lost. The driver's messages say more (dmesg, "
            f"nvidia-smi); once the device answers again, {again}"
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error or type(error).__name__}"
    if isinstance(error, EXPECTED):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whichever device; PyTorch has no one error for it."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "can't allocate memory" in said or "not enough memory" in said
    )


def lost_device(error: BaseException) -> bool:
    """Whether an accelerator failed under this process: a driver that was reset, a fault of the device or of its memory.
    Then every later call fails, too. PyTorch has an error for it since 2.8, and its libraries raise others."""
    if not isinstance(error, RuntimeError) or out_of_memory(error):
        return False
    said = ("CUDA error", "HIP error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "CUDA driver error")
    return type(error).__name__ == "AcceleratorError" or any(text in str(error) for text in said)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or "no detail"
