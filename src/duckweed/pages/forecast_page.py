"""The forecast as one self-contained page: fans, the race with sliders, the map, claims, sources.

The curves under the sliders are computed in the page by a port of the formulas in
`duckweed.forecast.law`, `race` and `trend`. The page carries results of the Python code for a few
settings, computes the same when it opens, and says in its last line by how much they differ.
"""

import html
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from duckweed.forecast.claims import Claim, percent
from duckweed.forecast.crossing import dates
from duckweed.forecast.outcome import Path, Regimes, explain, paths, regime, regimes
from duckweed.forecast.outlook import DEEPSEEK_V3, Fits, Outlook, changed, fit_all
from duckweed.forecast.race import run
from duckweed.forecast.scenario import PRESETS, Actor, Scenario, Value, draw
from duckweed.forecast.setting import Settings
from duckweed.forecast.table import Facts, source_list
from duckweed.forecast.trend import CONSUMER_FLOOR, Series, Trend
from duckweed.pages.forecast_script import SCRIPT
from duckweed.pages.page import Figure, figure_slot, page, table

HORIZON = 2040.0
COLOURS = {"frontier": "47,158,99", "china_open": "217,130,43", "decentralised": "59,125,216"}


def forecast_page(
    facts: Facts, settings: Settings, result: Outlook, claims: Sequence[Claim]
) -> str:
    """The whole page as a string."""
    fits = fit_all(facts, settings)
    base = changed(PRESETS["essay"], settings.race)
    essay, now = paths(base), paths(changed(PRESETS["peers"], settings.race))
    chart = regimes(changed(PRESETS["peers"], settings.race))
    figures = {
        "compute": compute_figure(fits),
        "lake": lake_figure(),
        "race": race_figure(),
        "fan": fan_figure(essay, now),
        "map": map_figure(chart),
    }
    reference = json.dumps(reference_results(fits), allow_nan=False)
    body = "".join(
        [
            f"<h1>Where this leaves us</h1><p class=soft>Forecast as of {result.as_of}, from "
            f"{result.models} models, {result.with_compute} with known training compute.</p>",
            "<h2>The essay's claims</h2>",
            table(["", "claim", "verdict", "because"],
                  [(c.number, c.text, c.verdict, c.because) for c in claims]),
            _compute_section(), _lake_section(), _race_section(), _map_section(chart),
            _claims_section(claims), _tables_section(result, base), _sources_section(facts),
            f'<script type="application/json" id="reference">{reference}</script>',
            '<p class=soft id="check"></p>',
        ]
    )  # fmt: skip
    return page("duckweed forecast", body, figures, SCRIPT)


def compute_figure(fits: Fits) -> Figure:
    """Training compute over time: points, medians, and 10 to 90 % bands up to 2040."""
    data: list[dict[str, Any]] = []
    for key, colour in COLOURS.items():
        if key not in fits.trends:
            continue
        trend = fits.trends[key]
        years = np.arange(min(trend.series.t), HORIZON + 0.01, 0.25)
        low, middle, high = np.clip(np.quantile(trend.at(years), [0.1, 0.5, 0.9], axis=0), -5, 60)
        line = {"color": f"rgba({colour},0.9)"}
        data += [
            _line(years, low, "", {"width": 0}, showlegend=False, hoverinfo="skip"),
            _line(years, high, "", {"width": 0}, showlegend=False, hoverinfo="skip", fill="tonexty",
                  fillcolor=f"rgba({colour},0.15)"),
            _line(years, middle, trend.series.label, line | {"dash": "dot"}),
            {"x": trend.series.t, "y": [10**y for y in trend.series.y], "text": trend.series.names,
             "mode": "markers", "marker": line, "showlegend": False, "name": trend.series.label},
        ]  # fmt: skip
    level = [10**DEEPSEEK_V3] * 2
    data.append({"x": [2019, HORIZON], "y": level, "mode": "lines", "name": "DeepSeek-V3",
                 "line": {"dash": "dash", "width": 1}})  # fmt: skip
    data += [{"x": [], "y": [], "mode": "lines", "name": f"yours: {key}", "line": {"width": 3}}
             for key in ("frontier", "decentralised")]  # fmt: skip
    return {"data": data, "layout": {
        "xaxis": {"title": {"text": "year"}, "range": [2019, HORIZON]},
        "yaxis": {"title": {"text": "training compute (FLOP)"}, "type": "log", "range": [18, 36],
                  "exponentformat": "power", "dtick": 3},
        "legend": {"orientation": "h", "y": -0.25}}}  # fmt: skip


