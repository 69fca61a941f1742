"""The cells, in the order in which they are trained: the most important table first.

Names that begin with a size ("0.3M-none-k8-seed0") are trained only where they are asked for. What has no rate takes the
best of the cells that try rates of its kind and size: they must be trained first.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.paths import shapes
from bench.paths.corpus import LENGTH
from bench.paths.swarm import Cell

CELLS: dict[str, Cell] = {}
TUNED_BY: dict[str, str] = {}
"""Cells without a rate -> how the names of those begin that find it."""
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

# Forbidden to a crowd: the whole size in one model, and in a mixture of experts, both with data parallelism (one peer that
# takes the windows of all). "ddp" is the control: a path's size, trained like that.
RATES_ABOVE = (0.005, 0.01, 0.02)
KINDS = ("dense", "none", "trunk", "ddp", "whole", "top1", "top2")
BY_PATHS = ("none", "trunk", "whole", "top1", "top2")  # kinds that depend on the number of paths
FORBIDDEN = ("ddp", "whole", "top1", "top2")
SIZES = {"66k": ("66k", 2, 33), "0.3M": ("295k", 4, 73), "1M": ("1M", 8, 125)}
"""Shape of a path, windows of a peer's step, rounds: 20 tokens for each value that a peer holds."""


def kind_of(kind: str, size: str, paths: int = 8, rounds: int = 0, **more: Any) -> Cell:
    """A cell of that kind, which has no rate yet. rounds: 0 for all of the size."""
    shape, batch, whole = SIZES[size]
    if kind == "whole":
        shape = f"{shape} x {paths}"
    cell = Cell(kind, 0.0, rounds or whole, paths, shape=shape, batch=batch, **more)
    if kind in FORBIDDEN:
        cell = replace(cell, peers=1, batch=batch * cell.peers)
    return replace(cell, form="dense") if kind in ("ddp", "whole") else cell


def tuned(name: str, tried: str, cell: Cell) -> None:
    CELLS[name], TUNED_BY[name] = cell, tried


for kind in FORBIDDEN:
    for rate in RATES_ABOVE:
        CELLS[f"rate-{kind}-{rate}"] = replace(kind_of(kind, "66k", rounds=SHORT), rate=rate)
for kind in FORBIDDEN:
    tuned(f"{kind}-seed0", f"rate-{kind}-", kind_of(kind, "66k"))
for kind in FORBIDDEN:
    tuned(f"half-{kind}", f"rate-{kind}-", kind_of(kind, "66k", rounds=HALF))
for kind in FORBIDDEN:
    tuned(f"python-{kind}", f"rate-{kind}-", kind_of(kind, "66k", rounds=HALF, corpus="python"))
for seed in (1, 2):
    for kind in FORBIDDEN:
        tuned(f"{kind}-seed{seed}", f"rate-{kind}-", kind_of(kind, "66k", seed=seed))
for paths in (4, 2, 16):
    for kind in ("whole", "top1"):
        tuned(f"half-{kind}-k{paths}", f"rate-{kind}-", kind_of(kind, "66k", paths, rounds=HALF))
FIRST = list(CELLS)
"""The cells that are trained where none is asked for."""

LARGER = ("0.3M", "1M")


def paths_of(kind: str) -> tuple[int, ...]:
    """The numbers of paths that a kind is trained with at the larger sizes."""
    return (8, 4, 2, 16) if kind in BY_PATHS else (8,)


def name_of(kind: str, paths: int) -> str:
    return f"{kind}-k{paths}" if kind in BY_PATHS else kind


for size in LARGER:
    for kind in KINDS:
        quarter, tried = SIZES[size][2] // 4, f"{size}-rate-{kind}-"
        for rate in RATES_ABOVE:
            CELLS[f"{tried}{rate}"] = replace(kind_of(kind, size, rounds=quarter), rate=rate)
    for kind in KINDS:
        tried = f"{size}-rate-{kind}-"
        for paths in paths_of(kind):
            own = name_of(kind, paths)
            for seed in (0, 1, 2):
                tuned(f"{size}-{own}-seed{seed}", tried, kind_of(kind, size, paths, seed=seed))
            tuned(f"{size}-python-{own}", tried, kind_of(kind, size, paths, corpus="python"))
    for kind in TUNED:  # as weak as rounds of ten steps want it (docs/parity.md)
        own, tried = name_of(kind, 8), f"{size}-rate-{kind}-"
        tuned(f"{size}-{own}-guide-0.04", tried, kind_of(kind, size, guide=0.04))
        for seed in (1, 2):
            again = kind_of(kind, size, guide=0.04, seed=seed)
            tuned(f"{size}-{own}-guide-0.04-seed{seed}", tried, again)


def resolved(name: str, found: Mapping[str, Mapping[str, Any]]) -> Cell:
    """A cell with its rate, from the records of those that try rates. Raises LookupError where these are not trained."""
    cell, tried = CELLS[name], TUNED_BY.get(name, "")
    if not tried:
        return cell
    names = [one for one in CELLS if one.startswith(tried)]
    if missing := [one for one in names if one not in found]:
        raise LookupError(
            f"{name}: its learning rate is not known yet. First: "
            f"python -m bench.paths run {' '.join(missing)}"
        )
    best = min(names, key=lambda one: found[one]["bits_per_byte"])
    if best in (names[0], names[-1]):
        print(
            f"{name}: its rate, {CELLS[best].rate}, is the first or the last of those that were tried"
        )
    return replace(cell, rate=CELLS[best].rate)


def estimate(cell: Cell) -> float:
    """Seconds of processor time, roughly: on one thread of the machine of docs/paths-measured.md."""
    width, layers, _, inner = shapes.dimensions(cell.shape)
    active = shapes.values(width, layers, inner)
    if cell.form in ("top1", "top2"):
        shared = shapes.values(width, layers, 0)
        active = shared + int(cell.form[-1]) * (cell.paths * active - shared) // cell.paths
    kind = "mixture" if cell.form in ("top1", "top2") else "stacked" if cell.peers > 1 else "one"
    tokens = cell.rounds * cell.peers * cell.steps * cell.batch * LENGTH
    return tokens * (SECONDS_OF_A_LAYER * layers + SECONDS_OF_A_VALUE[kind] * active)


SECONDS_OF_A_LAYER = 7e-6
SECONDS_OF_A_VALUE = {"stacked": 0.28e-9, "one": 0.17e-9, "mixture": 0.24e-9}
"""Of one token: by the records of 66 and 136 thousand values, and by single steps at 0.3 million a path. At 1 million
steps took 0.6 (stacked) to 0.8 (one) of what is said here."""
