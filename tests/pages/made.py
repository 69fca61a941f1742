"""A run folder written by hand: two peers, a model of 1,000 parameters, tokens of two bytes."""

import math
from pathlib import Path
from typing import Any

from duckweed.ledger.ledger import Ledger
from duckweed.run import toml
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
    append(folder, "genesis", 0, {"state": "0" * 64})
    for index in range(2):
        append(folder, "peer", 0, {"index": index, "key": f"key {index}"})
    return folder, spec


def append(folder: RunFolder, kind: str, number: int, body: dict[str, Any]) -> str:
    ledger = Ledger(folder.ledger, lambda message: b"signed")
    try:
        return ledger.append(kind, number, body).hash
    finally:
        ledger.close()


def close(
    folder: RunFolder, number: int, loss: float, rejected: dict[str, str] | None = None
) -> None:
    """The ledger's entries of a round in which both peers handed something in; loss in bits per byte."""
    rejected = rejected or {}
    said = {"tokens": TOKENS, "loss": loss * BIT, "blob": "b" * 64, "size": SIZE}
    closed = {"accepted": [p for p in (0, 1) if str(p) not in rejected], "rejected": rejected}
    body = {"closed": closed, "blocks": {"0": 0, "1": 1}, "contributions": {"0": said, "1": said}}
    append(folder, "round", number, body)
    append(folder, "state", number + 1, {"hash": f"{number + 1:064x}", "peers": 2})


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
    folder.record(
        event="round",
        round=number,
        seconds=seconds,
        held_out=None if held_out is None else held_out * BIT,
        contribution_bytes=[SIZE] * accepted,
        timings={"0": {"train": train, "wait": 1.0}, "1": {"train": train + 1.0, "apply": 0.5}},
        traffic={
            "contributions": [contributions, 0],
            "updates": [0, updates],
            "control": [up, down],
        },
    )
