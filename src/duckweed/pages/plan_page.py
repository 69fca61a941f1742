"""The planner's answer as one self-contained page."""

import math
from typing import Any

from duckweed.pages.page import Figure, Table, page, table, titled
from duckweed.plan import explain
from duckweed.plan.answer import Answer, as_paths, people, span, verdict, within_budget
from duckweed.plan.report import traffic
from duckweed.plan.search import DAY
from duckweed.run import units

COLORS = {
    "compute": "#2f9e63",
    "link": "#3b7dd8",
    "memory": "#8a8f2a",
    "churn": "#d9822b",
    "trust": "#7f6a5c",
    "exchange quality": "#a64ca6",
}


def time_split(given: Answer) -> Figure:
    """One stacked bar per cause, in days."""
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": c.name,
            "x": [c.days],
            "y": ["plan"],
            "marker": {"color": COLORS[c.kind]},
            "opacity": 1.0 - 0.12 * (i % 3),
            "hovertemplate": f"{c.name}: {span(c.days)}<extra></extra>",
        }
        for i, c in enumerate(given.report.causes)
        if c.days > 0 and math.isfinite(c.days)
    ]
    return {
        "data": traces,
        "layout": {
            "barmode": "stack",
            "bargap": 0.5,
            "xaxis": titled("days"),
            "yaxis": {"showticklabels": False},
            "legend": {"orientation": "h", "y": -0.6},
        },
    }


def memory_bars(given: Answer) -> Figure:
    """Used and free memory of each role, device and main memory."""
    names, used, free = [], [], []
    for role in given.report.memory:
        for place, taken, room in (
            ("device", role.device, role.device_room),
            ("main", role.host, role.host_room),
        ):
            if room:
                names.append(f"{role.role}: {place}")
                used.append(taken / 1e9)
                free.append(max(0.0, room - taken) / 1e9)
    data = [
        {"type": "bar", "orientation": "h", "name": "used", "y": names, "x": used},
        {
            "type": "bar",
            "orientation": "h",
            "name": "free",
            "y": names,
            "x": free,
            "marker": {"color": "#b9c4ba"},
        },
    ]
    return {
        "data": data,
        "layout": {"barmode": "stack", "bargap": 0.5, "xaxis": titled("GB a machine")},
    }


def curve(given: Answer, name: str, title: str) -> Figure:
    """Days against a factor, with the deadline and the crowd as it is."""
    points = [(k, days) for k, days in given.curves[name] if math.isfinite(days)]
    xs, ys = [k for k, _ in points], [days for _, days in points]
    data = [
        {"type": "scatter", "mode": "lines", "name": "fastest plan", "x": xs, "y": ys},
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{span(given.deadline)}",
            "x": [0.1, 100],
            "y": [given.deadline] * 2,
            "line": {"dash": "dot"},
        },
    ]
    if given.report.best:
        point = {"type": "scatter", "mode": "markers", "name": "as it is", "marker": {"size": 10}}
        data.append({**point, "x": [1], "y": [at_medians(given)]})
    axis = {"type": "log", "dtick": "D2"}
    layout = {
        "xaxis": axis | titled(title),
        "yaxis": axis | titled("days"),
    }
    return {"data": data, "layout": layout}


def at_medians(given: Answer) -> float:
    """Days of the plan with every uncertain input at its median, where the curves and bars start."""
    best = given.report.best
    return float(best.evaluation.seconds.ravel()[0]) / DAY if best and best.evaluation else 0.0


def tornado(given: Answer) -> Figure:
    """Days with each uncertain input low and high, the widest on top."""
    bars = [b for b in given.bars if math.isfinite(b.swing)][:12][::-1]
    base = at_medians(given)
    names = [b.name for b in bars]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": f"at its {side} value",
            "y": names,
            "base": base,
            "x": [(b.days_low if side == "low" else b.days_high) - base for b in bars],
            "hovertext": [span(b.days_low if side == "low" else b.days_high) for b in bars],
        }
        for side in ("low", "high")
    ]
    return {
        "data": data,
        "layout": {
            "barmode": "overlay",
            "xaxis": titled("days"),
        },
    }


