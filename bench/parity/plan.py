"""Which cells are trained, most important first."""

from typing import Any

from bench.parity.cells import FP32, Cell, integer, sparse

ADAMW: dict[str, Any] = {"inner.optimizer": "adamw"}
KEPT: dict[str, Any] = {"inner.state": "kept"}
PLAIN: dict[str, Any] = {"outer.optimizer": "none"}
EIGHT: dict[str, Any] = {"rounds.peers": 8, "model.sequence": 32}  # the same tokens a step in all


def _cell(kind: str, name: str, rate: float, seed: int, *changes: dict[str, Any]) -> Cell:
    merged: dict[str, Any] = {"inner.learning_rate": rate, "seed": seed}
    for change in changes:
        merged |= change
    return Cell(f"{name}-s{seed}", kind, merged)


def ddp(name: str, rate: float, seed: int, *changes: dict[str, Any]) -> Cell:
    return _cell("ddp", name, rate, seed, *changes)


def swarm(name: str, rate: float, seed: int, *changes: dict[str, Any]) -> Cell:
    return _cell("swarm", name, rate, seed, *changes)


LOW, HIGH = integer(1.0, 1.5, 1.0), integer(2.0, 2.4, 0.9)
HIGHER = integer(2.5, 2.9, 0.9)

CELLS: list[Cell] = [
    ddp("ddp-muon-5e-3", 0.005, 0),
    ddp("ddp-muon-1e-2", 0.01, 0),
    swarm("fp32-h10", 0.005, 0, FP32),
    swarm("fp32-h10", 0.005, 1, FP32),
    swarm("int-2.0-h10", 0.005, 0, HIGH),
    swarm("int-2.5-h10", 0.005, 0, HIGHER),
    swarm("int-1.0-h10", 0.005, 0, LOW),
    ddp("ddp-muon-5e-3", 0.005, 1),
    swarm("fp32-h10-kept", 0.005, 0, FP32, KEPT),
    swarm("int-1.0-h10-kept", 0.005, 0, LOW, KEPT),
    swarm("int-1.0-h10", 0.005, 1, LOW),
    ddp("ddp-adamw-5e-3", 0.005, 0, ADAMW),
    swarm("int-2.0-h10-kept", 0.005, 0, HIGH, KEPT),
    swarm("sparse-adamw-h10", 0.005, 0, ADAMW, KEPT, sparse(64, 0.95)),
    swarm("int-2.0-h10", 0.005, 1, HIGH),
]

# 300 steps each, to choose settings; told apart from the others by their name.
SHORT: dict[str, Any] = {
    "rounds.count": 30,
    "inner.warmup": 40,
    "rounds.evaluate_tokens": 147456,
}
CELLS += [
    Cell("short-ddp-muon-2.5e-3", "ddp", SHORT | {"inner.learning_rate": 0.0025}),
    Cell("short-ddp-muon-5e-3", "ddp", SHORT | {"inner.learning_rate": 0.005}),
    Cell("short-ddp-muon-1e-2", "ddp", SHORT | {"inner.learning_rate": 0.01}),
    Cell("short-fp32-5e-3", "swarm", SHORT | FP32 | {"inner.learning_rate": 0.005}),
    Cell("short-fp32-kept-5e-3", "swarm", SHORT | FP32 | KEPT | {"inner.learning_rate": 0.005}),
    Cell("short-int-2.0-kept-5e-3", "swarm", SHORT | HIGH | KEPT | {"inner.learning_rate": 0.005}),
]
