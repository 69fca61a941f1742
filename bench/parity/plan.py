"""Which cells are trained, most important first."""

from typing import Any

import msgspec

from bench.parity.cells import FP32, Cell, integer, sparse, steps

H15: dict[str, Any] = {"inner.steps": 15}  # half as many tokens at 200 rounds
EIGHT: dict[str, Any] = {"rounds.peers": 8, "model.sequence": 64}  # the same tokens a step in all
H20: dict[str, Any] = {"inner.steps": 20, "rounds.count": 300}  # the tokens of 200 rounds of 30
FRESH: dict[str, Any] = {"inner.state": "fresh"}
ADAMW: dict[str, Any] = {"inner.optimizer": "adamw"}
H10: dict[str, Any] = {"inner.steps": 10, "rounds.count": 300}  # the tokens of 200 rounds of 15
H5: dict[str, Any] = {"inner.steps": 5, "rounds.count": 600}
SEVEN: dict[str, Any] = {"inner.steps": 7, "rounds.count": 214}  # twice the bytes of SHORT
PLAIN: dict[str, Any] = {"outer.learning_rate": 1.0, "outer.momentum": 0.0}
# The same step as "none", and the last merged step is kept for the guide.
NESTEROV_PLAIN: dict[str, Any] = PLAIN | {"outer.optimizer": "nesterov"}
BATCH: dict[str, Any] = {"inner.batch": 4}  # 512 tokens a step and peer
BETA2: dict[str, Any] = {"inner.betas": [0.9, 0.99]}
SHORT: dict[str, Any] = {"inner.steps": 15, "rounds.count": 100}  # to choose rates by


def _cell(kind: str, name: str, rate: float, seed: int, *changes: dict[str, Any]) -> Cell:
    merged: dict[str, Any] = {"inner.learning_rate": rate, "seed": seed}
    for change in changes:
        merged |= change
    return Cell(f"{name}-s{seed}", kind, merged)


def guide(share: float) -> dict[str, Any]:
    """Muon's momenta begin a round turned towards the last merged step."""
    return {"inner.guide": share}


def ddp(name: str, rate: float, seed: int, *changes: dict[str, Any]) -> Cell:
    return _cell("ddp", name, rate, seed, *changes)


def swarm(name: str, rate: float, seed: int, *changes: dict[str, Any]) -> Cell:
    return _cell("swarm", name, rate, seed, *changes)


def own(cell: Cell) -> Cell:
    """The same with scales that follow what a round made alone."""
    return msgspec.structs.replace(cell, own_scale=True)


