"""The report of a campaign as one self-contained page: gain, decisions, proposers, lineage."""

import math
from typing import Any

from duckweed.evolve.campaign.history import History
from duckweed.evolve.campaign.outcome import CampaignOutcome
from duckweed.evolve.statistics.returns import Returns
from duckweed.evolve.trial_spec import Recipe
from duckweed.pages.page import Figure, Table, page, table, titled
from duckweed.run import toml

COLOURS = {
    "adopted": "#2f9e63", "accepted": "#3b7dd8", "rejected": "#c0392b", "undecided": "#a9b3ac",
    "open": "#d9822b",
}  # fmt: skip
PLANTED = {"same": "the parent itself", "null": "a known null", "harmful": "a known harm"}


def evolve_page(name: str, outcome: CampaignOutcome) -> str:
    """The whole page as a string."""
    told = outcome.history
    figures = {
        "gain": gain_figure(told, outcome.returns),
        "proposers": proposers_figure(told),
        "lineage": lineage_figure(told),
    }
    compute = [
        (purpose, run.count, f"{run.flops:.3g}", f"{run.seconds / 3600:.2f}")
        for purpose, run in told.runs.items()
    ]
    return page(
        "evolve.html",
        f"duckweed evolve {name}",
        figures,
        verdict=_verdict(told),
        story=_story(name, told),
        returns=_returns_in_words(outcome.returns),
        generations=_generations(told),
        decisions=_decisions(told),
        proposers=_proposers(told),
        planted=_planted(told),
        alpha=f"{float(told.genesis.settings.get('alpha', math.nan)):g}",
        compute=table(["purpose", "runs", "FLOP", "hours of a worker"], compute),
        recipe=toml.write(outcome.recipe),
    )


def difference(recipe: Recipe) -> str:
    """A difference in one line."""
    return ", ".join(f"{k} = {v}" for k, v in recipe.items()) or "the parent itself"


def _verdict(told: History) -> str:
    best = told.best()
    if best is None or best.comparison is None:
        return "Nothing better than generation 0 was confirmed"
    v = best.comparison.reported
    return (
        f"Generation {best.number} needs {v.m:.2f} times less compute than generation 0 "
        f"({best.comparison.level:.0%} interval {v.interval})"
    )


def _story(name: str, told: History) -> str:
    parts = [f"Campaign {name}: {told.spent:.3g} FLOP of research compute"]
    best = told.best()
    if best is not None and best.comparison is not None:
        low, high = best.comparison.budgets[0], best.comparison.budgets[-1]
        parts.append(
            f"measured on held-out text and seeds that nothing else used, at {low:.2g} to {high:.2g} "
            "FLOP a run; nothing is said of other sizes"
        )
        if best.comparison.caution:
            parts.append(f"what the figure leaves out: {best.comparison.caution}")
    if told.pilot:
        parts.append(told.power)
    if told.failures or told.diverged:
        parts.append(
            f"{told.failures} workers ended, {told.diverged} runs diverged or were refused"
        )
    return "; ".join(parts) + "."


def gain_figure(told: History, found: Returns) -> Figure:
    """ln A of every generation with its interval, and the two laws of `duckweed.evolve.statistics.returns`
    at the middle of their posteriors."""
    made = [g for g in told.generations if g.comparison is not None]
    x, y = [0.0], [1.0]
    up, down = [0.0], [0.0]
    for g in made:
        assert g.comparison
        v = g.comparison.reported
        x.append(g.measured)
        y.append(v.m)
        up.append(_finite(v.high - v.m))
        down.append(_finite(v.m - v.low))
    data: list[dict[str, Any]] = [
        {"x": x, "y": y, "mode": "markers", "name": "measured, over generation 0",
         "text": ["generation 0", *(f"generation {g.number}: {difference(g.difference)}" for g in made)],
         "error_y": {"type": "data", "array": up, "arrayminus": down}, "marker": {"size": 9}}
    ]  # fmt: skip
    if made:
        data += _laws(x[-1], max(told.before, 1.0), found)
    return {"data": data, "layout": {
        "xaxis": titled("research compute (FLOP), failures included"),
        "yaxis": {**titled("compute saved (times)"), "rangemode": "tozero"}}}  # fmt: skip


def _laws(end: float, r0: float, found: Returns) -> list[dict[str, Any]]:
    grid = [end * i / 60 for i in range(91)]
    power = [(1 + s / r0) ** found.r.middle for s in grid]
    limit = math.log(found.limit.middle)
    reached = min(found.reached.middle, 1 - 1e-6)
    scale = -end / math.log(1 - reached)
    flat = [math.exp(limit * (1 - math.exp(-s / scale))) for s in grid]
    return [
        {"x": grid, "y": _shown(power), "mode": "lines", "name": "power law", "line": {"dash": "dot"}},
        {"x": grid, "y": _shown(flat), "mode": "lines", "name": "saturating", "line": {"dash": "dash"}},
    ]  # fmt: skip


def _shown(values: list[float]) -> list[float | None]:
    """A law's curve, cut where it leaves the page: with few points its middle may be anywhere."""
    return [v if v < 100 else None for v in values]


def _finite(x: float) -> float:
    return x if math.isfinite(x) and x < 100 else 100.0


