"""The cells, in the order in which they are trained: the most important table first."""

from bench.paths.swarm import Cell

CELLS: dict[str, Cell] = {}
TUNED = {"dense": 0.02, "none": 0.01, "trunk": 0.02}
"""The best rate of each form by the cells "rate-*"."""
RATES = (0.01, 0.02, 0.04)
SHORT = 8  # rounds of a cell that is only for a rate


def form(name: str, kind: str, **more: object) -> None:
    CELLS[name] = Cell(kind, TUNED[kind], **more)  # type: ignore[arg-type]


for kind in TUNED:
    for rate in RATES:
        CELLS[f"rate-{kind}-{rate}"] = Cell(kind, rate, rounds=SHORT)
for seed in range(3):
    for kind in TUNED:
        form(f"{kind}-seed{seed}", kind, seed=seed, mix=seed == 0)
for kind in TUNED:
    form(f"python-{kind}", kind, corpus="python")
for paths in (4, 16, 2):
    for kind in ("none", "trunk"):
        form(f"{kind}-k{paths}", kind, paths=paths)
for start in (0.0, 0.3):
    form(f"none-start{start}", "none", start=start)
form("none-dropped", "none", moments="dropped")
form("none-factor0.6", "none", factor=0.6)
form("trunk-factor0.6", "trunk", factor=0.6)
form("dense-136k", "dense", shape="136k")
form("dense-259k", "dense", shape="259k")
for kind in ("none", "trunk", "dense"):
    form(f"{kind}-295k", kind, shape="295k", rounds=30)
