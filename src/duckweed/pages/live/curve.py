"""A curve as an inline SVG that fits any width: lines are stretched, text is not.

No style attributes and no script, so that the strictest Content-Security-Policy lets it through, and it is
there without JavaScript.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

POINTS = 160  # of a line at most: more cannot be told apart
WIDTH, HEIGHT = 1000, 240  # of the plot, in its own units
ABOVE, BELOW = 26, 26  # pixels for what is written above and below the plot

Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """One line of a plot. kind: its class in the style sheet."""

    name: str
    kind: str
    points: Points


def plot(
    title: str, lines: Sequence[Line], show_x: Callable[[float], str], y_name: str, x_name: str
) -> Markup:
    """The plot; a sentence instead where there is nothing to draw. title: read aloud by screen readers."""
    drawn = [Line(x.name, x.kind, thin(x.points)) for x in lines]
    every = [p for line in drawn for p in line.points]
    if len(every) < 2:
        return Markup("<p class=soft>The curve begins with the second measurement.</p>")
    right = max(x for x, _ in every) or 1.0
    ticks = steps(min(y for _, y in every), max(y for _, y in every))
    low, high = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return WIDTH * x / right, HEIGHT * (high - y) / (high - low)

    grid, labels = [], []
    for tick in ticks[:-1]:
        y = at(0, tick)[1]
        grid.append(f'<path class=grid d="M0 {y:.0f}H{WIDTH}"/>')
        labels.append(f'<text x="100%" y={y + ABOVE - 4:.0f} text-anchor=end>{tick:g}</text>')
    for part, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        text = escape(show_x(part * right)) + (f" {escape(x_name)}" if part == 1 else "")
        labels.append(
            f'<text x="{100 * part:.0f}%" y={HEIGHT + ABOVE + 18} text-anchor={anchor}>{text}</text>'
        )
    paths = "".join(
        f'<path class="line {line.kind}" d="{_path([at(*p) for p in line.points])}"/>'
        for line in drawn
        if line.points
    )
    return Markup(
        f'<svg class=curve role=img aria-label="{escape(title)}" width="100%" '
        f'height="{HEIGHT + ABOVE + BELOW}"><text x="100%" y=14 text-anchor=end>{escape(y_name)}</text>'
        f'<svg y={ABOVE} width="100%" height={HEIGHT} viewBox="0 0 {WIDTH} {HEIGHT}" '
        f"preserveAspectRatio=none>{''.join(grid)}{paths}</svg>{''.join(labels)}</svg>"
    )


def thin(points: Points) -> Points:
    """At most `POINTS` points: means of neighbours; the first and the last stay."""
    if len(points) <= POINTS:
        return points
    size = -(-(len(points) - 2) // (POINTS - 2))
    groups = [points[i : i + size] for i in range(1, len(points) - 1, size)]
    inner = [
        (sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g))
        for g in (group[: len(points) - 1] for group in groups)
    ]
    return [points[0], *inner, points[-1]]


def steps(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose an interval."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 3))
    step = next(power * x for x in (1, 2, 5, 10) if span / (power * x) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if last == first:
        last += 1
    return [round(i * step, 12) for i in range(first, last + 1)]


def _path(points: Points) -> str:
    (x, y), *rest = points
    if not rest:
        return f"M{x:.1f} {y:.1f}h0.1"
    return f"M{x:.1f} {y:.1f}L" + " ".join(f"{x:.1f} {y:.1f}" for x, y in rest)
