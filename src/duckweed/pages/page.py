"""Self-contained HTML pages: a template, plain data, plotly figures; nothing is fetched from anywhere."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

NUMBER = 32  # characters at most of a number with its unit and interval
BLANK = ("", "-", "–")
_LIKE_A_NUMBER = re.compile(r"[-+<~]?\d")

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

    @property
    def said(self) -> str:
        """What a screen reader calls the table."""
        return "table: " + (", ".join(x.text for x in self.head if x.text) or "figures")


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], words: Sequence[str] = ()
) -> Table:
    """A column stands to the right, with its head, where more than half of what is in it are numbers (or
    short strings that start like one). words: columns that stand to the left all the same."""
    cells = [[str(value) for value in row] for row in rows]
    sides = [
        name not in words and _numeric([row[i] for row in cells]) for i, name in enumerate(head)
    ]

    def sided(row: Sequence[str]) -> list[Cell]:
        return [Cell(text, right) for text, right in zip(row, sides, strict=True)]

    return Table(sided(head), [sided(row) for row in cells])


def _numeric(column: Sequence[str]) -> bool:
    said = [x for x in column if x not in BLANK]
    return 2 * sum(len(x) <= NUMBER and bool(_LIKE_A_NUMBER.match(x)) for x in said) > len(said)


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
