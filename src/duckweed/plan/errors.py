"""What the planner says when it cannot plan: what happened, whose fault it is, what to do next."""

import difflib
from collections.abc import Iterable


class PlanError(ValueError):
    """The input cannot be planned for; the message says why and what to change."""


def unknown(kind: str, name: str, known: Iterable[str]) -> PlanError:
    """An error for a name that is in no table, with the nearest names that are."""
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=4, cutoff=0.4)
    hint = f"Nearest: {', '.join(near)}." if near else f"Known: {', '.join(names)}."
    return PlanError(f"There is no {kind} called {name!r} in the tables. {hint}")
