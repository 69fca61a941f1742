"""The public state of a run after a round: what every peer holds, bit for bit the same."""

from pathlib import Path

import msgspec
import numpy as np
from blake3 import blake3
from safetensors import SafetensorError, safe_open

from duckweed.run.layout import Layout
from duckweed.run.tensors import write_arrays

MAGIC = b"duckweed state 1"


class StateError(ValueError):
    """A checkpoint that is truncated, tampered with, or of another model."""


class State(msgspec.Struct):
    """What all peers hold after `round` rounds, bit for bit the same. P values in T tensors."""

    round: int
    layout: str
    """`Layout.digest` of the model."""
    weights: np.ndarray
    """f32[P]"""
    momentum: np.ndarray
    """Of the outer optimizer, f32[P]."""
    shared: np.ndarray
    """What the wire's codec has peers share, f32[K]: the scale of each tensor, say. In files "scales"."""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """By name, little-endian."""
        named = {"weights": self.weights, "momentum": self.momentum, "scales": self.shared}
        return {name: np.ascontiguousarray(x, "<f4") for name, x in named.items()}

    def hash(self) -> str:
        """blake3 over round, layout and the little-endian float32 arrays; 64 hex digits."""
        digest = blake3(MAGIC, max_threads=1)
        digest.update(f"{self.round} {self.layout}".encode())
        for array in self.arrays.values():
            digest.update(array.view(np.uint8).data)
        return digest.hexdigest()

    def save(self, path: Path) -> str:
        """Write atomically as safetensors; returns the hash, which is stored beside the arrays."""
        digest = self.hash()
        facts = {"round": str(self.round), "layout": self.layout, "hash": digest}
        write_arrays(path, self.arrays, facts)
        return digest


def first(layout: Layout, weights: np.ndarray, shared: np.ndarray | None = None) -> State:
    """Before round 0: weights f32[P], no momentum; shared: f32[K], zeros for each tensor if None."""
    if shared is None:
        shared = np.zeros(len(layout.names), np.float32)
    return State(0, layout.digest(), weights, np.zeros_like(weights), shared)


def file_limit(layout: Layout) -> int:
    """Most bytes of the file of a state of this model."""
    return 4 * (2 * layout.total + len(layout.names)) + (1 << 16)


def load(path: Path, layout: Layout) -> State:
    """Read what `State.save` wrote for a model of this layout.

    Raises StateError if the file is damaged, tampered with, or belongs to another model.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            for name in ("weights", "momentum", "scales"):
                part = file.get_slice(name)
                shape = part.get_shape() if name == "scales" else [layout.total]
                if part.get_shape() != shape or len(shape) != 1 or part.get_dtype() != "F32":
                    raise StateError(f"{path}: {name} has the wrong size; not a state of this run")
            weights, momentum = file.get_tensor("weights"), file.get_tensor("momentum")
            shared = file.get_tensor("scales")
        state = State(int(facts["round"]), facts["layout"], weights, momentum, shared)
        if state.layout != layout.digest():
            raise StateError(f"{path}: a state of another model")
        if state.hash() != facts["hash"]:
            raise StateError(f"{path}: its contents do not match its hash; the file was damaged")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"{path}: cannot be read as a checkpoint: {error}") from error
    return state
