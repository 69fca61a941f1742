"""How a machine that votes comes to be in charge, or promises another to follow it. Rules:
duckweed.ledger.succession; who is asked, and when, is decided here."""

import asyncio
import contextlib

from duckweed.ledger.ledger import LedgerError
from duckweed.ledger.succession import Seat, Vote
from duckweed.net import clock
from duckweed.net.timeouts import CANVASS, within
from duckweed.net.transport import LinkError
from duckweed.swarm.node.replica import PAGE_LIMIT, Replica, decoded
from duckweed.swarm.protocol import messages as m

BACK = 64  # entries to go back at a time, where two copies differ


class Election:
    """One voter's part in elections."""

    def __init__(self, replica: Replica, seat: Seat) -> None:
        self.replica, self.seat = replica, seat

    # --- as one who is asked

    def promise(self, key: str, question: m.Promise) -> m.Promised:
        """What this voter says to a candidate."""
        seat = self.seat
        reason = self._content(key) or seat.refuses(question.term, key) or ""
        vote = None
        if question.binding and not reason:
            vote = seat.promise(question.term, key)
            self.replica.heard = clock.now()  # the candidate is given time to begin
            self.replica.say(
                f"promised to follow {self.replica.name(key)} in term {question.term} of the run"
            )
        return m.Promised(max(seat.seen, seat.promised), vote, reason)

    def _content(self, candidate: str) -> str:
        """Why no other coordinator is wanted at the moment; "" if one is."""
        replica, key = self.replica, self.replica.known.key
        if self.seat.in_charge:
            return (
                "this machine is in charge, and heard by a majority" if replica.in_touch() else ""
            )
        silent = clock.now() - replica.heard
        if key in (candidate, replica.me) or silent >= self.seat.charge.absence:
            return ""
        return f"{replica.name(key)}, in charge, was heard {silent:.0f} s ago"

    # --- as one who stands

    @property
    def due(self) -> bool:
        """Whether nobody in charge was heard for so long that it is this voter's turn to stand: the
        next in line first, each of the others one absence later."""
        silent = clock.now() - self.replica.heard
        return silent > self.seat.charge.absence * self.seat.charge.in_line(self.replica.me)

    async def stand(self) -> None:
        """Stand for office, if a majority would have it. Raises LedgerError."""
        seat, replica = self.seat, self.replica
        others = [key for key in seat.charge.voters if key != replica.me]
        term = seat.next_term()
        would = await self._canvass(others, m.Promise(term, binding=False))
        if sum(not x.reason for x in would.values()) + 1 < seat.charge.majority:
            return
        mine = seat.promise(term, replica.me)
        if mine is None:
            return
        given = await self._canvass(others, m.Promise(term, binding=True))
        votes = {key: x.vote for key, x in given.items() if x.vote} | {replica.me: mine}
        newest = seat.newest(term, votes)
        if newest is None or not await self._take_over(term, newest, votes):
            return
        if seat.take_office(term, votes):
            replica.chosen(votes)
            replica.say(f"this machine is in charge of the run from here on (term {term})")

    async def _canvass(self, keys: list[str], question: m.Promise) -> dict[str, m.Promised]:
        """Their answers, of those that can be reached."""
        found: dict[str, m.Promised] = {}

        async def one(key: str) -> None:
            with contextlib.suppress(LinkError, TimeoutError):
                answer, _ = await within(CANVASS, self.replica.ask(key, question))
                if isinstance(answer, m.Promised):
                    found[key] = answer
                    self.seat.seen = max(self.seat.seen, answer.seen)

        await asyncio.gather(*map(one, keys))
        return found

    async def _take_over(self, term: int, newest: str, votes: dict[str, Vote]) -> bool:
        """Get what the newest copy has more, with its blobs. False if that cannot be had."""
        vote, replica = votes[newest], self.replica
        start, last = replica.ledger.number + 1, vote.number
        keys = [newest, *replica.known.at]
        try:
            while replica.ledger.hash_at(last) != vote.head:
                question = m.Extract(start, last, vote.head)
                answer, body = await replica.ask(newest, question, PAGE_LIMIT)
                rows = decoded(body)
                if not isinstance(answer, m.Copied) or not rows:
                    return False
                rounds = [row.number for row in rows if row.kind == "round"]
                # At most the last round is not yet held by others than the newest copy's machine.
                await replica.fetch_blobs(rows, keys, (rounds or [0])[-1] - 1)
                try:
                    if not self.seat.adopt(term, rows):
                        return False
                    start = replica.ledger.number + 1
                except LedgerError:  # the copies differ before these entries
                    if start <= 1:
                        raise
                    start = max(1, start - BACK)
            return True
        except LinkError as error:
            replica.say(f"cannot take over the ledger of {replica.name(newest)}: {error}")
            return False
