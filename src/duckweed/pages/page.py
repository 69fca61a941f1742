"""One self-contained HTML page: text, tables and plotly figures, nothing fetched from anywhere."""

import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

Figure = dict[str, Any]
"""What `Plotly.newPlot` takes: {"data": [traces], "layout": {...}}; plain lists and numbers."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2b22; --paper: #fbfcf9; --line: #d5ddd3; --soft: #5b6b60; --green: #2f7d4f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3ebe4; --paper: #131a16; --line: #2f3b34; --soft: #9db0a3; --green: #7ccf9b; } }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.2rem 4rem; color: var(--ink); background: var(--paper);
       font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
p { max-width: 46rem; } .soft { color: var(--soft); } code, pre { font: .88em/1.45 ui-monospace, monospace; }
pre { padding: .8rem; border: 1px solid var(--line); border-radius: .4rem; overflow-x: auto; white-space: pre-wrap; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; } .figure { width: 100%; height: 26rem; }
.pair { display: flex; flex-wrap: wrap; gap: 0 4rem; } summary { cursor: pointer; }
"""

DRAW = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const ink = dark ? "#e3ebe4" : "#1d2b22", line = dark ? "#2f3b34" : "#d5ddd3";
function dress(layout) {
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  const dressed = Object.assign({ font: { color: ink, family: "system-ui, sans-serif" }, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", margin: { t: 30, r: 20, b: 50, l: 60 }, legend: { orientation: "h", y: -0.2 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: ink },
    colorway: ["#2f9e63", "#d9822b", "#3b7dd8", "#a64ca6", "#8a8f2a", "#c0392b", "#16808a", "#7f6a5c"] }, layout);
  for (const key of Object.keys(dressed)) if (/^[xy]axis/.test(key)) dressed[key] = Object.assign({}, axis, dressed[key]);
  if (!dressed.xaxis) dressed.xaxis = axis; if (!dressed.yaxis) dressed.yaxis = axis;
  return dressed;
}
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const [name, figure] of Object.entries(figures))
  Plotly.newPlot(name, figure.data, dress(figure.layout || {}), { responsive: true, displaylogo: false });
"""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; cells that are numbers (or strings that start like one) are set to the right, and
    so is the head of a column that has only such cells."""

    def number(value: object) -> bool:
        return isinstance(value, (int, float)) or str(value)[:1].isdigit()

    def cell(tag: str, value: object, right: bool) -> str:
        return f"<{tag}{' class=number' if right else ''}>{html.escape(str(value))}</{tag}>"

    rows = [list(row) for row in rows]
    lines = ["".join(cell("td", value, number(value)) for value in row) for row in rows]
    sides = [bool(rows) and all(number(row[i]) for row in rows) for i in range(len(head))]
    top = "".join(cell("th", name, right) for name, right in zip(head, sides, strict=True))
    lines = [f"<tr>{line}</tr>" for line in lines]
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(lines)}</table></div>'


def figure_slot(name: str) -> str:
    """The place in the body where the figure of that name is drawn."""
    return f'<div class="figure" id="{html.escape(name)}"></div>'


def page(title: str, body: str, figures: dict[str, Figure], script: str = "") -> str:
    """A whole page as a string. body: HTML with a `figure_slot` per figure; script: extra JavaScript
    that runs after the figures are drawn (it may use Plotly, figures and dress)."""
    plotly = files("duckweed.pages").joinpath("assets/plotly-cartesian.min.js").read_text("utf-8")
    data = json.dumps(figures, allow_nan=False).replace("</", "<\\/")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f'<body>{body}<script type="application/json" id="figures">{data}</script>'
        f"<script>{plotly}</script><script>{DRAW}{script}</script></body></html>"
    )
