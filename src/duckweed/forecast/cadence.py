"""How often records fall, and how far open models and crowds are behind, from the tables alone."""

import datetime as dt
import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from duckweed.forecast.data.table import Fact, Facts, Model, Run, Score, running_best


class Cadence(msgspec.Struct, frozen=True):
    """Days between records (of all makers, or one maker's own bests) within a period."""

    who: str
    since: str
    records: int
    median_days: float


class Gap(msgspec.Struct, frozen=True):
    """The largest of one kind against the largest of another: orders of magnitude, and years
    since the other kind first had as much."""

    chaser: str
    chaser_flop: float
    target: str
    target_flop: float
    orders: float
    years: float | None


class Lag(msgspec.Struct, frozen=True):
    """An open model and how many months before it somebody had reached its score."""

    name: str
    date: dt.date
    eci: float
    months: float


def between(rows: Sequence[Fact]) -> list[int]:
    """Days from each row to the next, records of one day counted once."""
    days = sorted({row.date for row in rows})
    return [(b - a).days for a, b in pairwise(days)]


def record_cadence(scores: Sequence[Score], who: str, since: dt.date) -> Cadence | None:
    """Cadence of records (all makers) or of a maker's own bests; None below two records."""
    mine = [s for s in scores if who == "all makers" or s.maker == who]
    records = [s for s in running_best(mine, lambda s: s.eci) if s.date >= since]
    gaps = between(records)
    if not gaps:
        return None
    return Cadence(who, since.isoformat(), len(records), float(statistics.median(gaps)))


def days_between(models: Sequence[Model], first: str, second: str) -> int | None:
    """Days from one model to another, None if either is unknown. A name may go on: "GPT-3 175B"
    finds Epoch's "GPT-3 175B (davinci)" too, the earliest of several."""
    begins = [[m.date for m in models if m.name.startswith(name)] for name in (first, second)]
    return (min(begins[1]) - min(begins[0])).days if all(begins) else None


def compute_gap(
    chasers: Sequence[Model | Run], targets: Sequence[Model | Run], as_of: dt.date
) -> Gap | None:
    """The distance between the largest of each, by what was known on `as_of`."""
    mine = running_best(chasers, lambda m: m.compute_flop)
    theirs = running_best(targets, lambda m: m.compute_flop)
    if not mine or not theirs:
        return None
    a, b = mine[-1], theirs[-1]
    assert a.compute_flop is not None
    assert b.compute_flop is not None
    reached = [m.date for m in theirs if m.compute_flop and m.compute_flop >= a.compute_flop]
    years = (as_of - reached[0]).days / 365.25 if reached else None
    orders = math.log10(b.compute_flop / a.compute_flop)
    return Gap(a.name, a.compute_flop, b.name, b.compute_flop, orders, years)


def open_lags(scores: Sequence[Score], margin: float = 0.5) -> list[Lag]:
    """For each open-weight record: months since the first model with that score (less a margin
    for the index's noise). 0 where the open model was first."""
    lags = []
    for record in running_best([s for s in scores if s.open], lambda s: s.eci):
        first = min(s.date for s in scores if s.eci >= record.eci - margin)
        months = max(0.0, (record.date - first).days / 30.44)
        lags.append(Lag(record.name, record.date, record.eci, months))
    return lags


def makers(facts: Facts, since: dt.date, least: int = 3) -> list[Cadence]:
    """Cadence of every maker with at least `least` own bests since then, fastest first."""
    names = sorted({s.maker for s in facts.scores})
    found = [c for name in names if (c := record_cadence(facts.scores, name, since))]
    return sorted((c for c in found if c.records >= least), key=lambda c: c.median_days)
