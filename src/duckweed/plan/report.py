"""From the evaluated configurations to an answer: the best plan per strategy, where the time goes,
what binds, what it costs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duckweed.plan.inputs import assumptions
from duckweed.plan.inputs.assumptions import Values
from duckweed.plan.inputs.crowd import Crowd, Group
from duckweed.plan.place import Layout, States, states
from duckweed.plan.rollouts import Rollouts, rollouts
from duckweed.plan.search import DAY, Evaluation, Space, Target, evaluate, only, search
from duckweed.run import units

Array = NDArray[np.float64]

STRATEGIES = (
    "replica per machine",
    "replica per site",
    "pipeline over the internet",
    "pipeline of sites",
    "layers over the internet",
)
SAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """Median and the 10th and 90th percentile."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(values: Array) -> "Interval":
        low, median, high = np.quantile(values, [0.1, 0.5, 0.9], method="inverted_cdf")
        return Interval(float(low), float(median), float(high))


@dataclass
class Option:
    """The fastest configuration of one strategy, or why there is none. evaluation: it alone at the
    medians of the inputs; spread: over the samples."""

    strategy: str
    days: Interval | None
    why: str = ""
    sparse: bool = False
    space: Space | None = None
    evaluation: Evaluation | None = field(default=None, repr=False)
    spread: Evaluation | None = field(default=None, repr=False)

    @property
    def layout(self) -> Layout:
        assert self.space is not None
        return self.space.layouts[0]

    @property
    def label(self) -> str:
        """The strategy in the words of this model: with experts, it is they that are spread."""
        if self.strategy == "layers over the internet" and self.sparse:
            return "experts over the internet"
        return self.strategy

    def settings(self) -> dict[str, Any]:
        """The configuration in words and numbers; empty if there is none."""
        if self.space is None or self.evaluation is None:
            return {}
        space, wire = self.space, self.space.paths[0]
        count = float(np.squeeze(self.evaluation.terms["count"]))
        return {
            "replicas": int(count),
            "machines_per_replica": self.layout.machines,
            "machines_per_unit": self.layout.unit,
            "stages": self.layout.stages,
            "units_per_layer": self.layout.spread,
            "states_in_main_memory": self.layout.offload,
            "activation_compression": self.layout.squeeze,
            "wire": wire[0].name,
            "merge": wire[1],
            "inner_steps_per_round": space.steps[0],
            "exchange_overlaps": space.late[0],
            "sequences_per_step": space.micro[0],
        }


@dataclass(frozen=True)
class Traffic:
    """What an exchange moves. sent, fetched: bytes a machine and round; round: seconds; hub: bit/s
    that the store or hub moves both ways on average (0 where peers add up among themselves)."""

    sent: float
    fetched: float
    round: float
    hub: float


def traffic(option: Option) -> Traffic | None:
    """The exchange of a plan at the medians; None for a lone replica."""
    assert option.evaluation is not None
    assert option.space is not None
    pools = [pool for pool in option.evaluation.pools if scalar(pool.terms["used"]) >= 1]
    if scalar(option.evaluation.terms["count"]) <= 1 or not pools:
        return None
    most = max(pools, key=lambda pool: scalar(pool.terms["used"] * pool.terms["tokens_per_second"]))
    length = scalar(most.terms["round"])
    unit = option.layout.unit
    sent, fetched, every = 0.0, 0.0, 0.0
    for pool in pools:
        t = pool.terms
        up, down = scalar(t["upload"] * t["up"]) / 8, scalar(t["download"] * t["down"]) / 8
        every += scalar(t["used"] * t["machines"]) / unit * (up + down)
        sent, fetched = max(sent, up / unit), max(fetched, down / unit)
    through_hub = option.space.paths[0][1] == "store"
    return Traffic(sent, fetched, length, every * 8 / length if through_hub else 0.0)


def scalar(values: Array) -> float:
    """The value at the first sample of an evaluation with one configuration."""
    return float(np.ravel(values)[0])


def strategy_mask(space: Space, strategy: str) -> Array:
    found = np.asarray([layout.strategy == strategy for layout in space.layouts], dtype=bool)
    return found.reshape(-1, 1, 1, 1, 1, 1)


