"""The rules by which a run passes from one coordinator to the next: pure bookkeeping of one voter, no
clock and no network. Raft (Ongaro and Ousterhout, USENIX ATC 2014) with fixed voters, where the one that
stands for office takes over the newest copy of the ledger among its voters, as in Viewstamped Replication
(Liskov and Cowling, MIT-CSAIL-TR-2012-021), so that any of them may win.

What is promised: an entry that a majority of voters hold, acknowledged to one coordinator, is in the
ledger of every later one, at the same place. Why: see docs/swarm.md, "Succession".
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from duckweed.ledger.entries import SuccessionEntry
from duckweed.ledger.leadership import Leadership, Verify, promise_bytes
from duckweed.ledger.ledger import Ledger, LedgerError, Row, Sign
from duckweed.run.checked import HashOrNone, Number, NumberOrNone, Signature


class Fork(LedgerError):
    """Entries that a majority held would have to be replaced: a machine breaks the rules."""


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signed promise to follow the owner of a term and nobody of a lower one, and where the voter's
    copy of the ledger ends."""

    signature: Signature  # of promise_bytes
    term: Number  # in which the last entry of the copy was written
    number: NumberOrNone  # of that entry
    head: HashOrNone  # hash of that entry

    @property
    def newness(self) -> tuple[int, int]:
        """Of two copies the one with the higher term, then the longer one, has all that counts."""
        return self.term, self.number


class Voter:
    """A voter with its copy of the ledger."""

    def __init__(
        self,
        me: str,
        ledger: Ledger,
        sign: Sign,
        verify: Verify,
        promised: int,
        keep: Callable[[int], None],
        deposed: Callable[[], None] = lambda: None,
    ) -> None:
        """promised: the highest term in which it has promised to follow. keep: puts such a term on disk
        before it returns. deposed: called when this voter is no longer the leader."""
        self.me, self.ledger, self._sign, self._verify = me, ledger, sign, verify
        self.promised, self._keep = promised, keep
        self.seen = promised  # the highest term that was heard of
        self.deposed = deposed
        self.leads = self.leadership.leader == me and promised <= self.leadership.term
        self._held: dict[str, int] = {}  # voter -> entry up to which its copy is the one here
        self._committed = -1

    @property
    def leadership(self) -> Leadership:
        assert self.ledger.leadership is not None
        return self.ledger.leadership

    # --- as a voter

    def refuses(self, term: int, candidate: str) -> str | None:
        """Why the term cannot be promised to the candidate; None if it can."""
        if candidate not in self.leadership.voters or self.leadership.owner(term) != candidate:
            return f"term {term} is not one of this candidate's"
        if term < self.promised or term <= self.leadership.term:
            return f"term {max(self.promised, self.leadership.term)} was promised before"
        return None

    def promise(self, term: int, candidate: str) -> Vote | None:
        """Follow nobody of a lower term from now on. None: refused."""
        self.seen = max(self.seen, term)
        if self.refuses(term, candidate):
            return None
        self._bind(term)
        words = promise_bytes(self.leadership.run, term)
        return Vote(self._sign(words), self.leadership.term, self.ledger.number, self.ledger.head)

    def _bind(self, term: int) -> None:
        if term > self.promised:
            self._keep(term)
            self.promised = self.seen = max(term, self.seen)
        self.overtaken(term)

    def overtaken(self, term: int) -> None:
        """A voter has promised itself to a higher term: this machine cannot lead it any more, and
        has to be elected anew."""
        self.seen = max(self.seen, term)
        if self.leads and term > self.leadership.term:
            self.leads = False
            self.deposed()

    def follow(self, term: int, after: int, head: str, rows: Sequence[Row], committed: int) -> bool:
        """Take over what the coordinator of a term has written after entry `after`, whose hash is
        `head`; committed: the last entry that it knows a majority to hold. False if this voter has
        promised itself to a higher term, or its copy has changed meanwhile. Raises LedgerError, Fork.
        """
        self.seen = max(self.seen, term)
        if term < self.promised or (self.leads and term <= self.leadership.term):
            return False
        if self.ledger.hash_at(after) != head:
            return False
        self._bind(term)
        self._copy(rows)
        same = rows[-1].number if rows else after
        self._committed = max(self._committed, min(committed, same))
        return True

    def _copy(self, rows: Sequence[Row]) -> None:
        """What differs here, and all that follows it, gives way."""
        for row in rows:
            if row.number <= self.ledger.number:
                if self._same(row):
                    continue
                if row.number <= self._committed:
                    raise Fork(
                        f"{self.ledger.path}: entry {row.number} is held by a majority, and the "
                        "coordinator sends another in its place; keep both copies and tell the organiser"
                    )
                self.ledger.cut(row.number - 1)
            self.ledger.take(row, self._verify)

    def _same(self, row: Row) -> bool:
        here = self.ledger.rows(row.number, 0, row.number)
        return here == [row]

    # --- as a candidate

    def next_term(self) -> int:
        """The lowest term of this voter above all that it has heard of."""
        term = max(self.seen, self.promised, self.leadership.term) + 1
        while self.leadership.owner(term) != self.me:
            term += 1
        return term

    def newest(self, term: int, votes: Mapping[str, Vote]) -> str | None:
        """Whose copy of the ledger has all that counts, of those who have promised; None while they
        are no majority, or this voter has promised itself to somebody else meanwhile."""
        counted = {x: v for x, v in votes.items() if self._counts(term, x, v)}
        bound = self.promised == term and self.leadership.term < term
        if not bound or len(counted) < self.leadership.majority:
            return None
        mine = self.me if self.me in counted else next(iter(counted))
        return max(counted, key=lambda x: (counted[x].newness, x == mine))

    def _counts(self, term: int, voter: str, vote: Vote) -> bool:
        words = promise_bytes(self.leadership.run, term)
        return voter in self.leadership.voters and self._verify(voter, words, vote.signature)

    def adopt(self, term: int, rows: Sequence[Row]) -> bool:
        """Take over entries of the newest copy. False if this voter has promised itself to somebody
        else meanwhile. Raises LedgerError, Fork."""
        if self.promised != term or self.leadership.term >= term:
            return False
        self._copy(rows)
        return True

    def become_leader(self, term: int, votes: Mapping[str, Vote]) -> bool:
        """Write the succession into the ledger. False: not now, somebody else has a newer copy or a
        newer promise."""
        newest = self.newest(term, votes)
        if newest is None or (self.leadership.term, self.ledger.number) < votes[newest].newness:
            return False
        promises = {x: v.signature.hex() for x, v in votes.items() if self._counts(term, x, v)}
        self.ledger.append(self.ledger.closed_rounds(), SuccessionEntry(term, self.me, promises))
        self._held.clear()
        self.leads = True
        return True

    # --- as the leader

    def acknowledged(self, voter: str, term: int, number: int, head: str) -> bool:
        """A voter's copy ends with this entry. False if the entry is not the one here."""
        self.seen = max(self.seen, term)
        if self.ledger.hash_at(number) != head:
            return False
        if self.leads and term == self.leadership.term and voter in self.leadership.voters:
            self._held[voter] = max(number, self._held.get(voter, -1))
        return True

    @property
    def committed(self) -> int:
        """The last entry that a majority of voters is known to hold, -1 if that is not known. For
        the leader only what a majority has acknowledged in this term counts, with all before it."""
        if self.leads:
            held = [self._held.get(x, -1) for x in self.leadership.voters if x != self.me]
            most = sorted([self.ledger.number, *held], reverse=True)[self.leadership.majority - 1]
            if most >= self.leadership.since:
                self._committed = max(self._committed, most)
        return self._committed
