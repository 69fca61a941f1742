"""The report of a campaign as one self-contained page."""

from typing import Any


def evolve_page(name: str, left: Any) -> str:
    return name
