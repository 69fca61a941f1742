"""The planner's answer as one self-contained page."""

import html
import math

from duckweed.pages.page import Figure, figure_slot, page, table
from duckweed.plan import explain
from duckweed.plan.answer import Answer, span, verdict
from duckweed.plan.report import traffic
from duckweed.plan.search import DAY
from duckweed.plan.text import energy, people
from duckweed.run import units

COLORS = {
    "compute": "#2f9e63", "link": "#3b7dd8", "memory": "#8a8f2a", "churn": "#d9822b",
    "trust": "#7f6a5c", "exchange quality": "#a64ca6",
}  # fmt: skip


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{html.escape(text)}</p>"


def time_split(given: Answer) -> Figure:
    """One stacked bar per cause, in days."""
    traces = [
        {"type": "bar", "orientation": "h", "name": c.name, "x": [c.days], "y": ["plan"],
         "marker": {"color": COLORS[c.kind]}, "opacity": 1.0 - 0.12 * (i % 3),
         "hovertemplate": f"{c.name}: {span(c.days)}<extra></extra>"}
        for i, c in enumerate(given.report.causes)
        if c.days > 0 and math.isfinite(c.days)
    ]  # fmt: skip
    return {"data": traces, "layout": {"barmode": "stack", "bargap": 0.5, "xaxis": {"title": {"text": "days"}},
                                       "yaxis": {"showticklabels": False}, "legend": {"orientation": "h", "y": -0.6}}}  # fmt: skip


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
        "layout": {"barmode": "stack", "bargap": 0.5, "xaxis": {"title": {"text": "GB a machine"}}},
    }


def curve(given: Answer, name: str, title: str) -> Figure:
    """Days against a factor, with the deadline and the crowd as it is."""
    points = [(k, days) for k, days in given.curves[name] if math.isfinite(days)]
    xs, ys = [k for k, _ in points], [days for _, days in points]
    data = [
        {"type": "scatter", "mode": "lines", "name": "fastest plan", "x": xs, "y": ys},
        {"type": "scatter", "mode": "lines", "name": f"{span(given.deadline)}", "x": [0.1, 100],
         "y": [given.deadline] * 2, "line": {"dash": "dot"}},
    ]  # fmt: skip
    if given.report.best:
        point = {"type": "scatter", "mode": "markers", "name": "as it is", "marker": {"size": 10}}
        data.append({**point, "x": [1], "y": [at_medians(given)]})
    axis = {"type": "log", "dtick": "D2"}
    layout = {
        "xaxis": {**axis, "title": {"text": title}},
        "yaxis": {**axis, "title": {"text": "days"}},
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
        {"type": "bar", "orientation": "h", "name": f"at its {side} value", "y": names, "base": base,
         "x": [(b.days_low if side == "low" else b.days_high) - base for b in bars],
         "hovertext": [span(b.days_low if side == "low" else b.days_high) for b in bars]}
        for side in ("low", "high")
    ]  # fmt: skip
    return {
        "data": data,
        "layout": {
            "barmode": "overlay",
            "xaxis": {"title": {"text": "days"}},
        },
    }


def strategies(given: Answer) -> str:
    rows = []
    for o in given.report.options:
        how = o.settings()
        if o.days is None:
            rows.append((o.label, "not possible", "", "", "", o.why))
            continue
        detail = f"every {how['inner_steps_per_round']} steps, {how['wire']} by {how['merge']}"
        detail += ", overlapped" if how["exchange_overlaps"] else ""
        inner = (
            f"in {how['stages']} stages of {how['machines_per_unit']} x {how['units_per_layer']}"
        )
        inner += (
            f", activations / {how['activation_compression']:g}"
            if how["activation_compression"] > 1
            else ""
        )
        inner += ", states in main memory" if how["states_in_main_memory"] else ""
        rows.append((o.label, span(o.days), f"{how['replicas']:,}", f"{how['machines_per_replica']:,}",
                     detail if how["replicas"] > 1 else "none", inner))  # fmt: skip
    return table(
        ("strategy", "time (80 %)", "replicas", "machines each", "exchange", "how, or why not"),
        rows,
    )