def _line(x: Any, y: Any, name: str, line: dict[str, Any], **more: Any) -> dict[str, Any]:
    values = [float(f"{10**v:.4g}") for v in y]
    return {"x": [round(float(v), 3) for v in x], "y": values, "name": name, "mode": "lines",
            "line": line, **more}  # fmt: skip


def lake_figure() -> Figure:
    """Duckweed that doubles daily and fills the lake on day 30: most of it happens at the end."""
    days = list(range(1, 31))
    cover = [100 * 2.0 ** (day - 30) for day in days]
    return {"data": [{"x": days, "y": cover, "type": "bar", "name": "share of the lake",
                      "hovertemplate": "day %{x}: %{y:.4f} %<extra></extra>"}],
            "layout": {"xaxis": {"title": {"text": "day"}},
                       "yaxis": {"title": {"text": "lake covered (%)"}}}}  # fmt: skip


def race_figure() -> Figure:
    """Empty curves that the sliders fill: distance in progress, and lag on the calendar."""
    return {"data": [
        {"x": [], "y": [], "mode": "lines", "name": "progress gap (years of today's progress)"},
        {"x": [], "y": [], "mode": "lines", "name": "lag on the calendar (years)"},
        {"x": [], "y": [], "mode": "lines", "name": "leader's progress since the start (years)",
         "line": {"dash": "dot"}},
    ], "layout": {"xaxis": {"title": {"text": "years from the start"}},
                  "yaxis": {"title": {"text": "years"}, "type": "log",
                            "exponentformat": "none"}}}  # fmt: skip


def fan_figure(essay: Path, now: Path) -> Figure:
    """Progress gap of a follower one month behind, over the uncertain parameters."""
    data: list[dict[str, Any]] = []
    for path, label, colour in (
        (essay, "automation grows from a little", COLOURS["frontier"]),
        (now, "research fully automated at once", COLOURS["china_open"]),
    ):
        low, middle, high = next(iter(path.gap.values()))
        line = {"color": f"rgba({colour},0.9)"}
        data += [
            {"x": path.times, "y": low, "mode": "lines", "line": {"width": 0}, "showlegend": False},
            {"x": path.times, "y": high, "mode": "lines", "line": {"width": 0}, "fill": "tonexty",
             "fillcolor": f"rgba({colour},0.15)", "showlegend": False},
            {"x": path.times, "y": middle, "mode": "lines", "line": line, "name": label},
        ]  # fmt: skip
    return {"data": data, "layout": {
        "xaxis": {"title": {"text": "years from the start"}},
        "yaxis": {"title": {"text": "gap (years of today's progress)"}, "type": "log",
                  "exponentformat": "none"}}}  # fmt: skip


def map_figure(chart: Regimes) -> Figure:
    """The regime map: one heat map per share of compute, colour by the gap at the horizon."""
    data, layout, count = [], {}, len(chart.compute)
    for i, share in enumerate(chart.compute):
        gap = np.array(chart.gap[i])
        names = [[regime(g, chart.start) for g in row] for row in chart.gap[i]]
        axis = str(i + 1) if i else ""
        data.append({
            "type": "heatmap", "x": chart.returns, "y": chart.leak, "text": names,
            "z": np.round(np.log10(np.maximum(gap, 1e-3)), 3).tolist(), "zmin": -2, "zmax": 1,
            "xaxis": "x" + axis, "yaxis": "y" + axis, "showscale": i == count - 1,
            "colorscale": "YlOrRd", "reversescale": True,
            "colorbar": {"title": {"text": "gap (years)"}, "tickvals": [-2, -1, 0, 1],
                         "ticktext": ["0.01", "0.1", "1", "10"]},
            "hovertemplate": "returns %{x:.2f}, leak %{y:.2f}: %{text}<extra></extra>",
        })  # fmt: skip
        layout["xaxis" + axis] = {
            "domain": [i / count + 0.02, (i + 1) / count - 0.02], "type": "log",
            "title": {"text": f"returns (follower has {share:g}x compute)"},
            "tickvals": [0.5, 1, 2, 3], "anchor": "y" + axis,
        }  # fmt: skip
        layout["yaxis" + axis] = {"title": {"text": "leak" if not i else ""}, "anchor": "x" + axis}
    return {"data": data, "layout": layout}


