"""A recipe: what differs from the campaign's plain specification, and the specification it gives."""

from duckweed.evolve.cell import Recipe
from duckweed.run.spec import RunSpec, override


def specification(plain: RunSpec, recipe: Recipe) -> RunSpec:
    """The plain specification with the recipe's keys set. Raises SpecError."""
    return override(plain, dict(recipe))
