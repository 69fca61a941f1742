"""A run folder written by hand: two peers, a model of 1,000 parameters, tokens of two bytes."""

import math
from pathlib import Path

from duckweed.ledger.entries import (
    Body,
    Closed,
    Contributed,
    GenesisEntry,
    PeerEntry,
    RoundEntry,
    StateEntry,
)
from duckweed.ledger.ledger import Ledger
from duckweed.run import toml
from duckweed.run.events import RoundClosed
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec, override

PARAMETERS = 1000
BYTES_PER_TOKEN = 2.0
BIT = 2 * math.log(2)  # nats per token that are one bit per byte at two bytes per token
TOKENS = 100  # of every contribution
SIZE = 40  # bytes of every contribution


def run(path: Path, rounds: int) -> tuple[RunFolder, RunSpec]:
    """An empty run of that many rounds of 10 steps, with its two peers in the ledger."""
    path.mkdir()
    folder = RunFolder(path)
    spec = override(
        RunSpec(), {"rounds.count": rounds, "rounds.peers": 2, "inner.steps": 10, "inner.warmup": 2}
    )
    folder.spec.write_text(toml.write(spec))
    genesis = GenesisEntry(
        run=spec.identity, coordinator="", spec="", layout="", tokens="", windows=1,
        state="0" * 64, scales=[], parameters=PARAMETERS, data="",
    )  # fmt: skip
    append(folder, 0, genesis)
    for index in range(2):
        append(folder, 0, PeerEntry(index, f"key {index}"))
    return folder, spec


def append(folder: RunFolder, number: int, body: Body) -> str:
    ledger = Ledger(folder.ledger, lambda message: b"signed")
    try:
        return ledger.append(number, body).hash
    finally:
        ledger.close()


def close(
    folder: RunFolder, number: int, loss: float, rejected: dict[int, str] | None = None
) -> None:
    """The ledger's entries of a round in which both peers handed something in; loss in bits per byte."""
    rejected = rejected or {}
    said = Contributed(TOKENS, loss * BIT, "b" * 64, SIZE)
    accepted = [peer for peer in (0, 1) if peer not in rejected]
    blobs, weights = ["b" * 64] * len(accepted), [1] * len(accepted)
    closed = Closed(number, accepted, blobs, weights, rejected, None, [])
    append(folder, number, RoundEntry(closed, {0: 0, 1: 1}, {0: said, 1: said}))
    append(folder, number + 1, StateEntry(f"{number + 1:064x}", 2))


def record(
    folder: RunFolder,
    number: int,
    traffic: tuple[int, int, int, int],
    held_out: float | None = None,
    seconds: float = 5.0,
    train: float = 4.0,
    accepted: int = 2,
) -> None:
    """The metrics' line of a round. traffic: bytes of contributions, updates, control up and down."""
    contributions, updates, up, down = traffic
    event = RoundClosed(
        round=number,
        seconds=seconds,
        held_out=None if held_out is None else held_out * BIT,
        contribution_bytes=[SIZE] * accepted,
        timings={0: {"train": train, "wait": 1.0}, 1: {"train": train + 1.0, "apply": 0.5}},
        traffic={
            "contributions": [contributions, 0],
            "updates": [0, updates],
            "control": [up, down],
        },
    )
    folder.record(event)
