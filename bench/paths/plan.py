"""The cells, in the order in which they are trained: the most important table first."""

from typing import Any

from bench.paths.swarm import Cell

CELLS: dict[str, Cell] = {}
TUNED = {"dense": 0.02, "none": 0.01, "trunk": 0.02}
"""The best rate of each form by the cells "rate-*"."""
RATES = (0.01, 0.02, 0.04)
SHORT = 8  # rounds of a cell that is only for a rate


HALF = 16  # rounds of the cells beside the main comparison: 10 tokens for each held parameter


def form(name: str, kind: str, **more: Any) -> None:
    CELLS[name] = Cell(kind, TUNED[kind], **more)


for kind in TUNED:
    for rate in RATES:
        CELLS[f"rate-{kind}-{rate}"] = Cell(kind, rate, rounds=SHORT)
for kind in TUNED:
    form(f"{kind}-seed0", kind, mix=True)
for kind in TUNED:
    form(f"python-{kind}", kind, corpus="python", rounds=HALF)
for kind in TUNED:
    form(f"half-{kind}", kind, rounds=HALF)
for paths in (4, 2, 16):
    form(f"half-none-k{paths}", "none", paths=paths, rounds=HALF)
CELLS["half-none-rate0.02"] = Cell("none", 0.02, rounds=HALF)
for seed in (1, 2):
    for kind in TUNED:
        form(f"{kind}-seed{seed}", kind, seed=seed)
CHANGES: dict[str, dict[str, Any]] = {
    "dropped": {"moments": "dropped"},
    "start0.0": {"start": 0.0},
    "start0.3": {"start": 0.3},
    "factor0.6": {"factor": 0.6},
}
for name, change in CHANGES.items():
    form(f"half-none-{name}", "none", rounds=HALF, **change)
form("half-trunk-factor0.6", "trunk", rounds=HALF, factor=0.6)
form("half-dense-136k", "dense", shape="136k", rounds=HALF)
for paths in (16, 4, 2):
    form(f"half-trunk-k{paths}", "trunk", paths=paths, rounds=HALF)
form("half-dense-259k", "dense", shape="259k", rounds=HALF)
for kind in ("none", "trunk", "dense"):
    form(f"{kind}-295k", kind, shape="295k", rounds=30)
