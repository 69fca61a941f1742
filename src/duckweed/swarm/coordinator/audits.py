"""The audits of a run while it goes on: which contributions are done again, by whom, and what follows.

A contribution is drawn when its round has closed (duckweed.audit.draw). Its peer shows what it carried before
and after, through the coordinator. One peer does it again in place of its training, and is paid the tokens. If
that one finds fault, others are asked: only where nearly all of them agree the peer is put out, or the auditor
that stands alone. All of it stands in the ledger; what is not in it yet is drawn again after a restart.
"""

import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from duckweed.audit import draw
from duckweed.ledger.entries import AuditEntry, Verdict
from duckweed.merge.round import blob_hash
from duckweed.merge.trust import NEW
from duckweed.net.identity import verify
from duckweed.round.blocks import Span
from duckweed.round.carried import carried_limit
from duckweed.round.open_round import Member
from duckweed.round.signed import verdict_part
from duckweed.run.events import Said
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.coordinator.rounds import RoundDriver
from duckweed.swarm.protocol import messages as m

log = logging.getLogger(__name__)

KEEPERS = 5
"""Peers that keep the state that a drawn contribution follows on: one audits, the others are there if that one
is gone, or finds fault."""
PATIENCE = 2
"""Rounds that a peer has to begin to show what it carried, and an auditor to say what it found."""
LONGEST = 12
"""Rounds after which an audit is given up."""
AGREE = 4
"""Verdicts that must be the same, where the first finds fault; all, where fewer can be asked, and at least two.
If 4 of 10 auditors lie, they put out an honest peer in 7 of 100 audits of one; with two it would be 26."""

Outcome = Literal["passed", "failed", "absent", "disputed", "undone"]


class Case(msgspec.Struct):
    """The audit of one contribution."""

    round: int
    peer: int
    span: Span
    tokens: int
    loss: float
    blob: str
    before: str
    after: str
    order: list[int]
    """Who can audit it, in the order in which they are asked; those who were asked are gone from it."""
    keepers: list[int]
    """Who was told to keep the state."""
    since: int
    """The round that was open when it began to wait for what it waits for."""
    shown: set[str] = set()
    auditor: int | None = None
    """Who is at it."""
    verdicts: dict[int, Verdict] = {}

    @property
    def wanted(self) -> list[str]:
        """What its peer has still to show."""
        return [x for x in (self.before, self.after) if x and x not in self.shown]

    def decided(self) -> Literal["passed", "failed", "disputed"] | None:
        """What the verdicts come to; None while others are to be asked. A first one that it fits is enough."""
        found = [one.fits for one in self.verdicts.values()]
        needed = max(2, min(AGREE, len(self.keepers)))
        if found == [True] or found.count(True) >= needed:
            return "passed"
        if found.count(False) >= needed:
            return "failed"
        return None if self.order else "disputed"


def _unfinished(case: Case) -> Outcome:
    return "disputed" if case.verdicts else "undone"


