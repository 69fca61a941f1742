"""The raw lines of bench/results/hostile.json as tables."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "hostile.json"
KEYS = ("rule", "attack", "hostile", "data", "seed")

Row = dict[str, Any]


def read(results: Path = RESULTS) -> list[Row]:
    """All runs so far, one JSON object a line."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text("utf-8").splitlines() if line]


def references(rows: list[Row]) -> dict[tuple[int, str, int], float]:
    """(hostile, data, seed) -> bits per byte of the honest run with as many honest peers."""
    return {
        (row["hostile"], row["data"], row["seed"]): row["bits"]
        for row in rows
        if row["attack"] == "none" and row["rule"] == "mean"
    }


def text(rows: list[Row]) -> str:
    """Per rule and data: loss above the honest run's with as many honest peers, in per cent, as mean (and
    the least and the greatest of the seeds)."""
    honest = references(rows)
    found: dict[tuple[str, str], dict[tuple[str, int], list[Row]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        if (row["hostile"], row["data"], row["seed"]) in honest:
            found[row["rule"], row["data"]][row["attack"], row["hostile"]].append(row)
    counts = sorted({row["hostile"] for row in rows})
    lines = ["| rule | data | attack | " + " | ".join(f"{n} of 10" for n in counts) + " |"]
    lines.append("| --- " * (3 + len(counts)) + "|")
    for (rule, data), cells in found.items():
        for attack in dict.fromkeys(attack for attack, _ in cells):
            shown = [_shown(cells.get((attack, n), []), honest) for n in counts]
            lines.append(f"| {rule} | {data} | {attack} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _shown(rows: list[Row], honest: dict[tuple[int, str, int], float]) -> str:
    if not rows:
        return ""
    excess = [
        100 * (row["bits"] / honest[row["hostile"], row["data"], row["seed"]] - 1)
        if row["bits"] is not None
        else float("inf")
        for row in rows
    ]
    spread = f" ({min(excess):+.2f} to {max(excess):+.2f})" if len(rows) > 1 else ""
    return f"{mean(excess):+.2f} %{spread}"
