"""The tables of docs/rivals.md, from the records."""

import json
import math
import statistics
from functools import cache
from pathlib import Path
from typing import Any

from bench.rivals import speed
from bench.rivals.contestants import ALL
from bench.rivals.environments import RESULTS
from bench.rivals.measure import FAULTS, PEERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "rivals.md"
Record = dict[str, Any]
BUSY = PEERS + 2.0  # a load that four peers and a hub do not make by themselves


def write() -> None:
    """Write the tables between their markers."""
    text = DOCUMENT.read_text()
    tables = {
        "costs": costs(),
        "speed": speed.table(),
        "faults": faults(),
        "environments": environments(),
    }
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    DOCUMENT.write_text(text)


def records(fault: str = "") -> dict[str, Record]:
    """By contestant, those of runs without a fault, or with this one; of several the longest run, and of those the one
    with the best rate."""
    found: dict[str, Record] = {}
    for one in every(fault):
        known = found.get(one["contestant"])
        if known is None or merit(one) > merit(known):
            found[one["contestant"]] = one
    return {name: found[name] for name in ALL if name in found}


@cache
def every(fault: str) -> list[Record]:
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-*.json"))]
    return [one for one in found if one["fault"] == fault]


def usual_gap(record: Record) -> float | None:
    """The longest gap of a run of the same length without a fault; it counts from the first step on, not from a fault."""
    kind = ("contestant", "steps", "batch")
    same = [x for x in every("") if all(x[key] == record[key] for key in kind)]
    return min((x["longest_gap"] for x in same if math.isfinite(x["longest_gap"])), default=None)


def merit(record: Record) -> tuple[int, float]:
    """Sequences of a peer, and how good the end is."""
    ends = [x for x in record["bits_per_byte"] if x is not None]
    return int(record["steps"] * record["batch"]), -statistics.mean(ends) if ends else -math.inf


def costs() -> list[str]:
    lines = [
        "| | optimizer, rate | million tokens | held-out bits per byte | tokens/s, plain loops = 1 | processor s, peers + hub | MB up, down of a peer | peak MB, peer / hub |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = records()
    for name, one in found.items():
        ratio = pace(one, found.get("plain"))
        up, down = sum(one["sent"]) / PEERS / 1e6, sum(one["received"]) / PEERS / 1e6
        hub = f" / {one['peak_mb_hub']}" if one["peak_mb_hub"] else ""
        lines.append(
            f"| {name} | {one['optimizer']}{rate(one)} | {merit(one)[0] * PEERS * 128 / 1e6:.2f} | {quality(one)} | {ratio} | "
            f"{sum(one['cpu_seconds_peers']):.0f} + {one['cpu_seconds_hub']:.0f} | {up:.1f}, {down:.1f} | "
            f"{max(one['peak_mb_peers'])}{hub} |"
        )
    return lines


def rate(record: Record) -> str:
    return f", {found:g}" if (found := record.get("rate")) else ""


def pace(record: Record, plain: Record | None) -> str:
    """Tokens a second as a share of the plain loops'; nothing where other work kept the machine busy."""
    if plain is None or max(record["load"], plain["load"]) > BUSY:
        return "-"
    return f"{record['tokens_per_second'] / plain['tokens_per_second']:.2f}"


def quality(record: Record) -> str:
    """The mean over the peers that reached the end."""
    ends = record["bits_per_byte"]
    if not ends:
        return "none reached the end"
    if any(x is None for x in ends):
        return "NaN"
    return f"{statistics.mean(ends):.3f}"


def faults() -> list[str]:
    lines = ["| | fault | the others | end | the faulty peer |", "|---|---|---|---|---|"]
    for name in ALL:
        for fault in FAULTS:
            if (one := records(fault).get(name)) is None:
                continue
            clean = usual_gap(one)
            usual = "" if clean is None else f" (without a fault {clean:.0f} s, start included)"
            gap = one["longest_gap"]
            others = f"longest gap {gap:.0f} s{usual}" if math.isfinite(gap) else "no step more"
            lines.append(f"| {name} | {fault} | {others} | {end(one)} | {victim(one)} |")
    return lines


def end(record: Record) -> str:
    """What became of the peers that had no fault."""
    if record["finished"]:
        return f"all others to the end, {quality(record)} bits per byte"
    codes = record["exit_codes"][: PEERS if record["fault"] == "hub" else PEERS - 1]
    ended = all(code is not None for code in codes)
    return "all others ended, without a model" if ended else "not within the limit"


def victim(record: Record) -> str:
    """What became of the peer that had the fault."""
    if record["fault"] == "hub":
        return "none"
    words = []
    if record["duckweed_rounds"]:
        rounds = record["duckweed_rounds"]
        # Peers are counted as they came, not by their hosts: the faulty one is who counted least often.
        counted, faulty = min((sum(n in x["accepted"] for x in rounds), n) for n in range(PEERS))
        words.append(f"counted in {counted} of {len(rounds)} rounds")
        refused = {x["rejected"].get(str(faulty)) for x in rounds} - {None}
        words += [f"refused: {why}" for why in refused if why]
    elif record["back_after"] is not None:
        words.append(f"steps again {record['back_after']:.0f} s after it was let go on")
    code = record["exit_codes"][-1]
    return "; ".join([*words, f"exit code {code}" if code is not None else "still running"])


def environments() -> list[str]:
    """What installed, and what did not with the reason."""
    known = json.loads((RESULTS / "setup.json").read_text())
    lines = ["| | requires | |", "|---|---|---|"]
    for name, one in known.items():
        lines.append(f"| {name} | {', '.join(one['requires'])} | {one['reason'] or 'installs'} |")
    return lines
