"""Planning for a run that exists: its model and sizes, and what it measured."""

from pathlib import Path

from duckweed.plan.errors import PlanError
from duckweed.plan.request import Parsed


def read(folder: Path, crowd: str, tokens: str, deadline: str) -> Parsed:
    raise PlanError(f"{folder}: planning for a run is not there yet.")
