"""Self-contained HTML pages: a template, plain data, plotly figures; nothing is fetched from anywhere."""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

Figure = dict[str, Any]
"""What `Plotly.newPlot` takes: {"data": [traces], "layout": {...}}; plain lists and numbers."""


class Cell(NamedTuple):
    """A cell of a table. right: it holds a number and stands to the right."""

    text: str
    right: bool


class Table(NamedTuple):
    """What the macro `table` of templates/macros.html draws."""

    head: list[Cell]
    rows: list[list[Cell]]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Cells that are numbers (or strings that start like one) stand to the right, and so does the
    head of a column that has only such cells."""
    cells = [[Cell(str(value), _numeric(value)) for value in row] for row in rows]
    sides = [bool(cells) and all(row[i].right for row in cells) for i in range(len(head))]
    return Table([Cell(name, right) for name, right in zip(head, sides, strict=True)], cells)


def _numeric(value: object) -> bool:
    return isinstance(value, (int, float)) or str(value)[:1].isdigit()


def titled(name: str) -> dict[str, Any]:
    """An axis or a colour bar of that name, for a plotly layout."""
    return {"title": {"text": name}}


@cache
def templates() -> Environment:
    """The folder templates/. Whatever is put into a page is escaped; a name that a template uses
    and does not get is an error; Markdown is not HTML and stays as it is."""
    made = Environment(
        loader=PackageLoader("duckweed.pages"),
        autoescape=lambda name: not (name or "").endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return made


def page(template: str, title: str, figures: dict[str, Figure], **data: Any) -> str:
    """A whole page as a string: the template with a slot for every figure. Raises ValueError where
    a figure holds a number that is not finite."""
    plotly = files("duckweed.pages").joinpath("assets/plotly-cartesian.min.js").read_text("utf-8")
    return (
        templates()
        .get_template(template)
        .render(
            title=title, figures=figures, plotly=Markup(plotly), version=version("duckweed"), **data
        )
    )
