"""Which peer trains which part of the data: pure bookkeeping."""

from collections.abc import Collection, Iterable

import msgspec

SLOWER = 2.0  # a peer that needs this many times the usual seconds per step gets fewer steps


class Span(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """A part of a block of training data: `steps` inner steps from step `first` on."""

    block: int
    first: int
    steps: int

    @property
    def end(self) -> int:
        return self.first + self.steps

    def meets(self, other: "Span") -> bool:
        """Whether they have a step in common."""
        return self.block == other.block and self.first < other.end and other.first < self.end


class Blocks:
    """Blocks of training data, each of `steps` inner steps, handed out in order. What a slow peer
    leaves of a block, and a span whose work did not count, stay in a pool and are handed out before
    new blocks, so that no text is skipped. The pool is kept sorted and joined: what is handed out
    next depends on what has counted, not on how it came about.

    A round whose peers take fewer steps than a block has (`usual`) takes the next part of a block that has
    as many left; less than that is a rest."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.written: list[Span] = []  # to which others have written answers: handed out first
        self._next = 0
        self._pool: list[Span] = []

    def take(self, budget: int | None = None, usual: int | None = None) -> Span:
        """A span of at most `budget` steps (None: of `usual`). usual: steps of a peer of usual speed in this
        round (None: a whole block). A slow peer goes on with rests of blocks, a fast one takes as many steps
        as are usual; rests only if there is more than one."""
        usual = usual or self.steps
        budget = min(budget or usual, usual)
        pool = sorted(self._pool, key=lambda span: not any(map(span.meets, self.written)))
        rests = [span for span in pool if span.steps < usual]
        whole = [span for span in pool if span.steps >= usual]
        offered = rests or whole if budget < usual else whole or rests[1:]
        found = offered[0] if offered else Span(self._next, 0, self.steps)
        taken = Span(found.block, found.first, min(budget, found.steps))
        self._remove(taken)
        return taken

    def share(self, budgets: dict[int, int], usual: int) -> dict[int, Span]:
        """peer -> span of as many steps at most, in the order of the budgets; usual: as of `take`. The slow
        ones choose first: they go on with the rests, the others take up what is left."""
        spans = {x: self.take(budgets[x], usual) for x in sorted(budgets, key=budgets.__getitem__)}
        return {peer: spans[peer] for peer in budgets}

    def hold(self, spans: Iterable[Span]) -> None:
        """Take certain spans, that were handed out before a restart."""
        for span in spans:
            self._remove(span)

    def close_round(self, assigned: dict[int, Span], accepted: Iterable[int]) -> None:
        """assigned: peer -> span in a closed round; accepted: the peers whose work counted."""
        counted = set(accepted)
        self.give_back(span for peer, span in assigned.items() if peer not in counted)

    def replay(self, assigned: dict[int, Span], accepted: Iterable[int]) -> None:
        """Take up a round of the past, as the ledger tells it."""
        for span in assigned.values():
            self._remove(span)
        self.close_round(assigned, accepted)

    def _remove(self, taken: Span) -> None:
        fresh = range(self._next, taken.block + 1)
        self._next = max(self._next, taken.block + 1)
        self.give_back(Span(block, 0, self.steps) for block in fresh)
        for span in self._pool:
            if span.block == taken.block and span.first <= taken.first and taken.end <= span.end:
                self._pool.remove(span)
                before = Span(span.block, span.first, taken.first - span.first)
                after = Span(span.block, taken.end, span.end - taken.end)
                self.give_back(part for part in (before, after) if part.steps)
                return
        raise ValueError(f"{taken} counted or was assigned before")

    def give_back(self, spans: Iterable[Span]) -> None:
        """Spans that are to be handed out."""
        joined: list[Span] = []
        for span in sorted([*self._pool, *spans]):
            last = joined[-1] if joined else None
            if last and last.block == span.block and last.end == span.first:
                joined[-1] = Span(last.block, last.first, last.steps + span.steps)
            else:
                joined.append(span)
        self._pool = joined


def budgets(
    paces: dict[int, float], steps: int, patience: float, others: Collection[float] = ()
) -> dict[int, int]:
    """peer -> inner steps to give it, so that it needs about as long as the others.

    paces: measured seconds per step, 0 where nothing is known yet; others: the same of paths whose rounds close with
    these. Who needs more than twice the
    time of the (lower) median peer, and would keep it waiting for more than a quarter of
    `patience`, gets what it can do in the median peer's time, at least one step. All others get a
    whole block: small differences must not make the steps of a run depend on the clock.
    """
    known = sorted(pace for pace in [*paces.values(), *others] if pace > 0)
    if not known:
        return dict.fromkeys(paces, steps)
    usual = known[(len(known) - 1) // 2]
    return {
        peer: max(1, int(steps * usual / pace))
        if pace > SLOWER * usual and steps * (pace - usual) > patience / 4
        else steps
        for peer, pace in paces.items()
    }


def lead(overlap: float, steps: int) -> int:
    """How many of `steps` inner steps are trained ahead, from the state before (rounds.overlap)."""
    return int(overlap * steps + 0.5)