def strategies(given: Answer) -> Table:
    """The fastest plan of every strategy, or why there is none."""
    rows = []
    for o in given.report.options:
        if o.days is None:
            rows.append((o.label, "not possible", "", "", "", o.why))
            continue
        how = o.settings()
        exchange = f"every {how['inner_steps_per_round']} steps, {how['wire']} by {how['merge']}"
        exchange += ", overlapped" if how["exchange_overlaps"] else ""
        rows.append(
            (
                o.label,
                span(o.days),
                f"{how['replicas']:,}",
                f"{how['machines_per_replica']:,}",
                exchange if how["replicas"] > 1 else "none",
                _inside(how),
            )
        )
    head = ("strategy", "time (80 %)", "replicas", "machines each", "exchange", "how, or why not")
    return table(head, rows)


def _inside(how: dict[str, Any]) -> str:
    """How one replica is cut."""
    text = f"in {how['stages']} stages of {how['machines_per_unit']} x {how['units_per_layer']}"
    if how["activation_compression"] > 1:
        text += f", activations / {how['activation_compression']:g}"
    return text + (", states in main memory" if how["states_in_main_memory"] else "")


def levers(given: Answer) -> Table:
    """What each change alone would have to be."""
    rows = [
        (
            lever.name,
            f"{lever.factor:,.3g} x" if lever.factor else "no amount",
            lever.means,
            span(lever.days),
            lever.what,
        )
        for lever in given.levers
    ]
    return table(("alone", "factor", "that is", "then", "meaning"), rows)


def together(given: Answer) -> str:
    """The fewest doublings of machines, links and memory that reach the deadline."""
    c = given.combination
    if c is None:
        return ""
    return f"{c.machines:g} x machines, {c.link:g} x link, {c.memory:g} x memory: {span(c.days)}"


def largest(given: Answer) -> str:
    """The largest dense model for the crowd and the time."""
    found = given.largest
    if found is None:
        return ""
    size, tokens = units.show_count(found.parameters), units.show_count(found.tokens)
    return f"{size} parameters on {tokens} tokens ({found.strategy})"


def derivation(given: Answer) -> Table | None:
    """Every formula of the best plan with the values put in."""
    if given.report.best is None:
        return None
    lines = explain.derivation(given.report.best)
    rows = [(line.name, line.value, line.formula, line.values, line.source) for line in lines]
    return table(("quantity", "value", "formula", "values put in", "source"), rows)


def bill(given: Answer) -> Table | None:
    """Machine-hours, energy and rent with their intervals."""
    made = given.report.bill
    if made is None:
        return None
    lines = (
        ("machine-hours", made.machine_hours, units.show_count),
        ("energy", made.energy, units.show_energy),
        ("dollars if rented", made.rent, units.show_count),
    )
    rows = [(name, *map(show, (x.low, x.median, x.high))) for name, x, show in lines]
    return table(("", "10 %", "median", "90 %"), rows)


def exchange(given: Answer) -> str:
    """What an exchange moves."""
    moved = traffic(given.report.best) if given.report.best else None
    if moved is None:
        return ""
    hub = f" The hub moves {units.show_rate(moved.hub)} on average." if moved.hub else ""
    return (
        f"In an exchange a machine sends {units.show_size(moved.sent)} and fetches "
        f"{units.show_size(moved.fetched)}, every {units.show_time(moved.round)}.{hub}"
    )


def plan_page(given: Answer) -> str:
    """The page: verdict, strategies, four plots, what would have to change, every formula."""
    target = given.report.target
    figures: dict[str, Figure] = {}
    if given.report.best is not None:
        figures["split"], figures["memory"] = time_split(given), memory_bars(given)
        figures["tornado"] = tornado(given)
    titles = {"machines": "machines, times this crowd's", "link": "link speed, times this crowd's"}
    for name, text in titles.items():
        if given.curves.get(name):
            figures[name] = curve(given, name, text)
    return page(
        "plan.html",
        f"duckweed plan: {target.model.name}",
        figures,
        model=target.model.name,
        crowd=people(given),
        verdict=verdict(given),
        target=f"{units.show_count(target.model.shape.total)} parameters, "
        f"{units.show_count(target.tokens)} tokens, {target.precision}, {target.optimizer}; "
        f"{given.report.found.space.size:,} configurations searched.",
        notes=given.notes,
        strategies=strategies(given),
        bill=bill(given),
        exchange=exchange(given),
        deadline=span(given.deadline),
        levers=levers(given) if given.levers else None,
        together=together(given),
        largest=largest(given),
        budget=within_budget(given),
        paths=as_paths(given.paths) if given.paths else None,
        derivation=derivation(given),
        inputs=table(("input", "10 / 50 / 90 %", "source"), explain.sources()),
    )
