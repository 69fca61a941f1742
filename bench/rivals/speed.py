"""Tokens a second of the contestants, in alternation: the machine is not equally fast at all times."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from bench.rivals.contestants import EVERY
from bench.rivals.environments import RESULTS

NAMES = ("plain", "ddp", "torchft", "hivemind", "duckweed")
"""Flower is not among them: a single round takes it longer than the others a run."""
RECORD = RESULTS / "speed" / "alternation.json"
Record = dict[str, Any]


def alternate(names: Sequence[str], repeats: int, rounds: int, batch: int, limit: float) -> None:
    """Run each contestant once, then each again, until there are so many repeats. What has a record is not repeated."""
    from bench.rivals.measure import measure

    RECORD.parent.mkdir(parents=True, exist_ok=True)
    known: list[Record] = json.loads(RECORD.read_text()) if RECORD.exists() else []
    for repeat in range(repeats):
        for name in names:
            same = {"contestant": name, "repeat": repeat, "steps": rounds * EVERY, "batch": batch}
            if any(same.items() <= x.items() for x in known):
                continue
            one = measure(name, rounds, batch, "", limit, 0.0)
            kept = ("contestant", "steps", "batch", "finished", "tokens_per_second", "load")
            known.append({"repeat": repeat} | {key: one[key] for key in kept})
            RECORD.write_text(json.dumps(known, indent=1) + "\n")
            print(known[-1], flush=True)


def shares(records: Sequence[Record], name: str) -> list[float]:
    """Tokens a second of a contestant over those of the plain loops in the same repeat."""
    speeds = {(x["contestant"], x["repeat"]): x["tokens_per_second"] for x in records}
    repeats = sorted(repeat for known, repeat in speeds if known == name)
    return [speeds[name, x] / speeds["plain", x] for x in repeats if ("plain", x) in speeds]


def table() -> list[str]:
    """Lines of Markdown."""
    known: list[Record] = [x for x in json.loads(RECORD.read_text()) if x["finished"]]
    longest = max(x["steps"] * x["batch"] for x in known)
    records = [x for x in known if x["steps"] * x["batch"] == longest]
    lines = [
        "| | tokens/s, median | plain loops = 1: median | least, most | repeats |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(x["contestant"] for x in records):
        if not (found := shares(records, name)):
            continue
        middle = statistics.median(
            x["tokens_per_second"] for x in records if x["contestant"] == name
        )
        lines.append(
            f"| {name} | {middle:,.0f} | {statistics.median(found):.2f} | {min(found):.2f}, {max(found):.2f} | {len(found)} |"
        )
    return lines
