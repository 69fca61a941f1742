"""How every figure of a plan came about: the formula, the values put in, and the source."""

from dataclasses import dataclass

import numpy as np

from duckweed.plan import assumptions
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


OWN = "this planner (docs/plan.md)"
HOUSE = "DESIGN of the round: who lags computes for the rest of it"

POOL: dict[str, Term] = {
    "online": Term("min(1, online x online_factor)", "share", OWN, ("group.online", "online_factor")),
    "present": Term("floor(count x online)", "machines", OWN, ("group.count", "online")),
    "machines": Term("unit x stages x spread", "machines a replica", OWN, ("unit", "stages", "spread")),
    "replicas": Term("floor(present / machines)", "", OWN, ("present", "machines")),
    "used": Term("min(replicas, the plan's limit)", "replicas", OWN, ("replicas", "cap")),
    "speed": Term("dense rate x mfu", "FLOP/s", "rate: devices table; mfu: assumptions table", ("group.rate", "mfu")),
    "up": Term("site's upload x link_share x unit / site", "bit/s", OWN, ("group.up", "link_share", "unit", "group.site")),
    "down": Term("site's download x link_share x unit / site", "bit/s", OWN, ("group.down", "link_share", "unit", "group.site")),
    "delay": Term("latency x latency_factor", "s", OWN, ("group.latency", "latency_factor")),
    "compute": Term("context x flop_per_token x imbalance / (machines x speed)", "s a sequence and stage",
                    "6 N: arXiv 2001.08361; attention counted apart", ("context", "flop_per_token", "imbalance", "machines", "speed")),
    "wan": Term("wan_bits x traffic_factor / min(up, down)", "s a sequence and stage",
                "activations out, gradients back; experts: arXiv 2412.19437", ("wan_bits", "traffic_factor", "up", "down")),
    "lan": Term("lan_bits / (local network x link_share)", "s a sequence", OWN, ("lan_bits", "group.lan", "link_share")),
    "fill": Term("(depth - 1) x (compute + wan + lan) + hops x delay", "s", "pipeline bubble: arXiv 2104.04473", ("depth", "compute", "wan", "lan", "hops", "delay")),
    "step": Term("micro x max(compute, wan, lan) + fill + offload", "s an inner step", "arXiv 2104.04473", ("micro", "compute", "wan", "lan", "fill", "offload")),
    "balance": Term("balance if a replica is cut, else 1", "share", "assumptions table", ()),
    "tokens_per_second": Term("micro x context / step x balance", "tokens/s a replica", OWN, ("micro", "context", "step", "balance")),
    "honest": Term("1 - waste", "share", "crowd", ("group.waste",)),
    "window": Term("steps x step", "s", HOUSE, ("steps", "step")),
    "upload": Term("shard x bits up x bits_factor / up", "s", "docs/wire.md; sums: entropy of a Skellam law", ("shard", "up_bits", "bits_factor", "up")),
    "download": Term("shard x bits down(replicas) x bits_factor / down", "s", "docs/wire.md", ("shard", "down_bits", "bits_factor", "down")),
    "hub": Term("count x units x shard x bits both ways / the hub's link, if there is one", "s", OWN, ("count", "shard", "up_bits", "down_bits")),
    "code": Term("shard x coding nanoseconds / cards", "s", "docs/wire.md", ("shard", "coding")),
    "exchange": Term("(max(upload + download, hub) + 3 delay) x (1 + straggle log2 replicas) + code", "s a round",
                     "straggle: MIRI simulator", ("upload", "download", "hub", "delay", "straggle", "count", "code")),
    "overlapped": Term("stage traffic in the window + exchange", "s of the link a round", OWN, ("window", "wan", "step", "exchange")),
    "round": Term("window + exchange, or max(window, overlapped) if late", "s", HOUSE, ("window", "exchange", "overlapped", "late")),
    "join": Term("detect + shard x 2 bytes / down", "s", "a newcomer fetches bf16 weights only (DESIGN)", ("detect", "shard", "down")),
    "stay": Term("stay x stay_factor / unit", "s", OWN, ("group.stay", "stay_factor", "unit")),
    "in_step": Term("1 - (join + window / 2) / stay; alone 1 / (1 + units x ...)", "share", OWN, ("join", "window", "stay")),
}  # fmt: skip

WHOLE: dict[str, Term] = {
    "tokens": Term("as asked", "tokens", "--tokens or the preset's source"),
    "count": Term("sum of used", "replicas at once", OWN, ("used",)),
    "rate": Term("sum of used x tokens_per_second x in_step x honest x min(window / round, what the link leaves)", "tokens/s", OWN,
                 ("used", "tokens_per_second", "in_step", "honest", "window", "round")),
    "useful": Term("1 - audit, 1 for a lone replica", "share", "assumptions table", ("audit",)),
    "batch": Term("count x micro x context", "tokens a step", OWN, ("count", "micro", "context")),
    "replica_penalty": Term("count ^ (e ln steps / ln 30), e = 1.57 N^-0.135 x replica_factor", "x tokens",
                            "fit to Charles et al., arXiv 2503.09799, table 4; in H: MIRI, not validated", ("count", "steps", "exponent", "replica_factor")),
    "wire_penalty": Term("(1 + gap L / (B/D^b)) ^ (1/b) at 1e9 parameters", "x tokens", "gap: wire table; law: arXiv 2404.10102", ("gap", "wire_factor")),
    "delay_penalty": Term("the same of delay_gap if late", "x tokens", "assumptions table; arXiv 2404.10102", ("delay_gap", "late")),
    "batch_penalty": Term("max(1, (1 + batch / critical) / 2)", "x tokens", "arXiv 1812.06162; critical: arXiv 2401.02954", ("batch", "critical")),
    "squeeze_penalty": Term("by compression of activations", "x tokens", "assumptions table", ("squeeze",)),
    "penalty": Term("product of the five", "x tokens", OWN,
                    ("replica_penalty", "wire_penalty", "delay_penalty", "batch_penalty", "squeeze_penalty")),
    "seconds": Term("tokens x penalty / (rate x useful)", "s", OWN, ("tokens", "penalty", "rate", "useful")),
}  # fmt: skip


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
        "group.rate": group.rate(ev.target.precision), "context": model.context,
        "flop_per_token": model.flop_per_token, "unit": layout.unit, "stages": layout.stages,
        "spread": layout.spread, "squeeze": layout.squeeze, "steps": space.steps[0],
        "micro": space.micro[0], "late": float(space.late[0]), "cap": space.caps[0], "gap": wire.gap,
        "exponent": exponent(model.shape.active),
        "critical": max(critical_batch(ev.target.tokens * model.flop_per_token), model.batch),
    }  # fmt: skip
    known["mfu"] = scalar(pool.terms["speed"]) / group.rate(ev.target.precision)
    placement = pool.placements[0][0]
    if placement is not None:
        known |= {
            "shard": placement.shard, "imbalance": placement.imbalance, "wan_bits": placement.wan,
            "lan_bits": placement.lan, "depth": placement.depth, "hops": placement.hops,
            "offload": placement.offload,
        }  # fmt: skip
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
        lines += [line(name, term, known) for name, term in POOL.items()]
    known = inputs(option, 0)
    lines.append(Line("[whole crowd]", "", "", "", ""))
    lines += [line(name, term, known) for name, term in WHOLE.items()]
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