class AuditDesk:
    """The open cases. Kept by the leader, and made anew from the ledger by the next one."""

    def __init__(self, rounds: RoundDriver, store: Store) -> None:
        self.rounds, self.store = rounds, store
        self.history, self.spec = rounds.history, rounds.spec
        self.cases: dict[tuple[int, int], Case] = {}
        self._late: list[Callable[[], None]] = []  # for when the round that is closing has closed
        rounds.closed = self.closed
        for number in range(max(0, self.history.number - LONGEST), self.history.number):
            self._draw(number)

    # --- when a round has closed

    def closed(self) -> None:
        """Draw the audits of the round that has just closed, and end those that wait in vain."""
        late, self._late = self._late, []
        for write in late:
            write()
        self._draw(self.history.number - 1)
        for case in list(self.cases.values()):
            self._push(case)

    def _draw(self, number: int) -> None:
        """Open the cases of a round that are not in the ledger yet. After a restart, those of older rounds
        only if all is here; another leader took the contributions of the rounds before, which are gone."""
        if not self.spec.audits:
            return
        closed, beacon = self.history.closed[number], self.history.beacon(number)
        handed, spans = self.history.handed[number], self.history.spans(number)
        standing = {} if closed.standing is msgspec.UNSET else closed.standing
        work = {x: standing.get(x, NEW).work for x in closed.accepted}
        for peer in draw.drawn(beacon, closed.accepted, self.spec.audits):
            if (number, peer) in self.history.audited or peer in self.history.out:
                continue
            said = handed[peer]
            order = draw.auditors(beacon, peer, work)[:KEEPERS]
            case = Case(
                number, peer, spans[peer], said.tokens, said.loss, said.blob, said.before, said.after,
                order, list(order), number + 1,
            )  # fmt: skip
            case.shown = {x for x in case.wanted if self._has(x)}
            old = number + 1 + PATIENCE < self.history.number
            if self._has(said.blob) and not (old and case.wanted):
                self.cases[number, peer] = case

    def _has(self, digest: str) -> bool:
        return self.store.folder.blob(digest).exists()

    def _push(self, case: Case) -> None:
        """End a case, or ask the next, where one is waited for too long."""
        now = self.history.number
        if case.peer in self.history.out:
            self._end(case, "undone")
        elif now - case.round > LONGEST:
            self._end(case, "absent" if case.wanted else _unfinished(case))
        elif now - case.since <= PATIENCE:
            return
        elif case.wanted:
            here = {x.index: x for x in self.rounds.here()}
            if case.peer not in here:
                self._end(case, "absent")
            elif here[case.peer].doing != "sending":  # a slow line is no fault
                self._end(case, "failed")
        elif case.auditor is not None:
            self._next(case)

    def _next(self, case: Case) -> None:
        """The auditor that was asked does not answer, or could not do it: the next one."""
        case.auditor, case.since = None, self.history.number
        if not case.order:
            self._end(case, _unfinished(case))

    # --- what peers are told

    def kept_by(self, member: Member) -> tuple[int, ...]:
        """Rounds of which a peer must keep the state that they follow on."""
        return tuple(sorted({c.round for c in self.cases.values() if member.index in c.keepers}))

    def task(self, member: Member) -> m.Show | m.Audit | None:
        """What a peer must do before it trains, or in place of it."""
        for case in self.cases.values():
            if case.peer == member.index and case.wanted:
                return m.Show(case.wanted)
        # First those in which fault was found: their peer is still in the run.
        for case in sorted(self.cases.values(), key=lambda case: not case.verdicts):
            if self._turn(case) == member.index and self._spared(member):
                if case.auditor is None:
                    case.auditor, case.since = member.index, self.history.number
                    case.order.remove(member.index)
                self.rounds.excuse(member)
                return m.Audit(
                    case.round, case.peer, case.span.block, case.span.first, case.span.steps,
                    case.loss, case.blob, case.before, case.after,
                )  # fmt: skip
        return None

    def _spared(self, member: Member) -> bool:
        """Whether the open round can do without a peer's training: two thirds train, but that one audits in a
        round of any size."""
        open_ = self.rounds.open
        if open_ is None or member.index in open_.excused:
            return open_ is not None
        return 3 * (len(open_.excused) + 1) <= max(3, len(self.rounds.here()))

    def _turn(self, case: Case) -> int | None:
        """Whose turn it is to audit: the first in the order that is here."""
        if case.wanted:
            return None
        if case.auditor is not None:
            return case.auditor
        here = {x.index for x in self.rounds.here()}
        return next((x for x in case.order if x in here), None)

    # --- what peers hand in

    def limit(self, member: Member | None, question: m.Shown) -> int:
        """Most bytes of what a peer shows: nothing that it was not asked for."""
        asked = member and any(
            c.peer == member.index and question.blob in c.wanted for c in self.cases.values()
        )
        return carried_limit(self.rounds.engine.layout) if asked else 0

    def shown(self, member: Member, blob: str, body: bytes) -> m.Answer:
        """What a peer carried."""
        if blob_hash(body) != blob:
            return m.Refused("what came is not what the announcement names")
        for case in self.cases.values():
            if case.peer == member.index and blob in case.wanted:
                self.rounds.engine.blobs.write(blob, body)
                case.shown.add(blob)
                case.since = self.history.number
        return m.Ack()

    def found(self, member: Member, question: m.Audited, genesis: str) -> m.Answer:
        """What an auditor has found."""
        case = self.cases.get((question.round, question.peer))
        if case is None or case.auditor != member.index:
            return m.Refused("this audit is not asked of this peer, or no more")
        part = verdict_part(genesis, question.round, question.peer, question.fits, question.detail)
        if not verify(member.key, part, question.signature):
            return m.Refused("the signature does not fit the verdict")
        if not question.done:
            log.info("peer %d could not audit: %s", member.index, question.detail)
            self._next(case)
            return m.Ack()
        verdict = Verdict(question.fits, question.detail, question.signature.hex())
        case.verdicts = case.verdicts | {member.index: verdict}
        case.auditor, case.since = None, self.history.number
        if outcome := case.decided():
            self._end(case, outcome)
        return m.Ack()

    # --- the ledger

    def _end(self, case: Case, outcome: Outcome) -> None:
        """Write how a case ended. Not while a round is closing: its weights are being computed."""
        self.cases.pop((case.round, case.peer), None)
        liars = [x for x, one in case.verdicts.items() if outcome == "passed" and not one.fits]
        entry = AuditEntry(case.peer, outcome, case.tokens, case.verdicts, liars)
        open_ = self.rounds.open
        if open_ is not None and open_.closing and open_.number == self.history.number:
            self._late.append(lambda: self._write(case, entry))
        else:
            self._write(case, entry)

    def _write(self, case: Case, entry: AuditEntry) -> None:
        self.history.audit(case.round, entry)
        needed = {x for c in self.cases.values() for x in (c.before, c.after)}
        for digest in {case.before, case.after} - needed - {""}:
            self.store.folder.blob(digest).unlink(missing_ok=True)
        for peer in entry.out:
            why = "its work was not what it said" if peer == case.peer else "its verdict was false"
            self.rounds.tell(
                Said(f"peer {peer} is put out by the audit of round {case.round}: {why}")
            )
