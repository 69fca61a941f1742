"""The forecast as one self-contained page: fans, the race with sliders, the map, claims, sources.

The curves under the sliders are those of `duckweed.forecast.grid`: a slider stands at values for
which the program has computed the race, and the page only picks.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from duckweed.forecast import grid
from duckweed.forecast.claims import Claim, percent
from duckweed.forecast.data.table import Facts, source_list
from duckweed.forecast.outcome import Path, Regimes, explain, paths, regime, regimes
from duckweed.forecast.outlook import DEEPSEEK_V3, Fits, Outlook, changed, fit_all
from duckweed.forecast.scenario import PRESETS
from duckweed.forecast.setting import Settings
from duckweed.pages.choice import Axis, Choice, Curve, Sentence
from duckweed.pages.page import Figure, Table, page, table, templates, titled

HORIZON = 2040.0
COLOURS = {"frontier": "47,158,99", "china_open": "217,130,43", "decentralised": "59,125,216"}


def forecast_page(
    facts: Facts, settings: Settings, result: Outlook, claims: Sequence[Claim]
) -> str:
    """The whole page as a string."""
    fits = fit_all(facts, settings)
    base = changed(PRESETS["essay"], settings.race)
    at_once = changed(PRESETS["peers"], settings.race)
    chart = regimes(at_once)
    figures = {
        "compute": compute_figure(fits),
        "lake": lake_figure(),
        "race": race_figure(),
        "fan": fan_figure(paths(base), paths(at_once)),
        "map": map_figure(chart),
    }
    crossings = grid.crossings(fits, HORIZON)
    choices = [race_choice(grid.races(base))]
    if crossings is not None:
        choices.append(crossing_choice(crossings, fits.now, len(figures["compute"]["data"]) - 2))
    return page(
        "forecast.html",
        "duckweed forecast",
        figures,
        result=result,
        verdicts=table(
            ["", "claim", "verdict", "because"],
            [(c.number, c.text, c.verdict, c.because) for c in claims],
        ),
        choices=[msgspec.to_builtins(choice) for choice in choices],
        horizon=chart.horizon,
        claims=[(c, table(["", ""], c.numbers)) for c in claims],
        growth=growth(result),
        held=held(result),
        sways=table(
            ["parameter", "interval", "at the low end", "at the high end"],
            [
                (s.name, f"{s.low:g} to {s.high:g}", percent(s.at_low), percent(s.at_high))
                for s in result.sways
            ],
        ),
        parameters=table(["parameter", "value", "unit", "reason", "source"], explain(base)),
        sources=table(["source", "rows"], source_list(facts)),
    )


def claims_markdown(result: Outlook, claims: Sequence[Claim], command: str) -> str:
    """The claims as a page of the documentation, which says what made it."""
    made = templates().get_template("claims.md")
    return made.render(result=result, claims=claims, command=command)


# --- what the sliders choose


def crossing_choice(found: grid.Crossings, now: float, first: int) -> Choice:
    """Growth of the frontier and of decentralised records. first: the trace of the frontier's curve,
    after which that of decentralised records comes."""

    def when(year: float) -> str:
        if math.isinf(year):
            return "never (before 2100)"
        return "now" if year <= now else f"in {math.floor(year)}"

    doubling = [12 * math.log(2) / math.log(growth) for growth in grid.FRONTIER]
    says = []
    for i, meets in enumerate(found.meets):
        of_frontier, of_crowd = divmod(i, len(found.passes))
        says.append(
            f"decentralised training reaches the frontier {when(meets)}, and DeepSeek-V3's compute "
            f"{when(found.passes[of_crowd])}. The frontier doubles every "
            f"{doubling[of_frontier]:.1f} months."
        )
    lake = [
        f"At {growth:g}x a year the frontier doubles every {months:.1f} months. Whoever is a "
        f"thousandfold behind is ten doublings behind: {10 * months / 12:.1f} years at that pace."
        for growth, months in zip(grid.FRONTIER, doubling, strict=True)
    ]
    fades = [f"{years:g}" if math.isfinite(years) else "never" for years in grid.FADES]
    return Choice(
        "compute",
        [
            _axis("frontier grows (x a year)", grid.FRONTIER, 4.6),
            _axis("decentralised grows now (x a year)", grid.CROWD, 7.0),
            Axis("its growth fades over (years)", fades, fades.index("never")),
        ],
        found.years,
        [
            Curve(first, [0], _rows(10**found.frontier)),
            Curve(first + 1, [1, 2], _rows(10**found.crowd)),
        ],
        [Sentence("crossing", [0, 1, 2], says), Sentence("lake-note", [0], lake)],
    )


def race_choice(found: grid.Races) -> Choice:
    """The race of a leader and one follower."""
    lags = grid.combinations(grid.RETURNS, grid.AUTOMATED, grid.LAGS, grid.COMPUTE, grid.LEAKS)[2]
    says = [
        f"a lead of {_months(start)} becomes at most {_span(peak)} of today's progress within a year; "
        f"on the calendar the follower is {_span(lag)} behind after {grid.HORIZON:g} years."
        + (f" The leader diverges at year {gone:.2f}." if math.isfinite(gone) else "")
        for start, peak, lag, gone in zip(
            lags, found.peak, found.lag[:, -1], found.diverges, strict=True
        )
    ]
    every = [0, 1, 2, 3, 4]
    return Choice(
        "race",
        [
            _axis("returns to research r", grid.RETURNS, 1.2),
            _axis("research automated today (share)", grid.AUTOMATED, 0.1),
            _axis("follower's lag at the start (months)", grid.LAGS, 1.0),
            _axis("follower's compute (times the leader's)", grid.COMPUTE, 1.0),
            _axis("leak (share of the leader's progress)", grid.LEAKS, 0.0),
        ],
        [round(time, 3) for time in found.times],
        [
            Curve(0, every, _rows(found.gap)),
            Curve(1, every, _rows(np.maximum(found.lag, 1e-3))),
            Curve(2, [0, 1], _rows(found.front)),
        ],
        [Sentence("race-says", every, says)],
    )


def _axis(label: str, values: Sequence[float], start: float) -> Axis:
    return Axis(label, [f"{value:g}" for value in values], list(values).index(start))


def _rows(values: Any) -> list[list[float]]:
    """Three significant digits: finer than a screen."""
    return [[float(f"{value:.3g}") for value in row] for row in values]


def _months(count: float) -> str:
    return f"{count:g} month{'' if count == 1 else 's'}"


def _span(years: float) -> str:
    return f"{12 * years:.1f} months" if years < 1 else f"{years:.1f} years"


# --- tables


def growth(result: Outlook) -> Table:
    """Growth per year of every trend."""
    rows = [
        (
            r.label,
            f"{r.growth[1]:.3g}",
            f"{r.growth[0]:.3g} to {r.growth[2]:.3g}",
            r.form,
            f"{r.points}{' (fewer than five)' if r.few else ''}",
            f"{r.first} to {r.last}",
        )
        for r in result.trends
    ]
    return table(["series", "median", "80 % interval", "form", "points", "from, to"], rows)


def held(result: Outlook) -> Table:
    """How each form would have done on years that it had not seen."""
    rows = [
        (
            key,
            f"{t.cut:.0f}",
            t.form,
            f"{t.seen}/{t.later}",
            f"{t.error:.2f}",
            "-" if math.isnan(t.inside) else f"{100 * t.inside:.0f} %",
        )
        for key, tests in result.held.items()
        for t in tests
    ]
    return table(["series", "cut", "form", "seen/later", "mean error", "in 80 %"], rows)


# --- plots


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
            _line(
                years,
                high,
                "",
                {"width": 0},
                showlegend=False,
                hoverinfo="skip",
                fill="tonexty",
                fillcolor=f"rgba({colour},0.15)",
            ),
            _line(years, middle, trend.series.label, line | {"dash": "dot"}),
            {
                "x": trend.series.t,
                "y": [10**y for y in trend.series.y],
                "text": trend.series.names,
                "mode": "markers",
                "marker": line,
                "showlegend": False,
                "name": trend.series.label,
            },
        ]
    level = [10**DEEPSEEK_V3] * 2
    data.append(
        {
            "x": [2019, HORIZON],
            "y": level,
            "mode": "lines",
            "name": "DeepSeek-V3",
            "line": {"dash": "dash", "width": 1},
        }
    )
    data += [
        {"x": [], "y": [], "mode": "lines", "name": f"chosen: {key}", "line": {"width": 3}}
        for key in ("frontier", "decentralised")
    ]
    return {
        "data": data,
        "layout": {
            "xaxis": {**titled("year"), "range": [2019, HORIZON]},
            "yaxis": {
                **titled("training compute (FLOP)"),
                "type": "log",
                "range": [18, 36],
                "exponentformat": "power",
                "dtick": 3,
            },
            "legend": {"orientation": "h", "y": -0.25},
        },
    }


def _line(x: Any, y: Any, name: str, line: dict[str, Any], **more: Any) -> dict[str, Any]:
    values = [float(f"{10**v:.4g}") for v in y]
    return {
        "x": [round(float(v), 3) for v in x],
        "y": values,
        "name": name,
        "mode": "lines",
        "line": line,
        **more,
    }


def lake_figure() -> Figure:
    """Duckweed that doubles daily and fills the lake on day 30: most of it happens at the end."""
    days = list(range(1, 31))
    cover = [100 * 2.0 ** (day - 30) for day in days]
    return {
        "data": [
            {
                "x": days,
                "y": cover,
                "type": "bar",
                "name": "share of the lake",
                "hovertemplate": "day %{x}: %{y:.4f} %<extra></extra>",
            }
        ],
        "layout": {"xaxis": titled("day"), "yaxis": titled("lake covered (%)")},
    }


def race_figure() -> Figure:
    """Empty curves that the sliders fill (`race_choice`): distance in progress, and lag on the calendar."""
    return {
        "data": [
            {"x": [], "y": [], "mode": "lines", "name": "progress gap (years of today's progress)"},
            {"x": [], "y": [], "mode": "lines", "name": "lag on the calendar (years)"},
            {
                "x": [],
                "y": [],
                "mode": "lines",
                "name": "leader's progress since the start (years)",
                "line": {"dash": "dot"},
            },
        ],
        "layout": {
            "xaxis": titled("years from the start"),
            "yaxis": {**titled("years"), "type": "log", "exponentformat": "none"},
        },
    }


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
            {
                "x": path.times,
                "y": high,
                "mode": "lines",
                "line": {"width": 0},
                "fill": "tonexty",
                "fillcolor": f"rgba({colour},0.15)",
                "showlegend": False,
            },
            {"x": path.times, "y": middle, "mode": "lines", "line": line, "name": label},
        ]
    return {
        "data": data,
        "layout": {
            "xaxis": titled("years from the start"),
            "yaxis": {
                **titled("gap (years of today's progress)"),
                "type": "log",
                "exponentformat": "none",
            },
        },
    }


def map_figure(chart: Regimes) -> Figure:
    """The regime map: one heat map per share of compute, colour by the gap at the horizon."""
    data, layout, count = [], {}, len(chart.compute)
    for i, share in enumerate(chart.compute):
        gap = np.array(chart.gap[i])
        names = [[regime(g, chart.start) for g in row] for row in chart.gap[i]]
        axis = str(i + 1) if i else ""
        data.append(
            {
                "type": "heatmap",
                "x": chart.returns,
                "y": chart.leak,
                "text": names,
                "z": np.round(np.log10(np.maximum(gap, 1e-3)), 3).tolist(),
                "zmin": -2,
                "zmax": 1,
                "xaxis": "x" + axis,
                "yaxis": "y" + axis,
                "showscale": i == count - 1,
                "colorscale": "YlOrRd",
                "reversescale": True,
                "colorbar": {
                    **titled("gap (years)"),
                    "tickvals": [-2, -1, 0, 1],
                    "ticktext": ["0.01", "0.1", "1", "10"],
                },
                "hovertemplate": "returns %{x:.2f}, leak %{y:.2f}: %{text}<extra></extra>",
            }
        )
        layout["xaxis" + axis] = {
            "domain": [i / count + 0.02, (i + 1) / count - 0.02],
            "type": "log",
            **titled(f"returns (follower has {share:g}x compute)"),
            "tickvals": [0.5, 1, 2, 3],
            "anchor": "y" + axis,
        }
        layout["yaxis" + axis] = {**titled("leak" if not i else ""), "anchor": "x" + axis}
    return {"data": data, "layout": layout}