def slider(key: str, label: str, low: float, high: float, step: float, value: float) -> str:
    """A labelled range input whose number stands beside it."""
    return (
        f'<label style="display:inline-block;min-width:20rem;margin:.2rem 1rem .2rem 0">'
        f"<span>{html.escape(label)}: <b id=out-{key}></b></span><br>"
        f'<input type=range id=in-{key} min={low:g} max={high:g} step={step:g} value={value:g} '
        f'style="width:18rem"></label>'
    )  # fmt: skip


def _compute_section() -> str:
    return (
        "<h2>Training compute: who reaches whom</h2>"
        + figure_slot("compute")
        + slider("frontier", "frontier grows (x a year)", 1, 10, 0.1, 4.6)
        + slider("crowd", "decentralised grows now (x a year)", 1, 30, 0.5, 7)
        + slider("fade", "its growth fades over (years; 21 = never)", 1, 21, 1, 21)
        + '<p>With these: <b id="crossing"></b></p><p class=soft>Bands are 10 to 90 % of a '
        "bootstrap (frontier, open weights) or of a Bayesian fit with a prior on the scatter "
        "(decentralised: fewer than five points). When growth fades, 1.2x a year remains, the "
        "growth of consumer FLOP per dollar.</p>"
    )


def _lake_section() -> str:
    return (
        "<h2>What doubling means</h2><p>Duckweed doubles every day and fills the lake on day 30. "
        "On day 29 the lake is half free; on day 25 it is 97 % free. Whoever looks at the share "
        'that is covered sees nothing until it is nearly over.</p><p id="lake-note"></p>'
        + figure_slot("lake")
    )


RACE_SLIDERS = (
    ("returns", "returns to research r", 0.4, 3.6, 0.05, 1.2),
    ("speedup", "speed-up at full automation", 1, 32, 0.5, 8),
    ("parallel", "parallelism exponent", 0.15, 0.6, 0.01, 0.3),
    ("ceiling", "ceiling (years of progress)", 2, 20, 0.5, 9),
    ("start", "research automated today (share)", 0, 1, 0.05, 0.1),
    ("span", "until fully automated (years of progress)", 0.2, 6, 0.1, 2),
    ("lag", "follower's lag at the start (months)", 0.5, 24, 0.5, 1),
    ("compute", "follower's compute (log10, times the leader's)", -3, 0, 0.1, 0),
    ("leak", "leak (share of the leader's progress)", 0, 1, 0.05, 0),
    ("delay", "leak arrives after (months)", 0.5, 12, 0.5, 4),
    ("imitate", "imitation is cheaper (times)", 1, 16, 0.5, 1),
    ("horizon", "years shown", 1, 10, 1, 3),
)


def _race_section() -> str:
    return (
        "<h2>The race: what a month's lead becomes</h2>"
        + figure_slot("race")
        + "".join(slider(*spec) for spec in RACE_SLIDERS)
        + '<p>With these: <b id="race-says"></b></p>'
        + "<p>The same over the uncertain parameters (median and 10 to 90 %):</p>"
        + figure_slot("fan")
    )


def _map_section(chart: Regimes) -> str:
    return (
        f"<h2>The map: when a month's lead grows</h2><p>Research fully automated at once, central "
        f"values for the rest, after {chart.horizon:g} years (or the largest gap on the way where "
        "it reached a year); what leaks arrives after a month. Regimes: catches up (gap below half "
        "of the start), keeps pace (up to one and a half), falls behind (up to a year), left in "
        "the dust (a year and more).</p>" + figure_slot("map")
    )


def _claims_section(claims: Sequence[Claim]) -> str:
    parts = ["<h2>The claims in numbers</h2>"]
    for c in claims:
        parts.append(f"<h3>{c.number}. {c.verdict}</h3><p><i>{html.escape(c.text)}</i></p>")
        parts.append(table(["", ""], c.numbers) + f"<p>{html.escape(c.depends)}</p>")
    return "".join(parts)


def _tables_section(result: Outlook, base: Scenario) -> str:
    growth = [
        (r.label, f"{r.growth[1]:.3g}", f"{r.growth[0]:.3g} to {r.growth[2]:.3g}", r.form,
         f"{r.points}" + (" (fewer than five)" if r.few else ""), f"{r.first} to {r.last}")
        for r in result.trends
    ]  # fmt: skip
    tests = [
        (key, f"{t.cut:.0f}", t.form, f"{t.seen}/{t.later}", f"{t.error:.2f}",
         "-" if math.isnan(t.inside) else f"{100 * t.inside:.0f} %")
        for key, held in result.held.items() for t in held
    ]  # fmt: skip
    sways = [(s.name, f"{s.low:g} to {s.high:g}", percent(s.at_low), percent(s.at_high))
             for s in result.sways]  # fmt: skip
    return (
        "<h2>Growth per year</h2>"
        + table(["series", "median", "80 % interval", "form", "points", "from, to"], growth)
        + "<h2>How the fits would have done</h2>"
        + table(["series", "cut", "form", "seen/later", "mean error", "in 80 %"], tests)
        + "<h2>Parameters of the race</h2><p>P(a month becomes a year within a year), each "
        "parameter alone at the ends of its interval:</p>"
        + table(["parameter", "interval", "at the low end", "at the high end"], sways)
        + table(["parameter", "value", "unit", "reason", "source"], explain(base))
    )