def options(found: Evaluation, samples: Values) -> list[Option]:
    """The best of each strategy, with its interval over the sampled inputs."""
    result = []
    sparse = found.target.model.shape.expert_layers > 0
    for strategy in STRATEGIES:
        index = found.best(strategy_mask(found.space, strategy)) if found.space.layouts else None
        if index is None:
            result.append(Option(strategy, None, why_not(found, strategy), sparse))
            continue
        space = only(found.space, index)
        spread = evaluate(found.target, found.crowd, space, samples)
        at_median = evaluate(found.target, found.crowd, space, first(found))
        days = Interval.of(spread.seconds.ravel() / DAY)
        result.append(Option(strategy, days, "", sparse, space, at_median, spread))
    return sorted(result, key=lambda o: o.days.median if o.days else math.inf)


def first(found: Evaluation) -> dict[str, float | Array]:
    return {name: float(np.ravel(value)[0]) for name, value in found.inputs.items()}


def why_not(found: Evaluation, strategy: str) -> str:
    """Why no configuration of the strategy is possible."""
    target, crowd = found.target, found.crowd
    state = states(target.precision, target.optimizer)
    group = max(crowd.groups, key=lambda g: g.usable)
    whole = target.model.shape.total * (state.resident + state.states)
    have = units.show_size(group.usable)
    if crowd.machines == 1 and strategy != "replica per machine":
        return "there is only one machine"
    if strategy == "replica per machine":
        return f"a replica needs {units.show_size(whole)}, a machine has {have}"
    if strategy in ("replica per site", "pipeline of sites"):
        site = max(crowd.groups, key=lambda g: g.site * g.usable)
        if site.site == 1:
            return "no machines share a site"
        if strategy == "replica per site":
            return f"a replica needs {units.show_size(whole)}, a site has {units.show_size(site.site * site.usable)}"
        return "no cut of the layers fits"
    layer = target.model.shape.widest * (state.resident + state.states)
    if strategy == "pipeline over the internet":
        return f"one layer needs {units.show_size(layer)}, a machine has {have}"
    return "does not fit, or too few machines"


@dataclass(frozen=True)
class Cause:
    """A part of the time. kind: compute, link, memory, churn, trust or exchange quality."""

    name: str
    kind: str
    days: float


def causes(spread: Evaluation) -> list[Cause]:
    """Where the time of one configuration goes: each step takes one more loss into account, so the
    parts add up. Means over the middle fifth of the samples, so that the sum is near the median."""
    terms, pools = spread.terms, spread.pools
    flop, tokens = spread.target.model.flop_per_token, spread.target.tokens

    def total(*names: str) -> Array:
        parts = []
        for pool in pools:
            part = np.full(1, float(pool.group.count) if names[0] == "all" else 1.0)
            for name in names:
                part = part if name == "all" else part * np.ravel(pool.terms[name])
            parts.append(part)
        return np.asarray(sum(parts))

    rates = [
        total("all", "speed") / flop,
        total("present", "speed") / flop,
        total("used", "machines", "speed") / flop,
        total("used", "tokens_per_second"),
        total("used", "tokens_per_second", "in_step"),
        total("used", "tokens_per_second", "in_step", "honest"),
        np.ravel(terms["rate"]),
        np.ravel(terms["rate"] * terms["useful"]),
    ]
    whole = np.ravel(spread.seconds)
    with np.errstate(divide="ignore"):
        seconds = [np.broadcast_to(tokens / rate, whole.shape) for rate in rates] + [whole]
    low, high = np.quantile(whole, [0.4, 0.6], method="inverted_cdf")
    middle = (whole >= low) & (whole <= high) & np.isfinite(whole)
    if not middle.any():
        return []
    steps = [float(np.mean(part[middle])) / DAY for part in seconds]
    parts = [steps[0], *(max(0.0, after - before) for before, after in pairwise(steps))]
    return [Cause(name, kind, part) for (name, kind), part in zip(CAUSES, parts, strict=True)]


CAUSES = (
    ("computing, all machines all the time", "compute"),
    ("machines offline", "churn"),
    ("machines left over", "memory"),
    ("waiting inside a replica", "link"),
    ("rejoining", "churn"),
    ("wasted work", "trust"),
    ("waiting for exchange", "link"),
    ("checking others' work", "trust"),
    ("extra tokens", "exchange quality"),
)


