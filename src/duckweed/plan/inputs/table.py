"""The tables beside the code: facts, one row each, with the source in the last column."""

import csv
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def rows(name: str) -> tuple[dict[str, str], ...]:
    """The rows of `tables/NAME.csv`."""
    text = files("duckweed.plan").joinpath(f"tables/{name}.csv").read_text("utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def tree(name: str) -> dict[str, Any]:
    """The content of `tables/NAME.toml`."""
    return tomllib.loads(files("duckweed.plan").joinpath(f"tables/{name}.toml").read_text("utf-8"))
