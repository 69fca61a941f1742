"""How an inner step is fitted into the memory of a device: what a user wishes, and the ways there are.

A step is the same up to rounding, however it is fitted: its sequences are trained a micro-batch at a
time, their gradients added up, and the optimizer steps once.
"""

from collections.abc import Callable

import msgspec

Say = Callable[[str], None]
"""Told in a sentence what a user should know."""


class Wish(msgspec.Struct, frozen=True):
    """What the user of a peer has said about its memory."""

    micro: int | None = None
    """Most sequences of a forward and backward pass; None: as many as fit."""
    room: int | None = None
    """Bytes that the peer may count on, everything included; None: what is free. Of a site: each process."""
    processes: int = 1
    """That train together as one peer (duckweed.learn.site)."""
    shard: bool = False
    """Whether they are to share out the model, also where it fits into the memory of each."""
    main: int = 0
    """Bytes of main memory that a device may keep its states in; 0: they stay on the device."""
    offload: bool = False
    """Whether they are to be kept there, also where they fit on the device."""
    compile: bool = False
    """Whether layers are to be compiled (duckweed.learn.compiled), which rounds otherwise."""


ANY = Wish()


class Machine(msgspec.Struct, frozen=True):
    """What of this machine a run may use."""

    device: str = "auto"
    """As PyTorch names it; auto: the best that there is."""
    threads: int = 1
    """CPU threads of each peer."""
    peers: int = 1
    """How many share it."""
    wish: Wish = ANY
    """Of the memory of each peer."""


class Fit(msgspec.Struct, frozen=True):
    """One way to fit an inner step into memory."""

    micro: int
    """Sequences of a forward and backward pass, at most."""
    checkpoint: bool = False
    """Whether the activations inside a layer are computed again in the backward pass, not kept."""
    processes: int = 1
    """That share out the sequences of the step."""
    sharded: bool = False
    """Whether they share out the model and its moments, too."""
    offload: bool = False
    """Whether weights, gradients and moments stay in main memory (duckweed.learn.offload)."""

    def __str__(self) -> str:
        said = f"micro-batches of {self.micro} sequence{'' if self.micro == 1 else 's'}"
        said += f", shared out over {self.processes} processes" if self.processes > 1 else ""
        said += " as the model is" if self.sharded else ""
        said += " with activation checkpointing" if self.checkpoint else ""
        return f"{said} and all states in main memory" if self.offload else said


class MicroError(ValueError):
    """What was given as --micro is neither a number of sequences nor auto."""


def read_micro(text: str) -> int | None:
    """The number of sequences that "auto" (None) or "4" stands for. Raises MicroError."""
    if text in ("auto", ""):
        return None
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    raise MicroError(
        f"--micro {text}: write how many sequences to train at a time, 1 or more, or auto"
    )


def ways(wish: Wish, batch: int, checkpoint: bool = True, offload: bool = False) -> list[Fit]:
    """The ways to fit a step of `batch` sequences, the fastest first and the one that needs least
    memory last. checkpoint: whether the model can have its activations computed again; offload: whether there is
    other memory than the device's for what is kept."""
    share = -(-batch // wish.processes)
    sizes = _ladder(share) if wish.micro is None else [min(wish.micro, share)]
    sharded = [True] if wish.shard else [False, True][: 1 + (wish.processes > 1)]
    away = [Fit(micro, True, offload=True) for micro in sizes] if offload else []
    here = [
        Fit(micro, again, wish.processes, apart)
        for apart in sharded
        for again in (False, True)[: 1 + checkpoint]
        for micro in sizes
    ]
    return away if wish.offload and away else here + away


def _ladder(batch: int) -> list[int]:
    """The batch in 1, 2, 3, 4, 6, 8, 12 ... equal parts, down to single sequences."""
    parts = sorted(
        {1, *(share << power for power in range(batch.bit_length()) for share in (2, 3))}
    )
    sizes = {-(-batch // part) for part in parts if part < batch} | {1}
    return sorted(sizes, reverse=True)
