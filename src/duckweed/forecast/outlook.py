"""The whole forecast as one value: trends, gaps, cadence, crossings, races, claims."""

import datetime as dt
import math
from collections.abc import Sequence

import msgspec
import numpy as np

from duckweed.forecast.cadence import (
    Cadence,
    Gap,
    Lag,
    compute_gap,
    days_between,
    makers,
    open_lags,
    record_cadence,
)
from duckweed.forecast.crossing import Crossing, crossing
from duckweed.forecast.data.table import Event, Facts, year_of
from duckweed.forecast.outcome import Outcome, Sway, dependence, outcome
from duckweed.forecast.scenario import PRESETS, Scenario, Value, with_world
from duckweed.forecast.setting import Settings
from duckweed.forecast.trend import (
    Form,
    Held,
    Series,
    Trend,
    TrendError,
    all_series,
    back_test,
    fit,
    with_growth,
)

DRAWS = 4000
DEEPSEEK_V3 = math.log10(3.41e24)
FORM: dict[str, Form] = {"decentralised": "mixed", "china_open": "mixed", "open": "mixed"}
"""All others are steady, which won the back-tests; these have too few points to be tested."""


class Row(msgspec.Struct, frozen=True):
    """One trend for the table. growth: factor (or points) a year, 10, 50, 90 %; points: how many
    it rests on; doubling: months per doubling at the median, None for points a year."""

    key: str
    label: str
    unit: str
    form: str
    points: int
    first: str
    last: str
    growth: tuple[float, ...]
    doubling: float | None
    few: bool


class Cadences(msgspec.Struct, frozen=True):
    gpt3_to_gpt4_days: int | None
    before: Cadence | None
    recent: Cadence | None
    makers: list[Cadence]


class Outlook(msgspec.Struct, frozen=True):
    """Everything the forecast says. Dates as decimal years; None means never or unknown."""

    as_of: dt.date
    models: int
    with_compute: int
    newest: str
    trends: list[Row]
    missing: list[str]
    held: dict[str, list[Held]]
    cadence: Cadences
    frontier_gap: Gap | None
    china_gap: Gap | None
    lags: list[Lag]
    crossings: dict[str, Crossing]
    races: dict[str, Outcome]
    sways: list[Sway]
    events: list[Event]
    notes: list[str]


class Fits(msgspec.Struct, frozen=True):
    """The fitted trends themselves, for crossings and pictures."""

    now: float
    series: dict[str, Series]
    trends: dict[str, Trend]
    missing: list[str]


def fit_all(facts: Facts, settings: Settings = Settings(), draws: int = DRAWS) -> Fits:
    """Fit every series that has enough points; say which have not."""
    series, trends, missing = all_series(facts), {}, []
    for place, (key, points) in enumerate(series.items()):
        form = settings.form.get(key, FORM.get(key, "steady"))
        try:
            trend = fit(points, form, draws, seed=place)
        except TrendError as error:
            missing.append(str(error))
            if key in settings.growth or key in settings.form:
                raise
            continue
        if key in settings.growth:
            trend = with_growth(trend, *settings.growth[key], seed=place)
        trends[key] = trend
    return Fits(year_of(facts.as_of), series, trends, missing)


def crossings(fits: Fits, settings: Settings = Settings()) -> dict[str, Crossing]:
    """Decentralised records against the frontier, Chinese open weights, and DeepSeek-V3."""
    chaser = fits.trends.get("decentralised")
    if chaser is None:
        return {}
    orders = math.log10(settings.gap) if settings.gap else None
    found = {}
    if "frontier" in fits.trends:
        target = fits.trends["frontier"]
        found["frontier"] = crossing(chaser, target, fits.now, "the frontier", orders)
    if "china_open" in fits.trends:
        target = fits.trends["china_open"]
        found["china_open"] = crossing(chaser, target, fits.now, "Chinese open weights")
    found["deepseek_v3"] = crossing(chaser, DEEPSEEK_V3, fits.now, "DeepSeek-V3's compute")
    return found


