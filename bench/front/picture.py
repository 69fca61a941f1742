"""The front as a picture: held-out bits per byte against the megabytes that a peer sends, docs/pictures/front.svg."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from bench.front.swarm import STEP, ring_bytes

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "front.svg"
PEERS = 4
WIDTH, HEIGHT, LEFT, BELOW, ABOVE = 720, 400, 60, 46, 34
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


@dataclass(frozen=True)
class Point:
    """One recipe: its words, megabytes up, bits per byte of each seed; whether it is data parallelism."""

    words: str
    megabytes: float
    bits: list[float]
    parallel: bool


def points(records: list[dict[str, Any]], words: dict[str, str]) -> list[Point]:
    """The recipes that have words, each the mean over its seeds. words: name without the seed -> what to call it."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in records:
        found[one["cell"].rpartition("-s")[0] or one["cell"]].append(one)
    return [
        Point(
            text,
            mean(sent(x) for x in found[name]) / 1e6,
            [x["bits_per_byte"] for x in found[name]],
            parallel(found[name][0]),
        )
        for name, text in words.items()
        if name in found
    ]


def parallel(record: dict[str, Any]) -> bool:
    return bool(record["specification"]["rounds"]["peers"] == 1)


def sent(record: dict[str, Any]) -> float:
    """Bytes that a peer sends; of data parallelism by the formula of a bf16 ring, an exchange a step."""
    if not parallel(record):
        return float(record["up"])
    steps = sum(record["lengths"])
    return ring_bytes(PEERS, record["parameters"], steps * STEP)


def svg(found: list[Point]) -> str:
    """The picture as text."""
    xs = [math.log10(p.megabytes) for p in found]
    ys = [b for p in found for b in p.bits]
    left, right = math.floor(min(xs)), math.ceil(max(xs))
    low, high = math.floor(min(ys) * 20) / 20, math.ceil(max(ys) * 20) / 20

    def x(megabytes: float) -> float:
        share = (math.log10(megabytes) - left) / (right - left)
        return LEFT + share * (WIDTH - LEFT - 30)

    def y(bits: float) -> float:
        return ABOVE + (high - bits) / (high - low) * (HEIGHT - ABOVE - BELOW)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-weight="bold">Held-out bits per byte after 1.06 million tokens, 4 peers; lower is better</text>',
    ]
    for power in range(left, right + 1):
        at = x(10.0**power)
        lines.append(f'<path d="M{at:.0f} {ABOVE}V{HEIGHT - BELOW}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{at:.0f}" y="{HEIGHT - 26}" text-anchor="middle">{10.0**power:g}</text>'
        )
    for number in range(round((high - low) / 0.05) + 1):
        bits = low + 0.05 * number
        lines.append(f'<path d="M{LEFT} {y(bits):.0f}H{WIDTH - 30}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{LEFT - 8}" y="{y(bits) + 4:.0f}" text-anchor="end">{bits:.2f}</text>'
        )
    lines.append(
        f'<text x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">megabytes that a peer sends (logarithmic)</text>'
    )
    for point in found:
        color, at = ("#777" if point.parallel else "#16803c"), x(point.megabytes)
        for bits in point.bits:
            lines.append(f'<circle cx="{at:.1f}" cy="{y(bits):.1f}" r="4" fill="{color}"/>')
        anchor, aside = ("end", -9) if at > WIDTH * 0.6 else ("start", 9)
        lines.append(
            f'<text x="{at + aside:.0f}" y="{y(mean(point.bits)) + 4:.0f}" text-anchor="{anchor}" fill="{color}">{point.words}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def write(results: Path, words: dict[str, str]) -> None:
    records = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    PICTURE.write_text(svg(points(records, words)))