CELLS: list[Cell] = [
    swarm("fp32-h30", 0.004, 0, FP32),
    swarm("int-1.0-h30", 0.004, 0, integer(1.0, 1.5, 1.0)),
    ddp("ddp-muon-4e-3", 0.004, 0, H15),
    ddp("ddp-muon-8e-3", 0.008, 0, H15),
    swarm("fp32-h15", 0.004, 0, H15, FP32),
    own(swarm("int-own-5.0-h15", 0.004, 0, H15, integer(5.0, 5.0, 1.0))),
    swarm("int-2.0-h15", 0.004, 0, H15, integer(2.0, 2.4, 0.9)),
    ddp("ddp-muon-4e-3", 0.004, 1, H15),
    swarm("fp32-h15", 0.004, 1, H15, FP32),
    own(swarm("int-own-5.0-h15", 0.004, 1, H15, integer(5.0, 5.0, 1.0))),
    swarm("fp32-h30", 0.004, 1, FP32),
    swarm("int-1.0-h30", 0.004, 1, integer(1.0, 1.5, 1.0)),
    swarm("int-1.05-h30", 0.004, 0, integer(1.05, 1.5, 1.0)),
    swarm("int-1.05-h30", 0.004, 1, integer(1.05, 1.5, 1.0)),
    swarm("int-0.6-h30", 0.004, 0, integer(0.6, 1.2, 1.0)),
    swarm("int-0.6-h30", 0.004, 1, integer(0.6, 1.2, 1.0)),
    ddp("ddp-muon-4e-3-h30", 0.004, 0),
    ddp("ddp-muon-4e-3-h30", 0.004, 1),
    ddp("ddp-muon-1e-3", 0.001, 0, H15),
    ddp("ddp-muon-1.4e-3", 0.0014, 0, H15),
    ddp("ddp-muon-1.4e-3", 0.0014, 1, H15),
    swarm("fp32-h15-guide-0.2-beta2-0.99", 0.0028, 0, H15, FP32, PLAIN, BETA2, guide(0.2)),
    swarm("fp32-h15-guide-0.2-beta2-0.99", 0.0028, 1, H15, FP32, PLAIN, BETA2, guide(0.2)),
    swarm("int-1.0-h15-guide-0.2", 0.0028, 0, H15, integer(1.0, 1.5, 1.0), PLAIN, guide(0.2)),
    swarm("int-1.0-h15-guide-0.2", 0.0028, 1, H15, integer(1.0, 1.5, 1.0), PLAIN, guide(0.2)),
    swarm("fp32-h30-guide-0.2", 0.0028, 0, FP32, PLAIN, guide(0.2)),
    swarm("int-1.0-h30-guide-0.2", 0.0028, 0, integer(1.0, 1.5, 1.0), PLAIN, guide(0.2)),
    swarm("int-1.0-h30-guide-0.2", 0.0028, 1, integer(1.0, 1.5, 1.0), PLAIN, guide(0.2)),
    swarm(
        "int-1.0-h15-guide-0.2-eight",
        0.0028,
        0,
        H15,
        integer(1.0, 1.5, 1.0),
        PLAIN,
        EIGHT,
        guide(0.2),
    ),
    ddp("ddp-muon-2e-3-guide-0.2-beta2-0.99", 0.002, 0, H15, BETA2, guide(0.2)),
    ddp("ddp-muon-2e-3-guide-0.2-beta2-0.99", 0.002, 1, H15, BETA2, guide(0.2)),
    ddp("ddp-muon-1.4e-3-guide-0.2-beta2-0.99", 0.0014, 0, H15, BETA2, guide(0.2)),
    ddp("ddp-muon-1.4e-3-guide-0.2-beta2-0.99", 0.0014, 1, H15, BETA2, guide(0.2)),
    ddp("ddp-muon-2.8e-3-guide-0.2-beta2-0.99", 0.0028, 0, H15, BETA2, guide(0.2)),
    ddp("ddp-muon-1.4e-3-beta2-0.99", 0.0014, 0, H15, BETA2),
    ddp("ddp-muon-1.4e-3-beta2-0.99", 0.0014, 1, H15, BETA2),
    ddp("ddp-muon-1.4e-3-beta2-0.99", 0.0014, 2, H15, BETA2),
    ddp("ddp-muon-2e-3-beta2-0.99", 0.002, 0, H15, BETA2),
    ddp("ddp-muon-2e-3-beta2-0.99", 0.002, 1, H15, BETA2),
    ddp("ddp-muon-2e-3-beta2-0.99", 0.002, 2, H15, BETA2),
    ddp("ddp-muon-1.4e-3-eight", 0.0014, 0, H15, EIGHT),
    ddp("ddp-muon-1.4e-3-eight", 0.0014, 1, H15, EIGHT),
    ddp("ddp-muon-2e-3-eight", 0.002, 0, H15, EIGHT),
    ddp("ddp-muon-2e-3-eight-beta2-0.99", 0.002, 0, H15, EIGHT, BETA2),
    ddp("ddp-muon-1.4e-3-eight-beta2-0.99", 0.0014, 0, H15, EIGHT, BETA2),
    ddp("ddp-muon-2e-3", 0.002, 0, H15),
    ddp("ddp-muon-2e-3", 0.002, 1, H15),
    ddp("ddp-muon-2.8e-3", 0.0028, 0, H15),
    ddp("ddp-muon-2.8e-3", 0.0028, 1, H15),
    swarm("fp32-h15-2.8e-3", 0.0028, 0, H15, FP32),
    swarm("fp32-h15-2.8e-3", 0.0028, 1, H15, FP32),
    ddp("ddp-muon-2.8e-3-eight", 0.0028, 0, H15, EIGHT),
    ddp("ddp-muon-2.8e-3-h30", 0.0028, 0),
    swarm("fp32-h15-eight", 0.004, 0, H15, FP32, EIGHT),
    swarm("int-1.0-h15-eight", 0.004, 0, H15, integer(1.0, 1.5, 1.0), EIGHT),
    ddp("ddp-muon-4e-3-eight", 0.004, 0, H15, EIGHT),
    swarm("defaults-h20", 0.004, 0, H20, FRESH),
    swarm("defaults-guide-0.2-h20", 0.0028, 0, H20, PLAIN, guide(0.2)),
    swarm("defaults-guide-0.2-h20", 0.0028, 1, H20, PLAIN, guide(0.2)),
    swarm("defaults-guide-0.1-h20", 0.0028, 0, H20, PLAIN, guide(0.1)),
    swarm("defaults-guide-0.1-h20", 0.0028, 1, H20, PLAIN, guide(0.1)),
    swarm("fp32-h30-guide-0.1", 0.0028, 0, FP32, PLAIN, guide(0.1)),
    swarm("int-1.4-h30-guide-0.1", 0.0028, 0, integer(1.4, 1.8, 1.0), PLAIN, guide(0.1)),
    swarm("int-1.0-h30-guide-0.1", 0.0028, 0, integer(1.0, 1.5, 1.0), PLAIN, guide(0.1)),
    ddp("ddp-muon-2e-3-h30-guide-0.1", 0.002, 0, guide(0.1)),
    swarm("fp32-h30-guide-0.1", 0.0028, 1, FP32, PLAIN, guide(0.1)),
    swarm("int-1.4-h30-guide-0.1", 0.0028, 1, integer(1.4, 1.8, 1.0), PLAIN, guide(0.1)),
    swarm("int-1.0-h30-guide-0.1", 0.0028, 1, integer(1.0, 1.5, 1.0), PLAIN, guide(0.1)),
    swarm("fp32-h15-guide-0.1-eight", 0.0028, 0, H15, FP32, PLAIN, EIGHT, BETA2, guide(0.1)),
    ddp("ddp-muon-1.4e-3-guide-0.2-eight", 0.0014, 0, H15, EIGHT, guide(0.2)),
    swarm("fp32-h20-guide-0.1", 0.0028, 0, H20, FP32, PLAIN, guide(0.1)),
    swarm("sparse-64-h30-guide-0.1", 0.0028, 0, sparse(64, 0.95), NESTEROV_PLAIN, guide(0.1)),
    swarm(
        "int-0.7-levels-2-h30-guide-0.1", 0.0028, 0, integer(0.7, 1.2, 1.0, 2), PLAIN, guide(0.1)
    ),
    ddp("ddp-muon-2e-3-h30", 0.002, 0),
    swarm("fp32-h15-guide-0.1-beta2-0.99", 0.0028, 0, H15, FP32, PLAIN, BETA2, guide(0.1)),
    ddp("ddp-muon-1.4e-3-guide-0.1-beta2-0.99", 0.0014, 0, H15, BETA2, guide(0.1)),
    swarm(
        "int-1.0-h15-guide-0.1-eight",
        0.0028,
        0,
        H15,
        integer(1.0, 1.5, 1.0),
        PLAIN,
        EIGHT,
        guide(0.1),
    ),
    swarm("int-2.0-h30-guide-0.1", 0.0028, 0, integer(2.0, 2.4, 1.0), PLAIN, guide(0.1)),
    ddp("ddp-muon-1.4e-3-h30-guide-0.1", 0.0014, 0, guide(0.1)),
    swarm("sparse-adamw-h15", 0.004, 0, H15, ADAMW, sparse(64, 0.95)),
    ddp("ddp-adamw-4e-3", 0.004, 0, H15, ADAMW),
    swarm("short", 0.004, 0, SHORT, FP32),
    swarm("short-outer-momentum-0.8", 0.004, 0, SHORT, FP32, {"outer.momentum": 0.8}),
    swarm("short-rate-2.8e-3", 0.0028, 0, SHORT, FP32),
    swarm("short-outer-momentum-0.4", 0.004, 0, SHORT, FP32, {"outer.momentum": 0.4}),
    swarm("short-inner-momentum-0.98", 0.0028, 0, SHORT, FP32, {"inner.momentum": 0.98}),
    ddp("short-ddp-4e-3", 0.004, 0, SHORT),
    swarm("short-rate-2e-3", 0.002, 0, SHORT, FP32),
    ddp("short-ddp-2.8e-3", 0.0028, 0, SHORT),
    swarm("short-plain-1.5", 0.0028, 0, SHORT, FP32, PLAIN, {"outer.learning_rate": 1.5}),
    swarm("short-plain", 0.0028, 0, SHORT, FP32, PLAIN),
    swarm("short-outer-momentum-0.4-2.8e-3", 0.0028, 0, SHORT, FP32, {"outer.momentum": 0.4}),
    ddp("short-ddp-inner-momentum-0.98", 0.0028, 0, SHORT, {"inner.momentum": 0.98}),
    ddp("short-ddp-guide-0.2", 0.0028, 0, SHORT, guide(0.2)),
    ddp("short-ddp-guide-0.2-1.4e-3", 0.0014, 0, SHORT, guide(0.2)),
    ddp("short-ddp-2e-3", 0.002, 0, SHORT),
    swarm("short-guide-0.1", 0.0028, 0, SHORT, FP32, PLAIN, guide(0.1)),
    swarm("short-guide-0.2-2e-3", 0.002, 0, SHORT, FP32, PLAIN, guide(0.2)),
    swarm("short-guide-0.2", 0.0028, 0, SHORT, FP32, PLAIN, guide(0.2)),
    swarm("short-guide-0.3", 0.0028, 0, SHORT, FP32, PLAIN, guide(0.3)),
    swarm("short-guide-0.4", 0.0028, 0, SHORT, FP32, PLAIN, guide(0.4)),
    swarm("short-guide-0.5", 0.0028, 0, SHORT, FP32, PLAIN, guide(0.5)),
    swarm("short-guide-0.3-2e-3", 0.002, 0, SHORT, FP32, PLAIN, guide(0.3)),
    swarm("short-guide-0.3-4e-3", 0.004, 0, SHORT, FP32, PLAIN, guide(0.3)),
    swarm("short-guide-0.3-nesterov", 0.0028, 0, SHORT, FP32, guide(0.3)),
    swarm("short-int-1.0-guide-0.3", 0.0028, 0, SHORT, integer(1.0, 1.5, 1.0), PLAIN, guide(0.3)),
    swarm("short-int-1.0-guide-0.2", 0.0028, 0, SHORT, integer(1.0, 1.5, 1.0), PLAIN, guide(0.2)),
    swarm("short-beta2-0.99", 0.0028, 0, SHORT, FP32, BETA2),
    ddp("short-ddp-beta2-0.99", 0.0028, 0, SHORT, BETA2),
    swarm("short-int-1.0", 0.0028, 0, SHORT, integer(1.0, 1.5, 1.0)),
    swarm("short-int-1.0-h7", 0.0028, 0, SEVEN, integer(1.0, 1.5, 1.0)),
    swarm("short-batch-4", 0.004, 0, SHORT, FP32, BATCH),
    ddp("short-ddp-batch-4", 0.004, 0, SHORT, BATCH),
    swarm("fp32-h15-eight", 0.004, 1, H15, FP32, EIGHT),
    ddp("ddp-muon-4e-3-eight", 0.004, 1, H15, EIGHT),
    ddp("ddp-muon-2e-3-h30", 0.002, 1),
    ddp("ddp-muon-2e-3-h30-guide-0.1", 0.002, 1, guide(0.1)),
    # Two levels, and shorter rounds with weaker guides, over the tokens of 300 rounds of 20.
    *(
        swarm(name, 0.0028, seed, length, wire, PLAIN, guide(share))
        for seed in (0, 1)
        for name, length, wire, share in (
            ("levels-2-h10-guide-0.05", steps(10, 6000), integer(1.6, 2.1, 1.0, 2), 0.05),
            ("levels-2-h14-guide-0.06", steps(14, 6000), integer(1.45, 1.95, 1.0, 2), 0.06),
            ("levels-2-h20-guide-0.1", H20, integer(1.1, 1.7, 1.0, 2), 0.1),
            ("levels-2-h5-guide-0.02", steps(5, 6000), integer(1.1, 1.7, 1.0, 2), 0.02),
            ("levels-2-h3-guide-0.01", steps(3, 6000), integer(1.6, 2.1, 1.0, 2), 0.01),
            ("levels-2-h10-guide-0.03", steps(10, 6000), integer(1.1, 1.7, 1.0, 2), 0.03),
        )
    ),
]
