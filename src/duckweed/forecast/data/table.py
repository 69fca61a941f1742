"""The tables of facts: models, decentralised runs, hardware, links, capability, horizons.

Every row carries a date, a source, and its basis: read (stated by the source), computed (from
stated figures by a formula named in the row) or inferred (an estimate on partial evidence).
"""

import csv
import datetime as dt
import math
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec

BASES = ("read", "computed", "inferred")


class TableError(ValueError):
    """A table that cannot be used: says which file and row, and what was expected."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What every row has. `date` is the day it became known to the public."""

    name: str
    date: dt.date
    basis: str
    source: str

    @property
    def year(self) -> float:
        """The date as a decimal year."""
        return year_of(self.date)


class Made(Fact, frozen=True, kw_only=True):
    """A fact about a model, with who made it and who may use it."""

    maker: str
    country: str
    access: str

    @property
    def open(self) -> bool:
        return self.access == "open"


class Model(Made, frozen=True, kw_only=True):
    """A trained model."""

    compute_flop: float | None = None
    """FLOP of its training; None where nobody outside knows."""


class Run(Fact, frozen=True, kw_only=True):
    """A training run over the internet. status: complete, unconfirmed, research, halted."""

    organisation: str
    status: str
    params: float | None = None
    tokens: float | None = None
    compute_flop: float | None = None


class Device(Fact, frozen=True, kw_only=True):
    """A processor. flops_bf16: dense bf16 FLOP/s with fp32 accumulation; price in US dollars."""

    kind: str
    memory_gb: float
    flops_bf16: float
    price_usd: float | None = None


class Link(Fact, frozen=True, kw_only=True):
    """A measured or assumed bandwidth of households. direction: up or down; in Mbit/s."""

    direction: str
    mbps: float


class Score(Made, frozen=True, kw_only=True):
    """A point of the Epoch Capabilities Index."""

    eci: float


class Horizon(Fact, frozen=True, kw_only=True):
    """METR's time horizon: minutes of human work at which the model succeeds half the time."""

    minutes: float


class Stock(Fact, frozen=True, kw_only=True):
    """Cumulative Nvidia shipments in H100 equivalents (5, 50, 95 %)."""

    h100e: float
    low: float
    high: float


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A published rate or lag with its interval; level is the interval's nominal level."""

    name: str
    central: float
    unit: str
    basis: str
    source: str
    low: float | None = None
    high: float | None = None
    level: float | None = None


class Event(Fact, frozen=True, kw_only=True):
    """Something that happened to access."""

    what: str


T = TypeVar("T", bound=msgspec.Struct)
F = TypeVar("F", bound=Fact)


def year_of(date: dt.date) -> float:
    """Decimal year of a date: 2025-07-02 -> 2025.4986."""
    start = dt.date(date.year, 1, 1)
    return date.year + (date - start).days / (dt.date(date.year + 1, 1, 1) - start).days


def date_of(year: float) -> dt.date:
    """The inverse of `year_of`, to the day; years beyond 9998 are cut there."""
    whole = min(math.floor(year), 9998)
    start = dt.date(whole, 1, 1)
    days = (dt.date(whole + 1, 1, 1) - start).days
    return start + dt.timedelta(days=min(days - 1, round((year - whole) * days)))


def parse_date(text: str) -> dt.date:
    """A day (2026-03-10), a month (2026-03) or a year (2026). Raises ValueError with the form."""
    parts = text.strip().split("-")
    try:
        numbers = [int(part) for part in parts]
        if len(numbers) <= 3 and len(parts[0]) == 4:
            return dt.date(*[*numbers, 1, 1][:3])
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{text!r} is no date; expected YYYY-MM-DD, YYYY-MM or YYYY")


def read_table(name: str, kind: type[T]) -> list[T]:
    """The project's own table NAME.csv as rows of `kind`, in the order of the file."""
    path = files("duckweed.forecast").joinpath(f"tables/{name}.csv")
    return parse_rows(path.read_text("utf-8"), kind, f"table {name}")