def _sources_section(facts: Facts) -> str:
    return (
        "<h2>Sources</h2><p>Model data: Epoch AI, 'Data on AI Models', epoch.ai, CC-BY 4.0, and "
        "as named in each row.</p>" + table(["source", "rows"], source_list(facts))
    )


def reference_results(fits: Fits) -> dict[str, Any]:
    """Results of the Python code that the page computes again: races, crossings, levels."""
    settings: list[dict[str, float]] = [{}, {"start": 1.0, "returns": 2.0}, {"returns": 0.7},
                {"start": 1.0, "compute": -1.5, "leak": 0.7, "imitate": 4.0, "lag": 8.0},
                {"start": 1.0, "returns": 3.0, "parallel": 0.6, "speedup": 32.0}]  # fmt: skip
    defaults = {key: value for key, *_, value in RACE_SLIDERS}
    races = []
    for change in settings:
        values = defaults | change
        gap, lag = reference_race(values)
        races.append({"set": values, "gap": gap, "lag": lag})
    levels: dict[str, float] = {
        key: float(np.median(fits.trends[key].at(np.array([fits.now]))))
        for key in ("frontier", "decentralised", "china_open")
        if key in fits.trends
    }
    crossings = [
        {"set": [frontier, crowd, fade], "year": reference_crossing(levels, fits.now, frontier, crowd, fade)}
        for frontier, crowd, fade in ((4.6, 7.0, 21.0), (5.0, 20.0, 21.0), (2.0, 20.0, 3.0))
    ]  # fmt: skip
    return {"races": races, "crossings": crossings, "levels": levels, "now": fits.now,
            "floor": CONSUMER_FLOOR, "v3": DEEPSEEK_V3}  # fmt: skip


def reference_race(values: dict[str, float]) -> tuple[list[float], list[float]]:
    """Gap and lag (years) at every twelfth of the horizon for slider values."""
    world: dict[str, Value] = {
        "returns": values["returns"], "speedup": values["speedup"], "parallel": values["parallel"],
        "ceiling": values["ceiling"], "automation_start": values["start"],
        "automation_full": 1.0, "automation_span": values["span"],
    }  # fmt: skip
    follower = Actor("follower", compute=10 ** values["compute"], lag=values["lag"],
                     leak=values["leak"], delay=values["delay"], imitate=values["imitate"])  # fmt: skip
    scenario = Scenario("page", "", [Actor("leader"), follower], world, values["horizon"])
    drawn = draw(scenario, 1)
    fine = 16
    times = [values["horizon"] * (i + 1) / (12 * fine) for i in range(12 * fine)]
    track = run(drawn.law, drawn.actors, times, step=0.05)
    gap = track.gap_years(drawn.share, drawn.compute_rate, drawn.actors.behind)
    places = slice(fine - 1, None, fine)
    return gap[places, 1, 0].tolist(), track.lag[places, 1, 0].tolist()


def reference_crossing(
    levels: dict[str, float], now: float, frontier: float, crowd: float, fade: float
) -> float | None:
    """The year in which curves with the sliders' growth meet, None for never."""
    if not {"frontier", "decentralised"} <= set(levels):
        return None
    one, zero = np.ones(1), np.zeros(1)
    empty = Series(key="", label="", unit="", t=[now], y=[0.0], names=[""])
    tau, floor = (math.inf, 0.0) if fade > 20 else (fade, CONSUMER_FLOOR)
    chaser = Trend(empty, "set", now, one * levels["decentralised"],
                   one * (math.log10(crowd) - floor), one * tau, one * floor, zero)  # fmt: skip
    target = Trend(empty, "set", now, one * levels["frontier"], one * math.log10(frontier),
                   one * math.inf, zero, zero)  # fmt: skip
    year = float(dates(chaser, target, now)[0])
    return year if math.isfinite(year) else None
