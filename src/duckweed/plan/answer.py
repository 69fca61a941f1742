"""The answer to `what can this crowd train?` as one object, one sentence and one tree of plain data."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from duckweed.plan import explain, inverse
from duckweed.plan import paths as by_paths
from duckweed.plan.inputs.crowd import Crowd, Group
from duckweed.plan.paths import Paths
from duckweed.plan.report import Interval, Report, binding, report, traffic
from duckweed.plan.saving import Budget, budget
from duckweed.plan.search import DAY, Target
from duckweed.run import units

YEAR = 365.0
"""Days that count as the deadline where none is given."""

BINDS = {
    "compute": "computing power",
    "link": "the links",
    "memory": "memory",
    "churn": "people leaving",
    "trust": "checking and wasted work",
    "exchange quality": "what rare exchange between many replicas costs in quality",
}


@dataclass
class Answer:
    """The plans, and what would have to change for the deadline."""

    report: Report
    deadline: float
    """Days."""
    asked: bool
    """Whether a deadline was given; else it is a year."""
    chance: float
    """Share of the samples in which the best plan meets the deadline."""
    levers: list[inverse.Lever] = field(default_factory=list)
    combination: inverse.Combination | None = None
    largest: inverse.Largest | None = None
    paths: Paths | None = None
    """What the crowd can train as paths, where the model does not fit a machine or the links bind."""
    saving: float | None = None
    """The budget of bytes that was asked for."""
    budget: Budget | None = None
    """The run that the budget of bytes gives."""
    bars: list[inverse.Bar] = field(default_factory=list)
    """Sensitivity of the best plan to each uncertain input."""
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """`machines` and `link` -> (factor on it, days)."""
    notes: tuple[str, ...] = ()

    @property
    def possible(self) -> bool:
        days = self.report.days
        return days is not None and days.median <= self.deadline

    @property
    def binds(self) -> str:
        return BINDS[binding(self.report.causes)] if self.report.causes else BINDS["memory"]


def chance(result: Report, deadline: float) -> float:
    """Share of the samples in which the chosen plan meets the deadline (in days)."""
    if result.best is None or result.best.spread is None:
        return 0.0
    days = result.best.spread.seconds.ravel() / DAY
    extra = np.ravel(result.rollouts.days) if result.rollouts else 0.0
    return float(np.mean(days + extra <= deadline))


def answer(
    target: Target,
    crowd: Crowd,
    *,
    fixed: dict[str, float] | None = None,
    change: bool = True,
    curves: bool = False,
    seed: int = 0,
    notes: tuple[str, ...] = (),
    saving: float | None = None,
) -> Answer:
    """Plan, and say what would have to change. `change=False` leaves that part out. saving: a budget of bytes
    of which to say what run it gives."""
    fixed = fixed or {}
    deadline = target.deadline / DAY if target.deadline else YEAR
    result = report(target, crowd, fixed, seed=seed)
    if result.left_out:
        notes = (
            *notes,
            f"left out, as the plan is no faster with them: {', '.join(result.left_out)}",
        )
    given = Answer(
        result,
        deadline,
        target.deadline is not None,
        chance(result, deadline),
        notes=(*crowd.notes, *notes),
    )
    if saving is not None:
        given.saving, given.budget = saving, budget(target, crowd, saving, fixed, seed)
    if result.best is not None:
        given.bars = inverse.sensitivity(result.best, fixed)
    if change:
        if not given.possible:
            left = max(deadline - after(result), deadline / 100)
            given.levers = inverse.levers(target, crowd, left, fixed)
            given.combination = inverse.combination(target, crowd, left, fixed)
        given.largest = inverse.largest(target, crowd, deadline, fixed)
        if calls_for_paths(result):
            given.paths = by_paths.paths(target, crowd, deadline, fixed)
    if curves:
        given.curves = {name: curve(target, crowd, name, fixed) for name in ("machines", "link")}
    return given


def calls_for_paths(result: Report) -> bool:
    """Whether the model fits no machine or site, or its time is mostly that of links or memory."""
    if result.best is None:
        return True
    layout = result.best.layout
    return layout.stages * layout.spread > 1 or binding(result.causes) in ("link", "memory")


def after(result: Report) -> float:
    """Median days of the stage after pre-training: what change is asked for leaves it as it is."""
    if (
        result.rollouts is None
        or result.days is None
        or result.best is None
        or not result.best.days
    ):
        return 0.0
    return result.days.median - result.best.days.median


def curve(
    target: Target, crowd: Crowd, name: str, fixed: dict[str, float]
) -> list[tuple[float, float]]:
    """(factor, days) for factors from 1/10 to 100 on machines or links."""
    factors = np.geomspace(0.1, 100, 25)
    return [
        (float(k), inverse.days(target, crowd.scaled(**{name: float(k)}), fixed)) for k in factors
    ]


SCALES = (
    (2 * YEAR, YEAR, "years"),
    (1.0, 1.0, "days"),
    (1 / 24, 1 / 24, "hours"),
    (1 / 1440, 1 / 1440, "minutes"),
    (0.0, 1 / 86400, "seconds"),
)
"""From how many days on, in what unit of how many days, a time is said."""


def span(days: Interval | float) -> str:
    """A time in the unit that fits it; with the interval if there is one."""
    if isinstance(days, float):
        return "never" if math.isinf(days) else units.show(days, SCALES)
    factor, unit = units.step(days.median, SCALES)
    low, median, high = (units.number(x / factor) for x in (days.low, days.median, days.high))
    return f"{median} {unit} ({low} to {high})"


def as_paths(found: Paths) -> tuple[str, str]:
    """What the crowd can train as paths and what that is worth; and what it asks of a machine, and its
    limits."""
    worth, show = found.equivalent, units.show_count
    beyond = by_paths.largest_measured()
    extrapolated = (
        f" Paths were measured up to {show(beyond)} parameters each: what these are worth is extrapolated."
        if found.parameters > beyond
        else ""
    )
    what = (
        f"{found.count} paths of {show(found.parameters)} parameters each, {show(found.total)} in all, on "
        f"{show(found.tokens)} tokens in {span(found.days)}: worth a dense model of {show(worth.low)} to "
        f"{show(worth.high)}, not of the total"
    )
    memory = max(found.memory, key=lambda role: role.device)
    how = (
        f"a machine takes {units.show_size(memory.device)} of {units.show_size(memory.device_room)}"
    )
    if found.exchange:
        how += (
            f", sends {units.show_size(found.exchange.sent)} and fetches "
            f"{units.show_size(found.exchange.fetched)} every {units.show_time(found.exchange.round)}"
        )
    return what, (
        f"Of paths: each is trained by {found.machines:,} machine{'s' if found.machines > 1 else ''} on the "
        f"text that is routed to it; {how}. A common start comes on top. A single path is no general model; "
        f"docs/paths-measured.md says what was measured.{extrapolated}"
    )


def within_budget(given: Answer) -> str:
    """What run the budget of bytes gives; "" where none was asked for."""
    asked, found = given.saving, given.budget
    if asked is None:
        return ""
    if found is None:
        return f"--saving {asked:g}: nothing is exchanged, since this crowd holds fewer than two replicas of the model."
    few, most = found.schedule.fewest, found.schedule.most
    steps = f"{most:,}" if few == most else f"{few:,} or {most:,}"
    return (
        f"--saving {asked:g}: {found.rounds:,} rounds of {steps} steps of {found.sequences:,} sequences, "
        f"{found.replicas:,} replicas, {span(found.days)}. A machine sends {units.show_size(found.sent)} and fetches "
        f"{units.show_size(found.fetched)} in all, {found.fewer:,.0f} times fewer bytes sent than with bf16 data "
        f"parallelism; an exchange takes {units.show_time(found.exchange)}, {found.share:.0%} of the time."
    )


def people(given: Answer) -> str:
    """The crowd in a few words: `5,000 x RTX 4090`."""
    return " + ".join(
        f"{g.count:,} x {f'{g.cards} x ' if g.cards > 1 else ''}{g.device.label}"
        for g in given.report.crowd.groups
    )


def verdict(given: Answer) -> str:
    """One or two sentences: whether, how long, how, and what binds."""
    result = given.report
    within = span(given.deadline) if given.asked else "a year (no deadline was given)"
    if result.best is None or result.days is None:
        why = result.options[0].why
        return f"No. {why[:1].upper()}{why[1:]}; nothing else fits either."
    how = result.best.settings()
    replicas, machines = how["replicas"], how["machines_per_replica"]
    return (
        f"{'Yes' if given.possible else 'No'}: {span(result.days)}, "
        + (f"{given.chance:.0%} likely" if given.possible else "not")
        + f" within {within}, as {result.best.label}: "
        f"{replicas:,} replica{'s' if replicas > 1 else ''} of "
        f"{machines:,} machine{'s' if machines > 1 else ''}. What binds: {given.binds}."
    )


def tree(given: Answer) -> dict[str, Any]:
    """Everything as dictionaries, lists, numbers and strings (`null` for what never ends)."""
    result, best = given.report, given.report.best
    made = {
        "verdict": verdict(given),
        "possible": given.possible,
        "deadline_days": given.deadline,
        "deadline_given": given.asked,
        "chance": given.chance,
        "binds": given.binds,
        **_asked(result),
        "read_as": list(given.notes),
        "days": _fields(result.days),
        "strategies": [
            {"strategy": o.label, "days": _fields(o.days), "why_not": o.why, **o.settings()}
            for o in result.options
        ],
        "time": [asdict(cause) for cause in result.causes],
        "memory": [asdict(role) for role in result.memory],
        "exchange": _fields(traffic(best)) if best else None,
        "bill": _fields(result.bill),
        "rollouts": _rollouts(result),
        "what_would_have_to_change": [asdict(lever) for lever in given.levers],
        "combination": _fields(given.combination),
        "largest_model": _fields(given.largest),
        "paths": _paths(given.paths),
        "budget": _fields(given.budget),
        "sensitivity": [asdict(bar) for bar in given.bars],
        "curves": given.curves,
        "configurations_searched": result.found.space.size,
        "explain": [asdict(line) for line in explain.derivation(best)] if best else [],
    }
    cleaned: dict[str, Any] = finite(made)
    return cleaned


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass, where there is one."""
    return None if value is None else asdict(value)