def parse_rows(text: str, kind: type[T], where: str) -> list[T]:
    """CSV text with a header that names the fields of `kind`. Raises TableError."""
    rows = csv.DictReader(text.splitlines())
    wanted = {field.encode_name for field in msgspec.structs.fields(kind)}
    missing = {f.encode_name for f in msgspec.structs.fields(kind) if f.required}
    missing -= set(rows.fieldnames or ())
    if missing:
        raise TableError(
            f"{where}: no column {', '.join(sorted(missing))}; expected {sorted(wanted)}"
        )
    parsed = []
    for number, row in enumerate(rows, start=2):
        cells: dict[str, Any] = {
            key: value for key, value in row.items() if key in wanted and value
        }
        try:
            parsed.append(msgspec.convert(cells, kind, strict=False))
        except msgspec.ValidationError as error:
            raise TableError(f"{where}, line {number}: {error}") from error
        if cells.get("basis") not in BASES:
            raise TableError(f"{where}, line {number}: basis must be one of {', '.join(BASES)}")
    return parsed


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All tables together, as known on `as_of`."""

    as_of: dt.date
    models: list[Model]
    runs: list[Run]
    devices: list[Device]
    links: list[Link]
    scores: list[Score]
    horizons: list[Horizon]
    stock: list[Stock]
    events: list[Event]
    rates: list[Rate]
    notes: list[str] = []


def known(rows: Iterable[F], as_of: dt.date) -> list[F]:
    """What was known on that day, oldest first."""
    return sorted((row for row in rows if row.date <= as_of), key=lambda row: row.date)


def own_facts(as_of: dt.date) -> Facts:
    """The project's own tables, cut at `as_of`. Raises TableError if nothing is left."""
    facts = Facts(
        as_of=as_of,
        models=known(read_table("models", Model), as_of),
        runs=known(read_table("runs", Run), as_of),
        devices=known(read_table("hardware", Device), as_of),
        links=known(read_table("bandwidth", Link), as_of),
        scores=known(read_table("capability", Score), as_of),
        horizons=known(read_table("horizon", Horizon), as_of),
        stock=known(read_table("installed", Stock), as_of),
        events=known(read_table("events", Event), as_of),
        rates=read_table("rates", Rate),
    )
    if sum(model.compute_flop is not None for model in facts.models) < 3:
        first = read_table("models", Model)[0]
        raise TableError(
            f"fewer than three models with known compute were published by {as_of}; "
            f"the table starts with {first.name} on {first.date}. Choose a later --as-of"
        )
    return facts


def running_best(
    rows: Sequence[F], value: Callable[[F], float | None], margin: float = 0.0
) -> list[F]:
    """The rows that beat everything before them by more than `margin` (record holders)."""
    best = -math.inf
    kept: list[F] = []
    for row in sorted(rows, key=lambda r: r.date):
        score = value(row)
        if score is not None and score > best + margin:
            best, kept = score, [*kept, row]
    return kept


def running_top(rows: Sequence[Model], rank: int) -> list[Model]:
    """Models that were among the `rank` largest by compute when they appeared (Epoch's rule)."""
    seen: list[float] = []
    kept = []
    for row in sorted(rows, key=lambda r: r.date):
        if row.compute_flop is None:
            continue
        if sum(other >= row.compute_flop for other in seen) < rank:
            kept.append(row)
        seen.append(row.compute_flop)
    return kept


def source_list(facts: Facts) -> list[tuple[str, int]]:
    """Every source named in the tables and how many rows rest on it, most used first."""
    counts: dict[str, int] = {}
    for rows in (
        facts.models,
        facts.runs,
        facts.devices,
        facts.links,
        facts.scores,
        facts.horizons,
        facts.stock,
        facts.events,
        facts.rates,
    ):
        for row in rows:
            counts[row.source] = counts.get(row.source, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def read_text(path: Path) -> str:
    """A text file, or a TableError that says what is wrong with the path."""
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise TableError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not a text file; expected CSV in UTF-8") from error
