"""The raw lines of bench/results/hostile.json as tables."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "hostile.json"
SHIPPED, HOSTILE = "filtered", 4
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
    """Of each attack by four of ten: loss above the honest run's with as many honest peers, in per cent, as mean (and
    the least and the greatest of the seeds), as shipped, with text given out as in a run and uneven; whom it left out;
    and by the filter without memory of rounds."""
    honest = references(rows)
    found: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["hostile"] == HOSTILE and (HOSTILE, row["data"], row["seed"]) in honest:
            found[row["attack"], row["rule"], row["data"]].append(row)
    lines = [
        "| attack | as shipped | hostile left out | honest left out | uneven data | without memory of rounds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for attack in dict.fromkeys(attack for attack, rule, _ in found if rule == SHIPPED):
        same, uneven = found[attack, SHIPPED, "identical"], found[attack, SHIPPED, "uneven"]
        theirs = mean(row["left_out_hostile"] for row in same)
        ours = mean(row["left_out_honest"] for row in same)
        before = _shown(found[attack, "momentary", "identical"], honest)
        lines.append(
            f"| {attack} | {_shown(same, honest)} | {theirs:.0%} | {ours:.1%} | {_shown(uneven, honest)} | {before} |"
        )
    return "\n".join(lines)


def _shown(rows: list[Row], honest: dict[tuple[int, str, int], float]) -> str:
    if not rows:
        return "not run"
    excess = [
        100 * (row["bits"] / honest[row["hostile"], row["data"], row["seed"]] - 1)
        if row["bits"] is not None
        else float("inf")
        for row in rows
    ]
    spread = f" ({min(excess):+.2f} to {max(excess):+.2f})" if len(rows) > 1 else ""
    return f"{mean(excess):+.2f} %{spread}"
