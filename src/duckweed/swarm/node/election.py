"""How a voter becomes the leader, or promises to follow another one. The rules are in
duckweed.ledger.succession; which machine is asked, and when, is decided here."""

import asyncio
import logging

from duckweed.ledger.ledger import LedgerError
from duckweed.ledger.succession import Vote, Voter
from duckweed.net import clock
from duckweed.net.timeouts import CANVASS, within
from duckweed.net.transport import LinkError
from duckweed.swarm.node.replica import Replica
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.ledger import PAGE_LIMIT, decoded

log = logging.getLogger(__name__)

BACK = 64  # entries to go back at a time, where two copies differ


class Election:
    """One voter's part in elections."""

    def __init__(self, replica: Replica, voter: Voter) -> None:
        self.replica, self.voter = replica, voter

    # --- as one who is asked

    def promise(self, key: str, question: m.RequestVote) -> m.VoteReply:
        """What this voter says to a candidate."""
        voter = self.voter
        reason = self._unneeded(key) or voter.refuses(question.term, key) or ""
        vote = None
        if question.binding and not reason:
            vote = voter.promise(question.term, key)
            self.replica.heard = clock.now()  # the candidate is given time to begin
            self.replica.say(
                f"promised to follow {self.replica.name(key)} in term {question.term} of the run"
            )
        log.info("%s asks for a vote in term %d: %s", key[:10], question.term, reason or "yes")
        return m.VoteReply(max(voter.seen, voter.promised), vote, reason)

    def _unneeded(self, candidate: str) -> str:
        """Why no other leader is needed at the moment; "" if one is."""
        replica, key = self.replica, self.replica.known.key
        if self.voter.leads:
            in_touch = replica.in_touch(self.voter)
            return "this machine leads the run, and a majority hears it" if in_touch else ""
        silent = clock.now() - replica.heard
        if key in (candidate, replica.me) or silent >= self.voter.leadership.absence:
            return ""
        return f"{replica.name(key)}, the leader, was heard {silent:.0f} s ago"

    # --- as one who stands

    @property
    def due(self) -> bool:
        """Whether the leader was silent for so long that it is this voter's turn to stand for election:
        the next in line first, each of the others one absence later."""
        silent = clock.now() - self.replica.heard
        return silent > self.voter.leadership.absence * self.voter.leadership.in_line(
            self.replica.me
        )

    async def stand(self) -> None:
        """Stand for election, if a majority would vote for this machine. Raises LedgerError."""
        voter, replica = self.voter, self.replica
        others = [key for key in voter.leadership.voters if key != replica.me]
        term = voter.next_term()
        log.info("the leader is silent; asking %d voters about term %d", len(others), term)
        would = await self._canvass(others, m.RequestVote(term, binding=False))
        if sum(not x.reason for x in would.values()) + 1 < voter.leadership.majority:
            return
        mine = voter.promise(term, replica.me)
        if mine is None:
            return
        given = await self._canvass(others, m.RequestVote(term, binding=True))
        votes = {key: x.vote for key, x in given.items() if x.vote} | {replica.me: mine}
        newest = voter.newest(term, votes)
        if newest is None or not await self._take_over(term, newest, votes):
            return
        if voter.become_leader(term, votes):
            replica.elected(term, votes)
            replica.say(f"this machine is the leader of the run from here on (term {term})")

    async def _canvass(self, keys: list[str], question: m.RequestVote) -> dict[str, m.VoteReply]:
        """Their answers, of those that can be reached."""
        found: dict[str, m.VoteReply] = {}

        async def one(key: str) -> None:
            try:
                reply, _ = await within(CANVASS, self.replica.ask(key, question))
            except (LinkError, TimeoutError) as error:
                log.info("no vote from %s: %s", self.replica.name(key), error)
                return
            found[key] = reply
            self.voter.seen = max(self.voter.seen, reply.seen)

        await asyncio.gather(*map(one, keys))
        return found

    async def _take_over(self, term: int, newest: str, votes: dict[str, Vote]) -> bool:
        """Copy what the newest copy has more, with its blobs. False if that is not possible."""
        vote, replica = votes[newest], self.replica
        start, last = replica.ledger.number + 1, vote.number
        keys = [newest, *replica.known.at]
        try:
            while replica.ledger.hash_at(last) != vote.head:
                question = m.GetEntryRange(start, last, vote.head)
                _, body = await replica.ask(newest, question, PAGE_LIMIT)
                rows = decoded(body)
                if not rows:
                    return False
                rounds = [row.number for row in rows if row.kind == "round"]
                # At most the last round is not yet held by others than the newest copy's machine.
                await replica.fetch_blobs(rows, keys, (rounds or [0])[-1] - 1)
                try:
                    if not self.voter.adopt(term, rows):
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
