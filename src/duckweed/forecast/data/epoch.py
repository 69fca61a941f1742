"""Epoch AI's published CSV files: reading them as they are, and fetching new ones.

Known by their columns: the model lists (all_ai_models, notable, large-scale, frontier) and the
capabilities index. Data: Epoch AI, 'Data on AI Models', epoch.ai, CC-BY 4.0.
"""

import csv
import datetime as dt
import math
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from duckweed.forecast.data.table import (
    Facts,
    Model,
    Score,
    TableError,
    known,
    parse_date,
    read_text,
)

MODEL_COLUMNS = ("Model", "Publication date", "Training compute (FLOP)", "Organization")
SCORE_COLUMNS = ("Model version", "ECI Score", "Release date", "Organization")
URLS = {
    "all_ai_models.csv": "https://epoch.ai/data/all_ai_models.csv",
    "notable_ai_models.csv": "https://epoch.ai/data/notable_ai_models.csv",
    "eci_benchmarks.csv": "https://epoch.ai/data/eci_benchmarks.csv",
}
LARGEST = 64 * 1024 * 1024
"""Bytes: a download beyond this is not one of these files."""

COUNTRIES = {
    "United States of America": "US",
    "China": "CN",
    "Hong Kong": "CN",
    "France": "FR",
    "United Kingdom of Great Britain and Northern Ireland": "UK",
    "Canada": "CA",
}
MAKERS = {
    "Google DeepMind": "Google",
    "DeepMind": "Google",
    "Google Brain": "Google",
    "Meta AI": "Meta",
    "Facebook AI": "Meta",
    "Z.ai (Zhipu AI)": "Zhipu",
    "Zhipu AI": "Zhipu",
}


def with_file(facts: Facts, path: Path) -> Facts:
    """The facts with models or scores replaced by those of an Epoch file, cut at as_of.

    Only language and multimodal models count. Raises TableError for other formats and for files
    in which nothing is left.
    """
    text = read_text(path)
    reader = csv.DictReader(text.splitlines(keepends=True))
    columns = set(reader.fieldnames or ())
    rows = list(reader)
    if set(MODEL_COLUMNS) <= columns:
        models = known(_models(rows, path), facts.as_of)
        _some(models, path, facts.as_of, "language models with known training compute")
        note = f"models: {len(models)} from {path.name} (Epoch AI, CC-BY 4.0)"
        return msgspec.structs.replace(facts, models=models, notes=[*facts.notes, note])
    if set(SCORE_COLUMNS) <= columns:
        scores = known(_scores(rows, path), facts.as_of)
        _some(scores, path, facts.as_of, "models with an index")
        note = f"capability: {len(scores)} scores from {path.name} (Epoch AI, CC-BY 4.0)"
        return msgspec.structs.replace(facts, scores=scores, notes=[*facts.notes, note])
    raise TableError(
        f"{path}: not a file of Epoch AI that this program knows. Expected the columns "
        f"{', '.join(MODEL_COLUMNS)} (models) or {', '.join(SCORE_COLUMNS)} (capabilities index); "
        f"found {', '.join(sorted(columns)[:6]) or 'no header'}"
    )


def _some(rows: Sequence[object], path: Path, as_of: dt.date, what: str) -> None:
    if len(rows) < 3:
        raise TableError(
            f"{path}: {len(rows)} {what} up to {as_of}; at least three are needed. "
            "Is the file complete, and --as-of late enough?"
        )


def _models(rows: Sequence[dict[str, str]], path: Path) -> list[Model]:
    """Language and multimodal models with known compute; rows without a date are left out."""
    found = []
    for number, row in enumerate(rows, start=2):
        compute = _number(row, "Training compute (FLOP)", path, number)
        domain = row.get("Domain") or ""
        language = "Language" in domain or "Multimodal" in domain
        if compute is None or not row["Publication date"] or not language:
            continue
        date = _date(row, "Publication date", path, number)
        country = _country(row, "Country (of organization)")
        found.append(Model(**_made(row, "Model", date, country, path), compute_flop=compute))
    return found


def _scores(rows: Sequence[dict[str, str]], path: Path) -> list[Score]:
    found = []
    for number, row in enumerate(rows, start=2):
        eci = _number(row, "ECI Score", path, number)
        if eci is None or not row["Release date"]:
            continue
        date = _date(row, "Release date", path, number)
        made = _made(row, "Model version", date, _country(row, "Country"), path)
        found.append(Score(**made, eci=eci))
    return found


def _made(
    row: dict[str, str], name: str, date: dt.date, country: str, path: Path
) -> dict[str, Any]:
    """The fields of `Made`. name: the column of the model's name."""
    return {
        "name": row[name].strip(),
        "date": date,
        "maker": _maker(row),
        "country": country,
        "access": _access(row),
        "basis": "read",
        "source": f"Epoch AI, {path.name}",
    }


def _number(row: dict[str, str], column: str, path: Path, line: int) -> float | None:
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise TableError(f"{path}, row {line}: {column} is {text!r}; expected a positive number")
    return value


def _date(row: dict[str, str], column: str, path: Path, line: int) -> dt.date:
    try:
        return parse_date(row[column])
    except ValueError as error:
        raise TableError(f"{path}, row {line}: {error}") from error


def _maker(row: dict[str, str]) -> str:
    first = (row.get("Organization") or "").split(",")[0].strip()
    return MAKERS.get(first, first)


def _country(row: dict[str, str], column: str) -> str:
    first = (row.get(column) or "").split(",")[0].strip()
    return COUNTRIES.get(first, first)


def _access(row: dict[str, str]) -> str:
    access = row.get("Model accessibility") or ""
    return "open" if access.startswith("Open weights") else "closed"


class Change(msgspec.Struct, frozen=True):
    """What a refresh did to one file: rows before and after, names that are new or gone."""

    file: str
    before: int
    after: int
    new: list[str]
    gone: list[str]


def refresh(folder: Path, urls: dict[str, str] | None = None, timeout: float = 60) -> list[Change]:
    """Download Epoch's files into `folder`; the only function of the forecast that needs the
    network. A file replaces its forerunner only when all of them came and could be read."""
    urls = URLS if urls is None else urls
    fetched = {name: _fetch(url, timeout) for name, url in urls.items()}
    names = {name: _names(text, name) for name, text in fetched.items()}
    folder.mkdir(parents=True, exist_ok=True)
    changes = []
    for name, text in fetched.items():
        path = folder / name
        old = _names(read_text(path), name) if path.exists() else []
        path.write_text(text, "utf-8")
        new = [n for n in names[name] if n not in set(old)]
        gone = [n for n in old if n not in set(names[name])]
        changes.append(Change(name, len(old), len(names[name]), new, gone))
    return changes


def _fetch(url: str, timeout: float) -> str:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            raw = answer.read(LARGEST + 1)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise TableError(
            f"could not fetch {url}: {reason}. The forecast works without it, from its own tables; "
            "or download the file by other means and give it with --data"
        ) from error
    if len(raw) > LARGEST:
        raise TableError(
            f"{url} is larger than {LARGEST // 2**20} MiB; that is not the file we know"
        )
    try:
        return str(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TableError(f"{url} is not a text file; expected CSV in UTF-8") from error


def _names(text: str, where: str) -> list[str]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    columns = rows.fieldnames or ()
    key = next((c for c in ("Model", "Model version", "model") if c in columns), None)
    if key is None:
        raise TableError(
            f"{where}: no column of model names; found {', '.join(columns[:6]) or 'none'}"
        )
    return [(row[key] or "").strip() for row in rows]