def _asked(result: Report) -> dict[str, Any]:
    """Model, target and crowd as they were understood."""
    target, shape = result.target, result.target.model.shape
    return {
        "model": {
            "name": shape.name,
            "parameters": shape.total,
            "active": shape.active,
            "kinds": shape.kinds,
            "flop_per_token": target.model.flop_per_token,
            "context": target.model.context,
            "source": target.model.source,
        },
        "target": {
            "tokens": target.tokens,
            "precision": target.precision,
            "optimizer": target.optimizer,
            "flop": target.tokens * target.model.flop_per_token,
        },
        "crowd": [_group(group) for group in result.crowd.groups],
    }


def _group(group: Group) -> dict[str, Any]:
    names = (
        "count device cards up down latency site online stay waste usable_bytes host_bytes source"
    )
    own = {
        "device": group.device.name,
        "usable_bytes": group.usable,
        "host_bytes": group.spare,
        "source": group.device.source,
    }
    return {name: own[name] if name in own else getattr(group, name) for name in names.split()}


def _paths(found: Paths | None) -> dict[str, Any] | None:
    return None if found is None else {**asdict(found), "total": found.total}


def _rollouts(result: Report) -> dict[str, Any] | None:
    """The reinforcement-learning stage, where the model has one."""
    stage = result.rollouts
    if not stage:
        return None
    return {
        "tokens": stage.tokens,
        "workers": stage.workers,
        "machines_per_worker": stage.machines,
        "days": asdict(Interval.of(np.ravel(stage.days))),
    }


def finite(value: Any) -> Any:
    """The same tree with `None` for infinite and undefined numbers, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    return value
