"""Sliders of a page: each stands at a value of a grid, and they choose among results computed for it.

Rows of a table are in the order of `itertools.product` over the axes that it depends on.
"""

import msgspec


class Axis(msgspec.Struct, frozen=True):
    """One slider."""

    label: str
    shown: list[str]
    """What stands beside the slider at each of its values."""
    start: int
    """Where the slider stands when the page opens."""


class Curve(msgspec.Struct, frozen=True):
    """A trace of the figure."""

    trace: int
    """Which one, counted from 0."""
    over: list[int]
    """The axes that it depends on, by their place."""
    rows: list[list[float]]


class Sentence(msgspec.Struct, frozen=True):
    """A text of the page."""

    id: str
    over: list[int]
    rows: list[str]


class Choice(msgspec.Struct, frozen=True):
    """All sliders of one figure and what they choose."""

    figure: str
    axes: list[Axis]
    x: list[float]
    """Of all curves."""
    curves: list[Curve]
    sentences: list[Sentence]
