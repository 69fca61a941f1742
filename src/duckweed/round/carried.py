"""What a peer carries from a contribution that counted to the next, and how auditors are shown it. No torch."""

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from duckweed.run.layout import Layout

PARAMETER = 16
"""Bytes a parameter that it has at most as auditors are shown it: the residual, up to three moments."""


class Carried(msgspec.Struct):
    """What a peer carries over from a contribution that counted to the rounds after it."""

    round: int  # of the contribution
    residual: np.ndarray  # what it did not send, f32[P]
    optimizer: dict[str, np.ndarray]  # after its steps
    sent: np.ndarray | None = None  # what it sent, f32[P]; with overlap only
    hash: str = (
        ""  # of it as auditors are shown it; "": nothing is carried, or the run has no audits
    )


def packed(carried: Carried) -> bytes:
    """As auditors are shown it: safetensors, the same bytes for the same contents."""
    return save({"residual": carried.residual, **carried.optimizer})


def unpacked(data: bytes, layout: Layout) -> Carried:
    """The inverse. Raises ValueError for what no peer carries."""
    try:
        arrays = load(data)
        residual = arrays.pop("residual")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"what the peer carries cannot be read: {error}") from error
    if residual.shape != (layout.total,):
        raise ValueError("what the peer carries has a residual of another size")
    for name, array in {"residual": residual, **arrays}.items():
        if array.dtype != np.float32:
            raise ValueError(f"what the peer carries: {name} is {array.dtype}, not float32")
        if not np.isfinite(array).all():
            raise ValueError(f"what the peer carries: {name} has numbers that are not finite")
    return Carried(-1, residual, arrays)


def carried_limit(layout: Layout) -> int:
    """The most bytes that it has as auditors are shown it."""
    return PARAMETER * layout.total + (1 << 20)


def distances(a: Carried, b: Carried) -> dict[str, float]:
    """Name of a part -> |a - b| / |b|, b being what was computed here. Raises ValueError if they have other
    parts."""
    parts = {"residual": b.residual, **b.optimizer}
    theirs = {"residual": a.residual, **a.optimizer}
    if {k: v.shape for k, v in parts.items()} != {k: v.shape for k, v in theirs.items()}:
        raise ValueError("what the peer carries has other parts than those of its optimizer")
    found = {}
    for name, array in parts.items():
        gap = float(np.linalg.norm(theirs[name].astype(np.float64) - array))
        length = float(np.linalg.norm(array.astype(np.float64)))
        found[name] = gap / length if length else gap
    return found
