"""Where a replica goes: how many machines it takes, what each holds and what passes between them.

A *unit* is one machine, or machines of one site working as one over the local network. A replica is
a pipeline of `stages` units joined by the internet; where even one layer is too large for a unit,
each layer is spread over `spread` units and every token crosses the internet inside every layer.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from duckweed.plan.errors import PlanError
from duckweed.plan.inputs import table
from duckweed.plan.inputs.crowd import Group
from duckweed.plan.inputs.models import Model

ACTIVATION = 34
"""Bytes per token and unit of width that one layer needs while it is computed, attention matrix not
stored (Korthikanti et al. 2022, arXiv 2205.05198, eq. 1 without its last term)."""
BOUNDARY = 2
"""Bytes per token and unit of width kept for each layer when the rest is computed again."""
LOGIT_TOKENS = 1024
"""Tokens whose output scores are held at once (4 bytes each), a chunked loss."""
OUTER = 8
"""Bytes a parameter that exchange needs: the common weights and the residual, both fp32."""
DISPATCH = 6
"""Bytes per width and chosen expert that a token moves through one expert layer, forward and back:
fp8 out, bf16 in, twice (DeepSeek-V3 report, arXiv 2412.19437, section 3.2)."""
PCIE, HOST_BANDWIDTH = 20e9, 50e9
"""byte/s between device and main memory, and of main memory (inferred, PCIe 4 x16 and DDR5)."""


@dataclass(frozen=True)
class States:
    """Bytes a parameter: resident (weights, gradients) and states of the optimizer, which may move
    to main memory."""

    resident: float
    states: float
    source: str = ""


def states(precision: str, optimizer: str) -> States:
    for row in table.rows("states"):
        if (row["precision"], row["optimizer"]) == (precision, optimizer):
            return States(float(row["resident"]), float(row["states"]), row["source"])
    known = sorted({f"{row['precision']}+{row['optimizer']}" for row in table.rows("states")})
    raise PlanError(f"No memory table for {precision} with {optimizer}. Known: {', '.join(known)}.")


@dataclass(frozen=True)
class Layout:
    """One way to cut a replica. unit: machines of a site that act as one; squeeze: compression of
    what passes between stages; offload: optimizer states in main memory."""

    unit: int = 1
    stages: int = 1
    spread: int = 1
    squeeze: float = 1.0
    offload: bool = False

    @property
    def strategy(self) -> str:
        if self.spread > 1:
            return "layers over the internet"
        if self.stages > 1:
            return "pipeline of sites" if self.unit > 1 else "pipeline over the internet"
        return "replica per site" if self.unit > 1 else "replica per machine"

    @property
    def machines(self) -> int:
        return self.unit * self.stages * self.spread


@dataclass(frozen=True)
class Placement:
    """A layout on one kind of machine, with micro-batches of one sequence.

    shard: parameters in a unit; device, host: bytes used in a machine; imbalance: work of the
    fullest stage over the mean; wan, lan: bits a sequence moves through one unit's link and one
    machine's local link; depth: steps a sequence passes through one after another; hops: delays of
    the internet on that way; offload: seconds per step to update states in main memory.
    """

    layout: Layout
    shard: float
    device: float
    host: float
    imbalance: float
    wan: float
    lan: float
    depth: int
    hops: int
    offload: float


SPREADS = (*range(2, 17), 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of units over which one layer is spread."""


@cache
def geometric(limit: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to and with the limit."""
    steps = {1, limit}
    for power in range(1, 17):
        steps |= {2**power, 3 * 2 ** (power - 1)}
    return tuple(sorted(step for step in steps if 1 <= step <= limit))


def layouts(
    model: Model, group: Group, squeezes: Iterable[float] = (1.0, 4.0, 100.0)
) -> list[Layout]:
    """All ways to cut a replica of the model over machines like these, fitting or not."""
    depth = len(model.shape.layers)
    found = []
    for unit in geometric(group.site):
        for offload in (False, True):
            found.append(Layout(unit, offload=offload))
            for squeeze in squeezes:
                found += [Layout(unit, s, 1, squeeze, offload) for s in geometric(depth) if s > 1]
            found += [Layout(unit, depth, q, 1.0, offload) for q in SPREADS]
    return found


def exchanged(model: Model, parts: int) -> float:
    """Bits one token moves out of one of `parts` holders of a layer, forward and back.

    Experts: a token visits `chosen` experts, of which (1 - 1/parts) are elsewhere; a holder that has
    several of them gets one copy. Dense layers: four ring all-reduces (Shoeybi et al. 2019, arXiv
    1909.08053), for the same tokens in every holder.
    """
    shape = model.shape
    if parts <= 1:
        return 0.0
    if shape.expert_layers:
        visited = parts * (1 - (1 - 1 / parts) ** shape.chosen) * (1 - 1 / parts)
        return visited * shape.hidden * DISPATCH * 8 / parts
    return 4 * 2 * (parts - 1) / parts * shape.hidden * 16


def place(
    model: Model, group: Group, layout: Layout, state: States, micro: int
) -> Placement | None:
    """The layout on machines of this group with `micro` sequences in a step; None: does not fit."""
    shape, context = model.shape, model.context
    depth = len(shape.layers)
    unit, stages, spread = layout.unit, layout.stages, layout.spread
    per_stage = math.ceil(depth / stages)
    tables = shape.embedding + shape.head
    largest = min(float(shape.total), shape.widest * per_stage + tables / 2 + shape.final)
    shard = (shape.total if stages == 1 else largest) / spread
    work = context * shape.hidden * (ACTIVATION + DISPATCH * shape.chosen)
    fixed = (work + 4 * min(context, LOGIT_TOKENS) * shape.vocab) / spread
    flying = 1 if stages == 1 else min(micro, 2 * stages)
    kept = context * BOUNDARY * shape.hidden * per_stage * flying / (unit * spread)
    each = shard / unit
    device = each * (state.resident + (0 if layout.offload else state.states)) + fixed
    host = each * (state.states if layout.offload else 0.0)
    room, spare = group.usable - device, group.spare - host
    if room < 0 or spare < 0:
        return None
    for need in (each * OUTER, kept):  # main memory first: it is idle otherwise
        if need <= spare:
            spare, host = spare - need, host + need
        elif need <= room:
            room, device = room - need, device + need
        else:
            return None
    passing = context * shape.hidden * BOUNDARY * 8 * 2
    wan = passing / layout.squeeze / spread if stages > 1 or spread > 1 else 0.0
    hops = 2 * stages if stages > 1 else 0
    if spread > 1:
        wan += context * exchanged(model, spread) * per_stage
        hops += (4 if shape.expert_layers else 8) * depth
    inner, lan = 1, 0.0
    if unit > 1:
        whole = shape.widest / spread * state.resident <= group.usable and per_stage >= unit
        inner = unit if whole else 1
        lan = passing if whole else context * exchanged(model, unit) * per_stage / spread
    offload = each * (4 / PCIE + 2 * state.states / HOST_BANDWIDTH) if layout.offload else 0.0
    return Placement(
        layout,
        shard,
        device,
        host,
        per_stage * stages / depth,
        wan,
        lan,
        stages * inner,
        hops,
        offload,
    )