def _returns_in_words(found: Returns) -> str:
    r = found.r
    text = (
        f"Returns to research r = {r.middle:.2f} ({r.level:.0%} interval {r.low:.2f} to "
        f"{r.high:.2f}) from {found.accepted} accepted changes."
    )
    if found.mostly_prior:
        text += (
            " That is mostly the prior: fewer than ten accepted changes say next to nothing of r."
        )
    text += {
        "power": " The data prefer the power law.",
        "saturating": " The data prefer the law that saturates: the low fruit, and then nothing.",
        "neither": " Whether the gain goes on or saturates cannot be told from these data.",
    }[found.prefers]
    if found.without_known is not None:
        w = found.without_known
        text += f" Without changes that were known before: r = {w.middle:.2f} ({w.low:.2f} to {w.high:.2f})."
    elif found.accepted:
        text += " Everything adopted was known before, so there is no r without the known."
    if found.trend is not None:
        text += f" Gain per research FLOP is {found.trend.verdict}."
    return text


def _generations(told: History) -> Table:
    rows = []
    for g in told.generations:
        what = g.change(difference(g.difference))
        rows.append(
            (g.number, what, g.proposer, g.provenance, g.scale, g.over_zero, f"{g.spent:.3g}")
        )
    head = ["generation", "adopted", "by", "provenance", "at size", "over generation 0", "spent"]
    return table(head, rows)


def lineage_figure(told: History) -> Figure:
    """Generations as a trunk, what was decided on each as leaves."""
    data: list[dict[str, Any]] = []
    xs: dict[str, list[float]] = {}
    ys: dict[str, list[float]] = {}
    texts: dict[str, list[str]] = {}
    edges_x: list[float | None] = []
    edges_y: list[float | None] = []
    here, row = 0.0, 0  # place of the generation in force
    for place, d in enumerate(told.decisions, 1):
        adopted = d.outcome == "adopted"
        y = row + 1.0 if adopted else row + 0.35
        edges_x += [here, float(place), None]
        edges_y += [float(row), y, None]
        xs.setdefault(d.outcome, []).append(float(place))
        ys.setdefault(d.outcome, []).append(y)
        texts.setdefault(d.outcome, []).append(f"{d.number}: {difference(d.difference)}; {d.why}")
        if adopted:
            here, row = float(place), row + 1
    data.append({"x": edges_x, "y": edges_y, "mode": "lines", "showlegend": False,
                 "hoverinfo": "skip", "line": {"color": "#a9b3ac", "width": 1}})  # fmt: skip
    data.append({"x": [0.0], "y": [0.0], "mode": "markers", "name": "generation 0",
                 "marker": {"size": 12, "color": "#7f6a5c"}})  # fmt: skip
    for outcome in xs:
        data.append({"x": xs[outcome], "y": ys[outcome], "text": texts[outcome], "name": outcome,
                     "mode": "markers", "hoverinfo": "text",
                     "marker": {"size": 10, "color": COLOURS[outcome]}})  # fmt: skip
    return {"data": data, "layout": {
        "xaxis": {**titled("decision"), "dtick": 1 if len(told.decisions) < 25 else 5},
        "yaxis": {**titled("generation"), "dtick": 1}}}  # fmt: skip


def _decisions(told: History) -> Table:
    rows = []
    for d in told.decisions:
        planted = PLANTED.get(d.kind or "")
        rows.append((
            d.number, f"planted: {planted}" if planted else d.proposer, difference(d.difference),
            d.pairs, d.gain_text, f"{d.level:.2g}", f"{d.e_value:.3g}", d.outcome, d.why,
        ))  # fmt: skip
    head = [
        "proposal",
        "by",
        "difference",
        "pairs",
        "bits per byte better (95 %)",
        "alpha",
        "e-value",
        "",
        "because",
    ]
    return table(head, rows)


def proposers_figure(told: History) -> Figure:
    """Decisions by kind of proposer and outcome."""
    kinds = sorted({d.proposer for d in told.decisions})
    data = []
    for outcome, colour in COLOURS.items():
        counts = [
            sum(d.outcome == outcome and d.proposer == kind for d in told.decisions)
            for kind in kinds
        ]
        if any(counts):
            data.append({"x": kinds, "y": counts, "type": "bar", "name": outcome, "marker": {"color": colour}})  # fmt: skip
    return {"data": data, "layout": {
        "barmode": "stack", "yaxis": {**titled("decisions"), "dtick": 1},
        "xaxis": {"type": "category"}}}  # fmt: skip


def _proposers(told: History) -> Table:
    control = told.proposers.get("random")
    rate = control.gain / control.flops if control and control.flops else 0.0
    rows = []
    for name, record in sorted(told.proposers.items()):
        if name == "sealed":
            continue
        earned = record.gain / record.flops if record.flops else 0.0
        against = f"{earned / rate:.2g}" if rate else "random brought nothing" if earned else ""
        rows.append((
            name, record.proposals, record.refused, record.confirmed, record.adopted,
            f"{record.flops:.3g}", f"{record.gain:.3f}", f"{earned * 1e12:.3g}", against,
        ))  # fmt: skip
    head = ["proposer", "proposals", "refused", "confirmed", "adopted", "FLOP", "ln compute gained",
            "gained per 1e12 FLOP", "over random"]  # fmt: skip
    return table(head, rows)


def _planted(told: History) -> Table:
    rows = [
        (PLANTED[kind], found.decided, found.accepted) for kind, found in told.planted().items()
    ]
    return table(["planted", "decided", "accepted"], rows)
