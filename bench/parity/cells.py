"""The cells: what is trained, in the order of importance. A cell is a name and changes to BASE."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from bench.parity.stacked import MEASURED, Run
from duckweed.round import founding
from duckweed.run.spec import RunSpec, override

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "parity"

NESTEROV: dict[str, Any] = {"outer.learning_rate": 0.7, "outer.momentum": 0.6}
BASE: dict[str, Any] = {
    "model.source": "config.json",
    "model.sequence": 128,
    "inner.batch": 1,
    "inner.steps": 30,
    "inner.learning_rate": 0.004,
    "inner.warmup": 100,
    "inner.clip": 1.0,
    "inner.state": "kept",
    "inner.guide": 0.0,
    **NESTEROV,
    "rounds.count": 200,
    "rounds.peers": 4,
    "rounds.evaluate_tokens": 98304,
}
FP32 = {"wire": {"kind": "dense", "dtype": "fp32", "feedback": 0.0}}


def integer(threshold: float, value: float, feedback: float, levels: int = 1) -> dict[str, Any]:
    """The integer wire."""
    return {
        "wire": {
            "kind": "integer", "threshold": threshold, "value": value,
            "feedback": feedback, "levels": levels,
        }
    }  # fmt: skip


def sparse(keep: int, feedback: float) -> dict[str, Any]:
    """The published SparseLoCo setting: contributors' mean, no outer momentum."""
    return {
        "wire": {"kind": "sparse", "chunk": 4096, "keep": keep, "feedback": feedback},
        "merge.rule": "contributors",
        "outer.optimizer": "none",
    }


def steps(count: int, total: int = 2000) -> dict[str, Any]:
    """H inner steps a round, as many rounds as the total of steps needs."""
    return {"inner.steps": count, "rounds.count": total // count}


class Cell(msgspec.Struct):
    """kind: "ddp" or "swarm". own_scale: see stacked.Run."""

    name: str
    kind: str
    changes: dict[str, Any]
    own_scale: bool = False

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def spec(self) -> RunSpec:
        return override(RunSpec(), BASE | self.changes)


def run(cell: Cell, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Train a cell and write its record."""
    torch.set_num_threads(1)
    spec = cell.spec()
    ground = founding.prepare(spec, HERE, lambda text: None)
    record = Run(spec, ground, cell.kind == "ddp", cell.own_scale).run(
        lambda text: tell(f"{cell.name}: {text}")
    )
    record = {
        "cell": cell.name,
        "kind": cell.kind,
        "peers": spec.rounds.peers,
        "seed": spec.seed,
        "changes": cell.changes,
        "own_scale": cell.own_scale,
        "base": BASE,
        "blobs_measured_every": MEASURED,
        "finished": time.strftime("%Y-%m-%d %H:%M"),
        **record,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    part = cell.path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(cell.path)
    tell(f"{cell.name}: {record['bits_per_byte']:.4f} bits per byte, {record['seconds']:.0f} s")
    return record
