"""What goes wrong on a volunteer's own machine, in words that say what to do."""

import errno
from pathlib import Path

AGAIN = "the same command goes on as the same peer"


def words(error: BaseException, home: Path) -> str:
    """An error as a volunteer would want to read it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        detail = f": {error.strerror}" if error.strerror and "free" in error.strerror else ""
        return (
            f"the disk of {home} is full{detail}. Nothing that counted is lost; make room, then "
            f"{AGAIN}"
        )
    if out_of_memory(error):
        return (
            f"this machine ran out of memory ({str(error).splitlines()[0] if str(error) else 'no detail'}). "
            f"The block goes back to the others; allow more (--memory), close other programs, then {AGAIN}"
        )
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    strerror = error.strerror if isinstance(error, OSError) else None
    return f"{where}{strerror or error or type(error).__name__}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whichever device; PyTorch has no one error for it."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "can't allocate memory" in said or "not enough memory" in said
    )
