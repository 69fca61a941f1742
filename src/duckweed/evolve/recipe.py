"""A recipe: what differs from the campaign's plain specification, and the specification it gives."""

from duckweed.evolve.cell import Recipe
from duckweed.run.spec import RunSpec, override

BETAS = {"inner.beta1": 0, "inner.beta2": 1}  # the specification has them as a pair


def specification(plain: RunSpec, recipe: Recipe) -> RunSpec:
    """The plain specification with the recipe's keys set. Raises SpecError."""
    changes: dict[str, object] = {k: v for k, v in recipe.items() if k not in BETAS}
    betas: list[float] = list(plain.inner.betas)
    for key, place in BETAS.items():
        betas[place] = float(recipe.get(key, betas[place]))
    return override(plain, changes | {"inner.betas": betas})
