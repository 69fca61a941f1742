"""Who works on what, and when a round closes: pure bookkeeping, no clock and no network of its own."""

import math
from collections.abc import Collection, Iterable

import msgspec

from duckweed.merge.round import Announcement
from duckweed.run.sections import Rounds
from duckweed.swarm.protocol import messages as m
from duckweed.wire.exact import median

SPREAD = 6.0  # median absolute deviations beyond the median that a peer may take
NAMED = 10  # peers that are named as missing
SLOWER = 2.0  # times the usual seconds per step: beyond, a peer gets fewer steps


class Span(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """A part of a block of training data: `steps` inner steps from step `first` on."""

    block: int
    first: int
    steps: int

    @property
    def end(self) -> int:
        return self.first + self.steps


class Blocks:
    """Blocks of training data, each of `steps` inner steps, handed out in order. What a slow peer
    leaves of a block, and a span whose work did not count, stay in a pool and are handed out before
    new blocks, so that no text is skipped. The pool is kept sorted and joined: what is handed out
    next depends on what has counted, not on how it came about."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._next = 0
        self._pool: list[Span] = []

    def take(self, budget: int | None = None) -> Span:
        """A span of at most `budget` steps (None: a whole block). A slow peer goes on with rests of
        blocks, a fast one takes whole blocks; rests only if there is more than one."""
        budget = min(budget or self.steps, self.steps)
        rests = [span for span in self._pool if span.steps < self.steps]
        whole = [span for span in self._pool if span.steps == self.steps]
        offered = rests or whole if budget < self.steps else whole or rests[1:]
        found = offered[0] if offered else Span(self._next, 0, self.steps)
        taken = Span(found.block, found.first, min(budget, found.steps))
        self._remove(taken)
        return taken

    def share(self, budgets: dict[int, int]) -> dict[int, Span]:
        """peer -> span of as many steps at most, in the order of the budgets. The slow ones choose
        first: they go on with the rests, the others take up what is left."""
        spans = {x: self.take(budgets[x]) for x in sorted(budgets, key=budgets.__getitem__)}
        return {peer: spans[peer] for peer in budgets}

    def settle(self, assigned: dict[int, Span], accepted: Iterable[int]) -> None:
        """assigned: peer -> span in a closed round; accepted: the peers whose work counted."""
        counted = set(accepted)
        self._put(span for peer, span in assigned.items() if peer not in counted)

    def replay(self, assigned: dict[int, Span], accepted: Iterable[int]) -> None:
        """Take up a round of the past, as the ledger tells it."""
        for span in assigned.values():
            self._remove(span)
        self.settle(assigned, accepted)

    def _remove(self, taken: Span) -> None:
        fresh = range(self._next, taken.block + 1)
        self._next = max(self._next, taken.block + 1)
        self._put(Span(block, 0, self.steps) for block in fresh)
        for span in self._pool:
            if span.block == taken.block and span.first <= taken.first and taken.end <= span.end:
                self._pool.remove(span)
                before = Span(span.block, span.first, taken.first - span.first)
                after = Span(span.block, taken.end, span.end - taken.end)
                self._put(part for part in (before, after) if part.steps)
                return
        raise ValueError(f"{taken} counted or was assigned before")

    def _put(self, spans: Iterable[Span]) -> None:
        joined: list[Span] = []
        for span in sorted([*self._pool, *spans]):
            last = joined[-1] if joined else None
            if last and last.block == span.block and last.end == span.first:
                joined[-1] = Span(last.block, last.first, last.steps + span.steps)
            else:
                joined.append(span)
        self._pool = joined


def budgets(paces: dict[int, float], steps: int, patience: float) -> dict[int, int]:
    """peer -> inner steps to give it, so that it needs about as long as the others.

    paces: measured seconds per step, 0 where nothing is known yet. Who needs more than twice the
    time of the (lower) median peer, and would keep it waiting for more than a quarter of
    `patience`, gets what it can do in the median peer's time, at least one step. All others get a
    whole block: small differences must not make the steps of a run depend on the clock.
    """
    known = sorted(pace for pace in paces.values() if pace > 0)
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


def deadline(durations: list[float], patience: float) -> float | None:
    """Seconds after its opening at which a round closes without its stragglers: median + 6 MAD of
    what peers have needed, and `patience` on top. None while nothing is known."""
    if not durations:
        return None
    middle = median(durations)
    return middle + SPREAD * median([abs(d - middle) for d in durations]) + patience


class Member(msgspec.Struct):
    """A peer as the coordinator sees it."""

    index: int
    key: str
    heard: float = 0.0
    here: bool = False
    doing: str = "starting"
    at: int = 0  # the round that it trains for
    step: int = 0
    loss: float = 0.0
    pace: float = 0.0  # seconds per inner step, 0 while unknown
    gap: float = 0.0  # longest silence of late, in seconds
    origin: str = ""  # the address that it comes from, see limits.origin
    counted: int = 0  # contributions that have counted
    last: int = -1  # the last round in which one did
    addresses: list[str] = []  # where other peers may reach it
    shared: tuple[int, int] = (0, 0)  # bytes given to and fetched from other peers


class OpenRound(msgspec.Struct):
    """The round that is being worked on. assigned: peer -> span, in the order of shares;
    begun: peer -> when it was told to train."""

    number: int
    opened: float
    assigned: dict[int, Span] = {}
    begun: dict[int, float] = {}
    handed: dict[int, Announcement] = {}
    seconds: dict[int, float] = {}
    timings: dict[int, m.Timings] = {}
    nats: dict[int, tuple[float, int]] = {}
    refused: set[int] = set()
    closing: bool = False

    def wants(self, peer: int, question: m.Next) -> bool:
        """Whether the peer should train: also again, where a restart lost what it handed in."""
        if question.round != self.number or self.closing:
            return False
        return not question.contributed or self.lacks(peer)

    def lacks(self, peer: int) -> bool:
        """Whether work of the peer may still come in."""
        return not self.closing and peer not in self.handed.keys() | self.refused

    def task(self, peer: int, evaluate: int) -> m.Train:
        """What a peer is to train. evaluate: every how many rounds the held-out text is measured."""
        span, share = self.assigned[peer], list(self.assigned).index(peer)
        measure = self.number % evaluate == 0
        return m.Train(
            self.number, span.block, share, len(self.assigned), measure, span.first, span.steps
        )

    def take(self, member: Member, question: m.Contribute, now: float) -> None:
        """A contribution, whose blob is on disk, at a time of the coordinator's clock."""
        peer = member.index
        self.handed[peer] = question.announcement
        self.seconds[peer] = now - self.opened
        self.timings[peer] = question.timings
        if 0 < question.timings.train < math.inf:
            member.pace = question.timings.train / question.announcement.steps
        if question.tokens > 0:
            self.nats[peer] = (question.nats, question.tokens)

    def complete(
        self, here: Collection[int], durations: Iterable[float], rules: Rounds, now: float
    ) -> bool:
        """Whether it can close: all who are here have answered, or the time of those who have not is
        over. durations: seconds that peers have needed in the rounds before."""
        if not self.handed:
            return False
        answered = self.handed.keys() | self.refused
        if all(peer in answered for peer in self.assigned if peer in here):
            return True
        limit = deadline([*durations, *self.seconds.values()], rules.patience)
        enough = len(self.handed) >= rules.quorum * len(self.assigned)
        return enough and limit is not None and now - self.opened > limit

    def go_on(self, rejected: Iterable[int], now: float) -> None:
        """Stay open without the contributions of these peers, which do not count. The time that was
        theirs is not held against those who come now."""
        for peer in rejected:
            for of_peers in (self.handed, self.seconds, self.timings, self.nats):
                of_peers.pop(peer, None)
            self.refused.add(peer)
        self.opened, self.closing = now, False

    def overdue(self, member: Member, now: float) -> None:
        """A peer that was too slow for its steps: how far it came tells how many to give it."""
        begun = self.begun.get(member.index)
        at_it = member.doing == "training" and member.at == self.number
        if member.here and at_it and begun is not None:
            member.pace = max(member.pace, (now - begun) / max(1, member.step))

    def waiting_for(self) -> str:
        """Whose work is missing, in words."""
        missing = [str(x) for x in self.assigned if x not in self.handed.keys() | self.refused]
        if not missing and not self.handed:
            return f"round {self.number}: waiting for work that counts"
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        return f"round {self.number}: waiting for peer {', '.join(missing[:NAMED])}{more}"
