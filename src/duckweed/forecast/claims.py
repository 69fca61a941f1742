"""The essay's five claims, each confirmed, refuted or made conditional by numbers of the outlook.

The thresholds stand here, in one place, so that nobody has to guess what "nowhere near" meant.
"""

import statistics

import msgspec

from duckweed.forecast.crossing import Crossing
from duckweed.forecast.data.table import date_of
from duckweed.forecast.outcome import Distance
from duckweed.forecast.outlook import Outlook
from duckweed.forecast.scenario import PATHS

YEARS_APART = 24
"""Months: what "years apart" has to exceed."""
QUARTER = 135
"""Days: "every three months or so" with half again as much room."""
FAR = 1.0
"""Orders of magnitude: from ten times on, it is "nowhere near"."""
SURE, UNLIKELY = 0.9, 0.1
"""A claim about the future is confirmed above 90 % and refuted below 10 %."""

CONFIRMED, REFUTED, CONDITIONAL, UNKNOWN = "confirmed", "refuted", "conditional", "no data"


class Claim(msgspec.Struct, frozen=True):
    """verdict: one of the words above; because: one sentence; numbers: (what, value) pairs;
    depends: what would change the verdict."""

    number: int
    text: str
    verdict: str
    because: str
    numbers: list[tuple[str, str]]
    depends: str


def claims(result: Outlook) -> list[Claim]:
    """All five, in the essay's order."""
    return [cadence(result), feasible(result), dust(result), takeoff(result), paradigm(result)]


def verdict_of(chance: float) -> str:
    """Confirmed above 90 %, refuted below 10 %, conditional between."""
    if chance > SURE:
        return CONFIRMED
    return REFUTED if chance < UNLIKELY else CONDITIONAL


def cadence(result: Outlook) -> Claim:
    text = (
        "Models used to come years apart (GPT-3 to GPT-4); now one comes every three months or so."
    )
    days, recent = result.cadence.gpt3_to_gpt4_days, result.cadence.recent
    if days is None or recent is None or not result.cadence.makers:
        return _no_data(1, text, "GPT-3 and GPT-4, and records of the last two years")
    months, fastest = days / 30.44, result.cadence.makers[0]
    holds = months >= YEARS_APART and recent.median_days <= QUARTER
    numbers = [("GPT-3 to GPT-4", f"{months:.1f} months")]
    if result.cadence.before:
        numbers.append(
            ("all makers before", f"a record every {result.cadence.before.median_days:.0f} days")
        )
    numbers.append(
        (
            f"all makers since {recent.since}",
            f"a record every {recent.median_days:.0f} days ({recent.records} records)",
        )
    )
    numbers += [
        (c.who, f"its own best every {c.median_days:.0f} days ({c.records})")
        for c in result.cadence.makers
    ]
    because = (
        f"GPT-3 to GPT-4 took {months:.0f} months; since {recent.since} the record has fallen every "
        f"{recent.median_days:.0f} days, and {fastest.who} beats its own best every "
        f"{fastest.median_days:.0f}."
    )
    return Claim(1, text, CONFIRMED if holds else REFUTED, because, numbers, _pace(result))


def _pace(result: Outlook) -> str:
    pace = [row for row in result.trends if row.key == "capability"]
    if not pace:
        return ""
    low, middle, high = pace[0].growth
    return (
        f"A record is not a generation: all of them together move Epoch's index by {middle:.0f} points "
        f"a year ({low:.0f} to {high:.0f})."
    )


