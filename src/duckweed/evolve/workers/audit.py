"""No guest is believed: of what a machine elsewhere ran, a part is run again here before any of it
counts.

Of every batch one in ten of a guest's cells, at least one, drawn at random after it answered, is
trained again by a process of this machine and must give the same weights bit for bit. A guest for
whom it does not is never asked again, and all that it ran of the batch is run elsewhere. The same
cells decide as if it had never been there.
"""

import secrets
from collections.abc import Callable

from duckweed.evolve.decide.trial_spec import Cell, Result
from duckweed.evolve.workers.pool import Pool

SHARE = 0.1

Audited = Callable[[Cell, Result, Result], None]
"""(cell, the guest's result, ours)"""


class Audit:
    """Runs groups over a pool and lets pass what may count. audited: told of every comparison."""

    def __init__(self, pool: Pool, audited: Audited) -> None:
        self.pool, self._audited = pool, audited

    def run(
        self,
        groups: list[list[Cell]],
        done: Callable[[Cell, Result], None],
        stopped: Callable[[], str | None],
        limit: float,
    ) -> None:
        """As `Pool.run`."""
        while groups:
            held: dict[int, list[tuple[Cell, Result]]] = {}

            def take(cell: Cell, result: Result, held: dict = held) -> None:
                if self.pool.is_guest(result.worker):
                    held.setdefault(result.worker, []).append((cell, result))
                else:
                    done(cell, result)

            self.pool.run(groups, take, stopped, limit)
            groups = []
            for number, found in held.items():
                if self._honest(found, stopped, limit):
                    for cell, result in found:
                        done(cell, result)
                else:
                    self.pool.expel(number)
                    groups.append([cell for cell, _ in found])

    def _honest(
        self,
        found: list[tuple[Cell, Result]],
        stopped: Callable[[], str | None],
        limit: float,
    ) -> bool:
        drawn = secrets.SystemRandom().sample(found, max(1, round(SHARE * len(found))))
        again: dict[str, Result] = {}

        def take(cell: Cell, result: Result) -> None:
            again[cell.id] = result

        for cell, theirs in drawn:
            self.pool.run([[cell]], take, stopped, limit, own=True)
            ours = again[cell.id]
            self._audited(cell, theirs, ours)
            if (theirs.weights, theirs.loss) != (ours.weights, ours.loss):
                return False
        return True