def outlook(
    facts: Facts,
    settings: Settings = Settings(),
    returns: Value | None = None,
    samples: int = 20_000,
) -> Outlook:
    """Compute everything. returns: measured returns to research in place of the prior."""
    fits = fit_all(facts, settings)
    runs = [run for run in facts.runs if run.status == "complete"]
    china = [m for m in facts.models if m.open and m.country == "CN"]
    changes: dict[str, Value] = dict(settings.race)
    if returns is not None:
        changes.setdefault("returns", returns)
    races = {
        name: outcome(changed(PRESETS[name], changes), samples)
        for name in ("essay", "forethought", "collective", "cut", "paradigm", "paths")
    }
    newest = facts.models[-1]
    return Outlook(
        as_of=facts.as_of,
        models=len(facts.models),
        with_compute=sum(m.compute_flop is not None for m in facts.models),
        newest=f"{newest.name} ({newest.date})",
        trends=[row(trend, fits.now) for trend in fits.trends.values()],
        missing=fits.missing,
        held=held(fits),
        cadence=cadences(facts),
        frontier_gap=compute_gap(runs, facts.models, facts.as_of),
        china_gap=compute_gap(runs, china, facts.as_of),
        lags=open_lags(facts.scores),
        crossings=crossings(fits, settings),
        races=races,
        sways=dependence(changed(PRESETS["essay"], changes), min(samples, 2000)),
        events=facts.events,
        notes=list(facts.notes),
    )


def changed(scenario: Scenario, changes: dict[str, Value]) -> Scenario:
    """The scenario with those changes that concern it (an actor it lacks is no error here)."""
    names = {actor.name for actor in scenario.actors}
    mine = {k: v for k, v in changes.items() if "." not in k or k.split(".")[0] in names}
    return with_world(scenario, mine)


def row(trend: Trend, now: float) -> Row:
    """One line of the table of trends; growth at the last point, not at an extrapolated one."""
    series = trend.series
    last = max(series.t)
    growth = trend.factor(now if trend.set_by_user else last)
    rate = float(np.median(trend.growth(last)))
    months = 12 * math.log10(2) / rate if series.log and rate > 0 else None
    return Row(
        series.key,
        series.label,
        series.unit,
        trend.form,
        len(series.t),
        series.names[0],
        series.names[-1],
        tuple(growth),
        months,
        series.few,
    )


def held(fits: Fits) -> dict[str, list[Held]]:
    """Back-tests of the series that have years to hold out."""
    last = int(fits.now)
    cuts = [float(year) for year in range(last - 4, last + 1)]
    keys = [k for k in ("frontier", "top10", "horizon", "capability") if k in fits.series]
    tests = {key: back_test(fits.series[key], cuts) for key in keys}
    return {key: test for key, test in tests.items() if test}


def cadences(facts: Facts) -> Cadences:
    """How often records fall: two years before the last two, and since."""
    since = facts.as_of.replace(year=facts.as_of.year - 2, day=1, month=1)
    since = since.replace(year=since.year + 1)
    old = [s for s in facts.scores if s.date < since]
    before = record_cadence(old, "all makers", dt.date(2023, 1, 1)) if old else None
    return Cadences(
        days_between(facts.models, "GPT-3 175B", "GPT-4"),
        before,
        record_cadence(facts.scores, "all makers", since),
        makers(facts, since),
    )


def csv_rows(result: Outlook) -> Sequence[Sequence[object]]:
    """The forecast as a flat table: kind, what, quantity, value."""
    rows: list[Sequence[object]] = [("kind", "what", "quantity", "value")]
    for trend in result.trends:
        for name, value in zip(("low 10%", "median", "high 90%"), trend.growth, strict=True):
            rows.append(("growth per year", trend.label, name, f"{value:.4g}"))
        rows.append(("growth per year", trend.label, "points", trend.points))
    for cross in result.crossings.values():
        what = f"{cross.chaser} reach {cross.target}"
        for name, date in zip(("10%", "50%", "90%"), cross.date, strict=True):
            rows.append(("crossing", what, name, "never" if date is None else f"{date:.2f}"))
        rows += [("crossing", what, f"P(by {y})", f"{p:.4f}") for y, p in cross.by.items()]
        rows.append(("crossing", what, "P(never by 2100)", f"{cross.never:.4f}"))
    for race in result.races.values():
        for follower in race.followers:
            what = f"{race.scenario}: {follower.name}"
            for years, chance in zip((1, 3, 10), follower.chance, strict=True):
                rows.append(
                    ("race", what, f"P({years} years behind within a year)", f"{chance:.4f}")
                )
    return rows
