"""What rank 0 of a site tells the others to do. Each order is small, and begins and ends by itself, so that rank 0 may
give up a block after any step: the next order finds every rank waiting."""

from typing import Literal

import msgspec

from duckweed.learn.fit import Fit


class Listed(msgspec.Struct, frozen=True):
    """An array that comes along."""

    name: str
    dtype: Literal["bool", "uint8", "int32", "int64", "float16", "float32", "float64"]
    shape: tuple[int, ...]


class Build(msgspec.Struct, tag=True, frozen=True):
    """Build the model. Of each run, and of each path of a family, the first order."""

    spec: str
    """The specification as TOML."""
    config: str
    """The model's configuration as JSON."""
    ways: list[Fit]
    """How a step may be fitted into memory, best first."""


class Fix(msgspec.Struct, tag=True, frozen=True):
    """Set the persistent buffers."""

    buffers: list[Listed]


class Load(msgspec.Struct, tag=True, frozen=True):
    """Take weights; they come tensor by tensor."""

    training: bool


class Begin(msgspec.Struct, tag=True, frozen=True):
    """Make the optimizer."""

    seed: int
    state: list[Listed]
    """What it begins with; it comes array by array."""


class Step(msgspec.Struct, tag=True, frozen=True):
    """Train an inner step."""

    number: int
    """Of the step, counted over the run."""
    batch: list[Listed]


class Measure(msgspec.Struct, tag=True, frozen=True):
    """Measure a held-out batch."""

    batch: list[Listed]


class State(msgspec.Struct, tag=True, frozen=True):
    """Help to gather the state of a sharded optimizer."""


class Read(msgspec.Struct, tag=True, frozen=True):
    """Help to gather sharded weights."""


class End(msgspec.Struct, tag=True, frozen=True):
    """All is done."""


Order = Build | Fix | Load | Begin | Step | Measure | State | Read | End