def feasible(result: Outlook) -> Claim:
    text = (
        "Decentralised training is feasible, but nowhere near the frontier, "
        "nor near Chinese open-weight models."
    )
    frontier, china = result.frontier_gap, result.china_gap
    if frontier is None or china is None:
        return _no_data(2, text, "a completed decentralised run with known compute")
    far = (frontier.orders >= FAR, china.orders >= FAR)
    verdict = CONFIRMED if all(far) else CONDITIONAL if any(far) else REFUTED
    because = (
        f"{frontier.chaser} ({frontier.chaser_flop:.1e} FLOP) was trained over the internet; "
        f"{frontier.target} took {10**frontier.orders:,.0f} times as much, "
        f"{china.target} {10**china.orders:,.0f} times."
    )
    numbers = [
        ("behind the frontier", _gap(frontier.orders, frontier.years)),
        ("behind Chinese open weights", _gap(china.orders, china.years)),
    ]
    cross = result.crossings.get("china_open")
    if cross:
        numbers.append(("reaches Chinese open weights", when(cross)))
    return Claim(
        2,
        text,
        verdict,
        because,
        numbers,
        f"'Nowhere near' means tenfold here. Against open weights it is {china.orders:.1f} orders of "
        f"magnitude, against the frontier {frontier.orders:.1f}: two different sentences. Compute of "
        "closed models since mid-2025 is unknown, so the frontier's lead is at least this.",
    )


def dust(result: Outlook) -> Claim:
    text = (
        "Better links and consumer hardware may come, but by then the frontier has left "
        "decentralised training in the dust."
    )
    cross = result.crossings.get("frontier")
    rates = {row.key: row for row in result.trends}
    if cross is None:
        return _no_data(3, text, "three decentralised runs with known compute")
    late = 1 - cross.by.get(2035, 1 - cross.never)
    numbers = [("reaches the frontier", when(cross))]
    for key in ("frontier", "decentralised", "consumer", "upload", "download"):
        if key in rates:
            r = rates[key]
            numbers.append(
                (
                    r.label,
                    f"{r.growth[1]:.3g}x a year ({r.growth[0]:.3g} to {r.growth[2]:.3g}; "
                    f"{r.points} points)",
                )
            )
    because = (
        f"The chance that decentralised records reach the frontier by 2030 is {percent(cross.by.get(2030, 0))}, "
        f"by 2035 {percent(cross.by.get(2035, 0))}; that they never do, {percent(cross.never)}."
    )
    return Claim(
        3,
        text,
        verdict_of(late),
        because,
        numbers,
        "Everything hangs on whether the growth of decentralised runs is a start-up effect "
        f"({cross.note or 'few points'}): at a lasting 20x a year against 5x they would catch up in 5.5 "
        "years, at 5x never. Hardware and links alone grow far slower than the frontier; only more "
        "participants can close the gap.",
    )


def takeoff(result: Outlook) -> Claim:
    text = (
        "AI that helps to create AI lets the first pull away: a month's lead becomes years "
        "within a year, because it speeds up the speed of improvement."
    )
    essay, full = result.races["essay"], result.races["forethought"]
    ramp, now = essay.followers[0], full.followers[0]
    numbers = [
        ("automation growing from a little", _chances(ramp)),
        ("research fully automated at once", _chances(now)),
        ("lag on the calendar after a year", f"{12 * ramp.lag[1]:.1f} months (it was 1)"),
    ]
    for part in full.by_returns:
        if part.samples:
            label = f"returns {part.low:g} to {part.high:g}"
            numbers.append(
                (f"fully automated, {label}", f"P(1 year behind) {percent(part.chance[0])}")
            )
    top = result.sways[0] if result.sways else None
    likely = [part.low for part in full.by_returns if part.chance[0] > 0.5]
    edge = f"{likely[0]:g}" if likely else "every value in the table"
    because = (
        f"A month becomes at least a year within a year with probability {percent(ramp.chance[0])} if "
        f"AI's share of research grows gradually and {percent(now.chance[0])} if it does everything at "
        f"once; at least three years with {percent(ramp.chance[1])} and {percent(now.chance[1])}."
    )
    held_by = (
        f" What matters most: {top.name} ({percent(top.at_low)} to {percent(top.at_high)})."
        if top
        else ""
    )
    return Claim(
        4,
        text,
        verdict_of(now.chance[0])
        if verdict_of(now.chance[0]) == verdict_of(ramp.chance[0])
        else CONDITIONAL,
        because,
        numbers,
        f"More likely than not where research is fully automated and returns exceed {edge}. "
        "The distance is in years of "
        "today's progress; on the calendar a follower with the same means stays one month behind. "
        "Twelve times today's speed makes a month a year." + held_by,
    )


