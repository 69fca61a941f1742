"""All configurations at once: layout x wire x steps per round x overlap x batch x number of replicas.

Everything is an array over seven axes (SAMPLE, LAYOUT, WIRE, STEPS, LATE, MICRO, CAP); a quantity
has length one along the axes it does not depend on, so most of the work is done on small arrays
and only the last few operations touch every configuration.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from duckweed.plan import exchange, penalty
from duckweed.plan.errors import PlanError
from duckweed.plan.exchange import Wire
from duckweed.plan.inputs import assumptions
from duckweed.plan.inputs.assumptions import Values
from duckweed.plan.inputs.crowd import Crowd, Group
from duckweed.plan.inputs.models import Model
from duckweed.plan.place import Layout, Placement, layouts, place, states

Array = NDArray[np.float64]
SAMPLE, LAYOUT, WIRE, STEPS, LATE, MICRO, CAP = range(7)
AXES = 7
DAY = 86400.0
MESSAGES = 8
"""Delays of one way in an exchange, four questions and their answers: the contribution, what came of the round, the
update, and what to do next. Measured in virtual time: `python -m bench.outlook.plan delays`."""
BYTES_TO_JOIN = 2.0
"""bytes a parameter: a newcomer fetches the bf16 weights of its shard and begins with fresh optimizer
state."""


@dataclass(frozen=True)
class Target:
    """What is wanted. tokens: to train on, at the quality of training in one place."""

    model: Model
    tokens: float
    precision: str = "bf16"
    optimizer: str = "adamw"
    deadline: float | None = None


@dataclass(frozen=True)
class Space:
    """What may be chosen. paths: pairs of wire and way of merging; steps: inner steps per round;
    late: exchange during the next round; micro: sequences per replica and step; caps: replicas used."""

    layouts: tuple[Layout, ...]
    paths: tuple[tuple[Wire, str], ...]
    steps: tuple[int, ...] = (1, 5, 15, 30, 100, 300, 500)
    late: tuple[bool, ...] = (False, True)
    micro: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    caps: tuple[float, ...] = (np.inf,)

    @property
    def size(self) -> int:
        lengths = (self.layouts, self.paths, self.steps, self.late, self.micro, self.caps)
        return int(np.prod([len(axis) for axis in lengths]))


def along(values: Sequence[float] | float | Array, axis: int) -> Array:
    """A vector as an array that varies along one axis."""
    shape = [1] * AXES
    shape[axis] = -1
    return np.asarray(values, dtype=float).reshape(shape)


@dataclass
class Pool:
    """One group and where the layouts put a replica on it; None where it does not fit."""

    group: Group
    placements: list[list[Placement | None]]
    terms: dict[str, Array] = field(default_factory=dict)

    def grid(self, name: str, default: float = 1.0) -> Array:
        """A field of the placements over LAYOUT and MICRO."""
        rows = [
            [default if p is None else getattr(p, name) for p in row] for row in self.placements
        ]
        return np.asarray(rows, dtype=float).reshape(1, len(rows), 1, 1, 1, -1, 1)


def default_space(target: Target, crowd: Crowd, chosen: Sequence[Wire] | None = None) -> Space:
    """Every layout that fits somewhere, with every wire, in steps of at most a factor of four."""
    state = states(target.precision, target.optimizer)
    kept: dict[Layout, None] = {}
    for group in crowd.groups:
        alone: set[tuple[int, int, int, float]] = set()
        for layout in layouts(target.model, group):
            key = (layout.unit, layout.stages, layout.spread, layout.squeeze)
            if layout.offload and key in alone:
                continue
            if (
                layout.machines > group.count
                or place(target.model, group, layout, state, 1) is None
            ):
                continue
            alone.add(key)
            kept[layout] = None
    wires = exchange.wires() if chosen is None else list(chosen)
    most = max((group.count for group in crowd.groups), default=1)
    caps = [2.0**k for k in range(1, 15) if 2**k < most]
    caps = [1.0, *caps, np.inf]
    return Space(tuple(kept), tuple(exchange.paths(wires)), caps=tuple(caps))


def pools_of(target: Target, crowd: Crowd, space: Space) -> list[Pool]:
    state = states(target.precision, target.optimizer)
    made = []
    for group in crowd.groups:
        rows = [
            [
                place(target.model, group, layout, state, micro)
                if layout.unit <= group.site and layout.machines <= group.count
                else None
                for micro in space.micro
            ]
            for layout in space.layouts
        ]
        made.append(Pool(group, rows))
    return sorted(made, key=lambda pool: -pool.group.rate(target.precision))


def over_samples(values: Values) -> dict[str, Array]:
    return {
        name: along(np.atleast_1d(np.asarray(value, dtype=float)), SAMPLE)
        for name, value in values.items()
    }


def step_terms(pool: Pool, target: Target, space: Space, a: dict[str, Array]) -> None:
    """Time of one inner step of a replica on this pool, and how many replicas there are."""
    group, model, t = pool.group, target.model, pool.terms
    unit = along([layout.unit for layout in space.layouts], LAYOUT)
    stages = along([layout.stages for layout in space.layouts], LAYOUT)
    spread = along([layout.spread for layout in space.layouts], LAYOUT)
    fits = np.asarray([[p is not None for p in row] for row in pool.placements], dtype=bool)
    t["fits"] = fits.reshape(1, len(space.layouts), 1, 1, 1, -1, 1)
    t["machines"] = unit * stages * spread
    t["online"] = np.minimum(1.0, group.online * a["online_factor"])
    t["present"] = np.maximum(1.0, np.floor(group.count * t["online"]))
    t["replicas"] = np.where(t["fits"], np.floor(t["present"] / t["machines"]), 0.0)
    t["speed"] = group.rate(target.precision) * a["mfu_" + kind(group)]
    t["honest"] = along(1 - group.waste, SAMPLE)
    shared = unit / group.site
    t["up"] = group.up * a["link_share"] * shared
    t["down"] = group.down * a["link_share"] * shared
    t["delay"] = group.latency * a["latency_factor"]
    sequence = model.flop_per_token * model.context
    t["compute"] = sequence * pool.grid("imbalance") / (stages * spread * unit * t["speed"])
    t["wan"] = pool.grid("wan", 0.0) * a["traffic_factor"] / np.minimum(t["up"], t["down"])
    t["lan"] = pool.grid("lan", 0.0) / (group.lan * a["link_share"])
    micro = along(space.micro, MICRO)
    slowest = np.maximum(np.maximum(t["compute"], t["wan"]), t["lan"])
    fill = (pool.grid("depth") - 1) * (t["compute"] + t["wan"] + t["lan"])
    t["fill"] = fill + pool.grid("hops", 0.0) * t["delay"]
    t["step"] = micro * slowest + t["fill"] + pool.grid("offload", 0.0)
    squeezed = along([layout.stages * layout.spread for layout in space.layouts], LAYOUT) > 1
    t["balance"] = np.where(squeezed, a["balance"], 1.0)
    t["tokens_per_second"] = micro * model.context / t["step"] * t["balance"]


def kind(group: Group) -> str:
    return {"data-centre": "datacentre", "workstation": "consumer"}.get(
        group.device.kind, group.device.kind
    )


def exchange_terms(pool: Pool, space: Space, count: Array, hub: float, a: dict[str, Array]) -> None:
    """Seconds of one exchange on this pool's links and through the hub, if it goes through one; a
    lone replica has nobody to wait for."""
    t = pool.terms
    ups, downs = [], []
    for wire, path in space.paths:
        up, down = exchange.volumes(wire, path, count)
        ups.append(up)
        downs.append(down)
    shard = pool.grid("shard")
    up_bits = np.concatenate(np.broadcast_arrays(*ups), axis=WIRE) * a["bits_factor"]
    down_bits = np.concatenate(np.broadcast_arrays(*downs), axis=WIRE) * a["bits_factor"]
    t["upload"] = shard * up_bits / t["up"]
    t["download"] = shard * down_bits / t["down"]
    slower = 1 + a["straggle"] * np.log2(np.maximum(count, 1.0))
    lonely = count <= 1
    t["code"] = shard * a["coding"] * 1e-9 / pool.group.cards
    stored = along([path == "store" for _, path in space.paths], WIRE)
    units = t["machines"] / along([layout.unit for layout in space.layouts], LAYOUT)
    t["hub"] = stored * count * units * shard * (up_bits + down_bits) / hub
    moving = (np.maximum(t["upload"] + t["download"], t["hub"]) + MESSAGES * t["delay"]) * slower
    t["exchange"] = np.where(lonely, 0.0, moving + t["code"])


def churn_terms(pool: Pool, space: Space, count: Array, window: Array, a: dict[str, Array]) -> None:
    """Share of time a replica's units are in step. A machine that leaves costs fetching the shard,
    noticing, and half a round; with two replicas the others carry the stage on, alone all wait."""
    t, group = pool.terms, pool.group
    unit = along([layout.unit for layout in space.layouts], LAYOUT)
    t["join"] = a["detect"] + pool.grid("shard") * BYTES_TO_JOIN * 8 / t["down"]
    t["stay"] = group.stay * a["stay_factor"] / unit
    lost = (t["join"] + window / 2) / t["stay"]
    alone = 1 / (1 + lost * t["machines"] / unit)
    together = np.maximum(1 - lost, alone)
    t["in_step"] = np.where(count > 1, together, alone)


@dataclass
class Evaluation:
    """Every configuration's terms. `seconds` has the full shape; `terms` are those of the whole
    crowd, each pool has its own."""

    target: Target
    crowd: Crowd
    space: Space
    pools: list[Pool]
    terms: dict[str, Array]
    inputs: dict[str, Array]

    @property
    def seconds(self) -> Array:
        return self.terms["seconds"]

    def best(self, mask: Array | None = None) -> tuple[int, ...] | None:
        """The index of the fastest configuration (of the first sample); None if none is possible."""
        seconds = self.seconds[0]
        if mask is not None:
            seconds = np.where(mask, seconds, np.inf)
        if not seconds.size:
            return None
        flat = int(np.argmin(seconds))
        index = np.unravel_index(flat, seconds.shape)
        return None if not np.isfinite(seconds[index]) else (0, *(int(i) for i in index))


def evaluate(
    target: Target, crowd: Crowd, space: Space, values: Values | None = None
) -> Evaluation:
    """Seconds to train to the target for every configuration and every sample of the inputs.

    seconds = tokens x penalties / sum over pools of (replicas x tokens/s x share of the round spent
    computing x share of time in step x share not wasted) x share not spent on checking. A pool whose exchange does not fit
    the round computes for the rest of it, and none does more than its `steps`; the round is that of
    the pool for which the sum is largest.
    """
    if target.tokens <= 0:
        raise PlanError(f"{target.tokens:g} tokens: there is nothing to train on.")
    a = over_samples(assumptions.medians() if values is None else values)
    pools = pools_of(target, crowd, space)
    whole: dict[str, Array] = {"tokens": along(target.tokens, SAMPLE)}
    empty = Evaluation(target, crowd, space, pools, whole, a)
    if not space.layouts:
        whole["seconds"] = np.full((1, 0, 1, 1, 1, 1, 1), np.inf)
        return empty
    left = along(space.caps, CAP)
    for pool in pools:
        step_terms(pool, target, space, a)
        pool.terms["used"] = np.minimum(pool.terms["replicas"], left)
        left = left - pool.terms["used"]
    count = np.asarray(sum(pool.terms["used"] for pool in pools))
    whole["count"] = count
    steps = along(space.steps, STEPS)
    for pool in pools:
        pool.terms["window"] = steps * pool.terms["step"]
        exchange_terms(pool, space, count, crowd.hub, a)
        churn_terms(pool, space, count, pool.terms["window"], a)
    penalties(target, space, whole, a)
    whole["rate"] = combined_rate(pools, space)
    whole["useful"] = np.where(count > 1, 1 - a["audit"], 1.0)
    with np.errstate(divide="ignore"):
        whole["seconds"] = whole["tokens"] * whole["penalty"] / (whole["rate"] * whole["useful"])
    return empty


def combined_rate(pools: list[Pool], space: Space) -> Array:
    """Tokens per second of all pools, for the best of the rounds that the pools propose."""
    late = along(np.asarray(space.late, dtype=float), LATE) > 0
    busy = []
    for pool in pools:
        t = pool.terms
        crossing = t["window"] * np.minimum(1.0, along(space.micro, MICRO) * t["wan"] / t["step"])
        t["overlapped"] = crossing + t["exchange"]
        t["round"] = np.where(
            late, np.maximum(t["window"], t["overlapped"]), t["window"] + t["exchange"]
        )
        busy.append(t["used"] * t["tokens_per_second"] * t["in_step"] * t["honest"])
    best: Array | None = None
    for leader in pools:
        length = leader.terms["round"]
        total: Array | float = 0.0
        for pool, speed in zip(pools, busy, strict=True):
            t = pool.terms
            fitting = np.where(
                late,
                length / np.maximum(t["overlapped"], length),
                1 - np.minimum(t["exchange"] / length, 1.0),
            )
            share = np.minimum(t["window"] / length, fitting)
            total = total + np.where(t["used"] > 0, speed, 0.0) * share
        total = np.where(leader.terms["used"] > 0, total, 0.0)
        best = total if best is None else np.maximum(best, total)
    assert best is not None
    return best


def penalties(target: Target, space: Space, whole: dict[str, Array], a: dict[str, Array]) -> None:
    """Factors on tokens for replicas, compression of contributions and activations, delay, batch."""
    shape, count = target.model.shape, whole["count"]
    together = count > 1
    steps, micro = along(space.steps, STEPS), along(space.micro, MICRO)
    gaps = along([wire.gap for wire, _ in space.paths], WIRE)
    late = along(np.asarray(space.late, dtype=float), LATE)
    flop = target.tokens * target.model.flop_per_token
    critical = max(penalty.critical_batch(flop), target.model.batch)
    squeezed = along([layout.squeeze for layout in space.layouts], LAYOUT)
    whole["replica_penalty"] = penalty.replicas(shape.active, count, steps, a["replica_factor"])
    whole["wire_penalty"] = np.where(together, penalty.tokens_for(gaps * a["wire_factor"]), 1.0)
    whole["delay_penalty"] = np.where(
        together & (late > 0), penalty.tokens_for(a["delay_gap"]), 1.0
    )
    whole["batch"] = count * micro * target.model.context
    whole["batch_penalty"] = penalty.batch(whole["batch"], critical)
    whole["squeeze_penalty"] = np.where(
        squeezed >= 100, a["subspace_tokens"], np.where(squeezed > 1, a["fourbit_tokens"], 1.0)
    )
    small = whole["replica_penalty"] * whole["batch_penalty"] * whole["squeeze_penalty"]
    whole["penalty"] = small * (whole["wire_penalty"] * whole["delay_penalty"])


def invitations(crowd: Crowd) -> list[Crowd]:
    """The crowds one could train with: all of the groups first, then without some. With more than
    four groups only the fastest ones together, and all but one."""
    groups = crowd.groups
    if len(groups) <= 4:
        picks = [
            set(p) for n in range(len(groups), 0, -1) for p in combinations(range(len(groups)), n)
        ]
    else:
        order = sorted(range(len(groups)), key=lambda i: -groups[i].rate("bf16"))
        picks = [set(range(len(groups))) - {i} for i in range(len(groups))]
        picks = [set(order), *picks, *(set(order[:n]) for n in range(1, len(order) - 1))]
    return [
        Crowd(tuple(g for i, g in enumerate(groups) if i in pick), crowd.notes, crowd.hub)
        for pick in picks
    ]


def search(
    target: Target,
    crowd: Crowd,
    values: Values | None = None,
    space: Callable[[Target, Crowd], Space] = default_space,
) -> Evaluation:
    """The best evaluation over the groups that could be invited, at the medians or the values given."""
    found = [
        evaluate(target, people, space(target, people), values) for people in invitations(crowd)
    ]
    return min(found, key=lambda ev: float(ev.seconds[0].min()) if ev.seconds.size else np.inf)


def only(space: Space, index: tuple[int, ...]) -> Space:
    """The space that holds a single configuration of another."""
    _, layout, wire, steps, late, micro, cap = index
    return replace(
        space,
        layouts=(space.layouts[layout],),
        paths=(space.paths[wire],),
        steps=(space.steps[steps],),
        late=(space.late[late],),
        micro=(space.micro[micro],),
        caps=(space.caps[cap],),
    )
