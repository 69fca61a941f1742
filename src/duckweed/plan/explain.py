"""How every figure of a plan came about: the formula, the values put in, and the source."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from duckweed.plan.inputs import assumptions, table
from duckweed.plan.penalty import critical_batch, exponent
from duckweed.plan.report import Option, scalar
from duckweed.run import units


@dataclass(frozen=True)
class Term:
    """A quantity: its formula over other quantities, its unit, and where the formula comes from."""

    formula: str
    unit: str
    source: str
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One step of the derivation, ready to print."""

    name: str
    value: str
    formula: str
    values: str
    source: str


@cache
def terms(part: str) -> dict[str, Term]:
    """The formulas of tables/formulas.csv: `pool` for those of one group of machines, `whole` for
    those of the whole crowd."""
    return {
        row["name"]: Term(row["formula"], row["unit"], row["source"], tuple(row["inputs"].split()))
        for row in table.rows("formulas")
        if row["part"] == part
    }


def inputs(option: Option, number: int) -> dict[str, float]:
    """Everything a formula may name, for one pool of a plan."""
    assert option.evaluation is not None
    assert option.space is not None
    ev, space = option.evaluation, option.space
    pool, model, layout = ev.pools[number], ev.target.model, option.layout
    group, (wire, _) = pool.group, space.paths[0]
    known = {name: scalar(value) for name, value in ev.inputs.items()}
    for field in ("count", "online", "up", "down", "latency", "site", "lan", "stay", "waste"):
        known[f"group.{field}"] = float(getattr(group, field))
    known |= {
        "group.rate": group.rate(ev.target.precision),
        "context": model.context,
        "flop_per_token": model.flop_per_token,
        "unit": layout.unit,
        "stages": layout.stages,
        "spread": layout.spread,
        "squeeze": layout.squeeze,
        "steps": space.steps[0],
        "micro": space.micro[0],
        "late": float(space.late[0]),
        "cap": space.caps[0],
        "gap": wire.gap,
        "exponent": exponent(model.shape.active),
        "critical": max(critical_batch(ev.target.tokens * model.flop_per_token), model.batch),
    }
    known["mfu"] = scalar(pool.terms["speed"]) / group.rate(ev.target.precision)
    placement = pool.placements[0][0]
    if placement is not None:
        known |= {
            "shard": placement.shard,
            "imbalance": placement.imbalance,
            "wan_bits": placement.wan,
            "lan_bits": placement.lan,
            "depth": placement.depth,
            "hops": placement.hops,
            "offload": placement.offload,
        }
        size = placement.shard * known["bits_factor"]
        known["up_bits"] = scalar(pool.terms["upload"]) * scalar(pool.terms["up"]) / size
        known["down_bits"] = scalar(pool.terms["download"]) * scalar(pool.terms["down"]) / size
    known |= {name: scalar(value) for name, value in pool.terms.items() if name != "fits"}
    known |= {name: scalar(value) for name, value in ev.terms.items()}
    return known


def short(value: float) -> str:
    if not np.isfinite(value):
        return "unbounded" if value > 0 else str(value)
    if value == int(value) and abs(value) < 1e5:
        return str(int(value))
    return f"{value:.4g}"


def shown(value: float, unit: str) -> str:
    if unit == "bit/s":
        return units.show_rate(value)
    if unit == "FLOP/s":
        return f"{value / 1e12:.4g} TFLOP/s"
    if unit.startswith("s"):
        head, _, tail = unit.partition(" ")
        if head == "s":
            return f"{units.show_time(value)} {tail}".strip()
    return f"{short(value)} {unit}".strip()


def derivation(option: Option) -> list[Line]:
    """The steps from the inputs to the days of a plan, pool by pool and then for the whole."""
    assert option.evaluation is not None
    lines = []
    for number, pool in enumerate(option.evaluation.pools):
        if scalar(pool.terms["used"]) < 1:
            continue
        known = inputs(option, number)
        label = pool.group.name or pool.group.device.label
        lines.append(Line(f"[{label}]", "", "", "", ""))
        lines += [line(name, term, known) for name, term in terms("pool").items()]
    known = inputs(option, 0)
    lines.append(Line("[whole crowd]", "", "", "", ""))
    lines += [line(name, term, known) for name, term in terms("whole").items()]
    return lines


def line(name: str, term: Term, known: dict[str, float]) -> Line:
    values = ", ".join(f"{key} = {short(known[key])}" for key in term.inputs)
    return Line(name, shown(known[name], term.unit), term.formula, values, term.source)


def sources() -> list[tuple[str, str, str]]:
    """Every uncertain input: name, its 10 / 50 / 90 % values and what it is, and its source."""
    return [
        (r.name, f"{short(r.low)} / {short(r.median)} / {short(r.high)}  {r.what}", r.source)
        for r in assumptions.ranges().values()
    ]
