"""What a peer carries from one contribution to the next, and how auditors are shown it. No torch."""

from typing import NamedTuple

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from duckweed.run.layout import Layout

PARAMETER = 16
"""Bytes a parameter that it has at most as auditors are shown it: the residual, up to three moments."""


class Carried(msgspec.Struct):
    """What a peer carries over from a contribution to the rounds after it (Closed.carrying)."""

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


class Handed(NamedTuple):
    """A contribution as an auditor compares it."""

    sent: np.ndarray  # its values, f32[P]
    carried: Carried  # what its peer carries on


def distances(a: Handed, b: Handed) -> dict[str, float]:
    """Name of a part of what is carried on -> |a - b| / |b|, b being what was computed here. In place of the
    residual "wanted" is compared: the residual and what was sent, added. A value at the edge between two codes
    moves by a whole level from one to the other on another machine, and their sum does not. Raises ValueError
    if they have other parts."""
    theirs, ours = a.carried.optimizer, b.carried.optimizer
    if {k: v.shape for k, v in theirs.items()} != {k: v.shape for k, v in ours.items()}:
        raise ValueError("what the peer carries has other parts than those of its optimizer")
    found = {"wanted": _distance(a.carried.residual + a.sent, b.carried.residual + b.sent)}
    return found | {name: _distance(theirs[name], array) for name, array in ours.items()}


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    gap = float(np.linalg.norm(a.astype(np.float64) - b))
    length = float(np.linalg.norm(b.astype(np.float64)))
    return gap / length if length else gap