def binding(parts: list[Cause]) -> str:
    """The kind of cause that takes most of the time."""
    sums: dict[str, float] = {}
    for part in parts:
        sums[part.kind] = sums.get(part.kind, 0.0) + part.days
    return max(sums, key=lambda kind: sums[kind])


@dataclass(frozen=True)
class Bill:
    """machine_hours; energy in kWh; rent in US dollars, each with its interval. Only machines that
    are used and online count."""

    machine_hours: Interval
    energy: Interval
    rent: Interval


def bill(spread: Evaluation) -> Bill:
    """What one configuration takes, over the samples."""
    hours = spread.seconds.ravel() / 3600
    a = spread.inputs

    def sums(each: Callable[[Group], float]) -> Array:
        return np.asarray(
            sum(
                np.ravel(p.terms["used"] * p.terms["machines"]) * each(p.group)
                for p in spread.pools
            )
        )

    return Bill(
        Interval.of(hours * sums(lambda g: 1.0)),
        Interval.of(hours * sums(lambda g: g.device.watts * g.cards / 1000) * np.ravel(a["duty"])),
        Interval.of(hours * sums(lambda g: g.device.rent * g.cards) * np.ravel(a["rent_factor"])),
    )


@dataclass(frozen=True)
class Role:
    """Memory of one role in a plan, in bytes per machine."""

    role: str
    device: float
    device_room: float
    host: float
    host_room: float


def memory(option: Option) -> list[Role]:
    """What each kind of machine holds in the plan."""
    assert option.evaluation is not None
    roles = []
    for pool in option.evaluation.pools:
        placement = pool.placements[0][0]
        if placement is None or scalar(pool.terms["used"]) < 1:
            continue
        part = (
            "whole replica"
            if option.layout.machines == 1
            else (
                "share of a replica"
                if option.layout.stages * option.layout.spread == 1
                else "stage"
                if option.layout.spread == 1
                else "part of a layer"
            )
        )
        label = f"{part} on {pool.group.name or pool.group.device.label}"
        roles.append(
            Role(label, placement.device, pool.group.usable, placement.host, pool.group.spare)
        )
    return roles


@dataclass
class Report:
    """The plans of a target and a crowd; `answer.tree` makes plain data of them."""

    target: Target
    crowd: Crowd
    found: Evaluation
    options: list[Option]
    causes: list[Cause]
    memory: list[Role]
    bill: Bill | None
    rollouts: Rollouts | None
    state: States

    @property
    def left_out(self) -> list[str]:
        """Groups that the best plan cannot use, or that would only slow the others down."""
        if self.best is None or self.best.evaluation is None:
            return []
        pools = self.best.evaluation.pools
        used = [pool.group for pool in pools if scalar(pool.terms["used"]) >= 1]
        return [
            g.name or f"{g.count:,} x {g.device.label}" for g in self.crowd.groups if g not in used
        ]

    @property
    def best(self) -> Option | None:
        return self.options[0] if self.options[0].days else None

    @property
    def days(self) -> Interval | None:
        """Days of training, with the reinforcement-learning stage if there is one."""
        if self.best is None or self.best.days is None:
            return None
        base = self.best.days
        if self.rollouts is None:
            return base
        extra = Interval.of(np.ravel(self.rollouts.days))
        return Interval(base.low + extra.low, base.median + extra.median, base.high + extra.high)


def report(
    target: Target, crowd: Crowd, fixed: dict[str, float] | None = None, seed: int = 0
) -> Report:
    """Search at the medians, then the interval of each strategy's best configuration."""
    fixed = fixed or {}
    samples = assumptions.sample(SAMPLES, seed, **fixed)
    found = search(target, crowd, assumptions.medians(**fixed))
    chosen = options(found, samples)
    state = states(target.precision, target.optimizer)
    best = chosen[0]
    if best.days is None:
        return Report(target, crowd, found, chosen, [], [], None, None, state)
    assert best.evaluation is not None
    assert best.spread is not None
    learn = scalar(best.evaluation.terms["rate"])
    stage = rollouts(target, crowd, samples, learn)
    return Report(
        target,
        crowd,
        found,
        chosen,
        causes(best.spread),
        memory(best),
        bill(best.spread),
        stage,
        state,
    )