def paradigm(result: Outlook) -> Claim:
    text = (
        "Only a fundamentally better paradigm lets the others catch up. "
        "(And access to models can be cut by a government.)"
    )
    base = _follower(result, "collective")
    new, cut = _follower(result, "paradigm"), _follower(result, "cut")
    level = base.ahead
    lags = [lag.months for lag in result.lags[-6:]]
    numbers = [
        (
            "lag of the last open-weight records",
            f"median {statistics.median(lags):.1f} months" if lags else "-",
        ),
        ("open collective after 5 years, no paradigm", _race(base)),
        ("with a new paradigm every 5 years", _race(new)),
        ("with access cut for 2 years", _race(cut)),
        ("with models of paths (extrapolated)", _race(_follower(result, "paths"))),
    ]
    numbers += [(str(event.date), event.what) for event in result.events]
    closer = base.closer
    verdict = REFUTED if level >= 0.5 else CONDITIONAL if closer >= UNLIKELY else CONFIRMED
    because = (
        f"Without a new paradigm an open collective with a hundredth of the compute comes closer on the "
        f"calendar in {percent(closer)} of races, because most progress leaks, but draws level in "
        f"{percent(level)}; with one, in {percent(new.ahead)}."
    )
    return Claim(
        5,
        text,
        verdict,
        because,
        numbers,
        "Not falling behind needs diffusion, not a paradigm; drawing level needs more than diffusion, "
        "and a new paradigm helps the collective only if it finds it (a chance in proportion to its "
        f"effort: {percent(result.races['paradigm'].found_by.get('collective', 0))} of races). Cutting "
        f"access moves the median lag from {12 * base.lag[1]:.0f} to {12 * cut.lag[1]:.0f} months.",
    )


def of_paths(result: Outlook) -> str:
    """What it would change for an open collective to train paths, in one sentence."""
    low, high = PATHS.low, PATHS.high
    return (
        f"If its models are paths (extrapolated: up to 335 million parameters a path they were worth {low:.0f} to {high:.1f} "
        "times the model that one machine holds, at our own 66 thousand no more than that), an open collective is after 5 "
        f"years: {_race(_follower(result, 'paths'))}; without, {_race(_follower(result, 'collective'))}."
    )


def _no_data(number: int, text: str, missing: str) -> Claim:
    return Claim(
        number, text, UNKNOWN, f"The tables as of that date do not hold {missing}.", [], ""
    )


def _follower(result: Outlook, race: str) -> Distance:
    return next(f for f in result.races[race].followers if f.name == "collective")


def percent(chance: float) -> str:
    """Whole per cents; a share of samples that was 0 or 1 is not certainty."""
    if chance < 0.01:
        return "under 1%"
    return "over 99%" if chance > 0.99 else f"{100 * chance:.0f}%"


def _gap(orders: float, years: float | None) -> str:
    return f"{10**orders:,.0f}-fold ({orders:.1f} orders of magnitude)" + (
        f", {years:.1f} years" if years is not None else ""
    )


def when(cross: Crossing) -> str:
    low, middle, high = (_date(d) for d in cross.date)
    return f"{middle} (10 to 90%: {low} to {high}); never by 2100: {percent(cross.never)}"


def _date(year: float | None) -> str:
    return "never" if year is None else str(date_of(year).year)


def _chances(follower: Distance) -> str:
    one, three, ten = (percent(c) for c in follower.chance)
    return f"P(1, 3, 10 years behind) {one}, {three}, {ten}"


def _race(follower: Distance) -> str:
    low, middle, high = (f"{12 * value:.0f}" for value in follower.lag)
    return (
        f"lag {middle} months (10 to 90%: {low} to {high}), closer in {percent(follower.closer)}, "
        f"level in {percent(follower.ahead)}"
    )