def change(given: Answer) -> str:
    parts = [f"<h2>What would have to change for {span(given.deadline)}</h2>"]
    rows = [
        (lever.name, f"{lever.factor:,.3g} x" if lever.factor else "no amount", lever.means,
         span(lever.days), lever.what)
        for lever in given.levers
    ]  # fmt: skip
    if rows:
        parts.append(table(("alone", "factor", "that is", "then", "meaning"), rows))
    if given.combination:
        c = given.combination
        parts.append(paragraph(f"Fewest doublings together: {c.machines:g} x machines, {c.link:g} x link, "
                               f"{c.memory:g} x memory: {span(c.days)}."))  # fmt: skip
    if given.largest:
        size, tokens = (
            units.show_count(given.largest.parameters),
            units.show_count(given.largest.tokens),
        )
        parts.append(paragraph(f"The largest dense model this crowd can train in that time, compute-optimally: "
                               f"{size} parameters on {tokens} tokens ({given.largest.strategy})."))  # fmt: skip
    return "".join(parts)


def derivation(given: Answer) -> str:
    if given.report.best is None:
        return ""
    lines = explain.derivation(given.report.best)
    rows = [(line.name, line.value, line.formula, line.values, line.source) for line in lines]
    inputs = table(("input", "10 / 50 / 90 %", "source"), explain.sources())
    return (
        "<h2>How the figures came about</h2>"
        + table(("quantity", "value", "formula", "values put in", "source"), rows)
        + "<h2>Uncertain inputs</h2>" + inputs
    )  # fmt: skip


def bill(given: Answer) -> str:
    made = given.report.bill
    if made is None:
        return ""
    rows = [
        ("machine-hours", *(units.show_count(x) for x in (made.machine_hours.low, made.machine_hours.median, made.machine_hours.high))),
        ("energy", *(energy(x) for x in (made.energy.low, made.energy.median, made.energy.high))),
        ("dollars if rented", *(units.show_count(x) for x in (made.rent.low, made.rent.median, made.rent.high))),
    ]  # fmt: skip
    return "<h2>Bill</h2>" + table(("", "10 %", "median", "90 %"), rows)


def plan_page(given: Answer) -> str:
    """The page: verdict, strategies, four plots, what would have to change, every formula."""
    target = given.report.target
    figures: dict[str, Figure] = {}
    body = [
        f"<h1>{html.escape(target.model.name)} on {html.escape(people(given))}</h1>",
        paragraph(verdict(given)),
        paragraph(f"{units.show_count(target.model.shape.total)} parameters, {units.show_count(target.tokens)} tokens, "
                  f"{target.precision}, {target.optimizer}; {given.report.found.space.size:,} configurations searched.", "soft"),
        *(paragraph(note, "soft") for note in given.notes),
        "<h2>Strategies</h2>", strategies(given),
    ]  # fmt: skip
    if given.report.best is not None:
        figures["split"], figures["memory"] = time_split(given), memory_bars(given)
        figures["tornado"] = tornado(given)
        body += [
            "<h2>Where the time goes</h2>",
            figure_slot("split"),
            "<h2>Memory by role</h2>",
            figure_slot("memory"),
        ]
        body.append(bill(given))
        moved = traffic(given.report.best)
        if moved:
            hub = f" The hub moves {units.show_rate(moved.hub)} on average." if moved.hub else ""
            body.append(paragraph(f"In an exchange a machine sends {units.show_size(moved.sent)} and fetches "
                                  f"{units.show_size(moved.fetched)}, every {units.show_time(moved.round)}.{hub}"))  # fmt: skip
    for name, title in (
        ("machines", "machines, times this crowd's"),
        ("link", "link speed, times this crowd's"),
    ):
        if given.curves.get(name):
            figures[name] = curve(given, name, title)
            body += [
                f"<h2>Days against {'number of machines' if name == 'machines' else 'link speed'}</h2>",
                figure_slot(name),
            ]
    body.append(change(given))
    if "tornado" in figures:
        body += ["<h2>What the uncertain inputs do</h2>", figure_slot("tornado")]
    body.append(derivation(given))
    return page(f"duckweed plan: {target.model.name}", "".join(body), figures)
