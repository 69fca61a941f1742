"""The audits of a run while it goes on: which contributions are done again, by whom, and what follows.

A contribution is drawn when its round has closed (duckweed.audit.draw). Its peer shows what it carried before
and after, through the coordinator. One peer does it again in place of its training, and is paid the tokens. If
that one finds fault, others are asked until two agree: then the peer is put out, or the auditor that was
wrong. All of it stands in the ledger; what is not in it yet is drawn again by the next leader.
"""

import logging
from collections.abc import Callable

import msgspec

from duckweed.audit import draw
from duckweed.ledger.entries import AuditEntry, Verdict
from duckweed.merge.round import blob_hash
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
"""So many peers keep the state that a drawn contribution follows on: one audits, the others are there if that
one is gone, or finds fault."""
PATIENCE = 2
"""Rounds that a peer has to show what it carried, and an auditor to say what it found."""
LONGEST = 12
"""Rounds after which an audit that nobody could do is given up."""
AGREE = 2
"""Verdicts that must be the same, where the first finds fault."""


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

    def decided(self) -> bool | None:
        """Whether the contribution fits; None while that is open. A first verdict that it fits is enough."""
        found = [one.fits for one in self.verdicts.values()]
        if found == [True]:
            return True
        for fits in (True, False):
            if found.count(fits) >= AGREE:
                return fits
        return None


class AuditDesk:
    """The open cases. Kept by the leader, and made anew from the ledger by the next one."""

    def __init__(self, rounds: RoundDriver, store: Store) -> None:
        self.rounds, self.store = rounds, store
        self.history, self.spec = rounds.history, rounds.spec
        self.cases: dict[tuple[int, int], Case] = {}
        self._late: list[Callable[[], None]] = []  # for when the round that is closing has closed
        rounds.closed = self.closed
        for number in range(max(0, self.history.number - PATIENCE), self.history.number):
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
        """Open the cases of a round that are not in the ledger yet."""
        if not self.spec.audits:
            return
        closed, beacon = self.history.closed[number], self.history.beacon(number)
        handed = self.history.handed.get(number, {})
        spans = self.history.spans(number)
        for peer in draw.drawn(beacon, closed.accepted, self.spec.audits):
            if (number, peer) in self.history.audited or peer in self.history.out:
                continue
            said = handed[peer]
            work = {
                x: self.history.memory[x].work if x in self.history.memory else 0
                for x in closed.accepted
            }
            order = draw.auditors(beacon, peer, work)
            case = Case(
                number, peer, spans[peer], said.tokens, said.loss, said.blob, said.before,
                said.after, order[:KEEPERS], order[:KEEPERS], self.history.number,
            )  # fmt: skip
            case.shown = {x for x in case.wanted if self.store.folder.blob(x).exists()}
            self.cases[number, peer] = case

    def _push(self, case: Case) -> None:
        """End a case, or ask the next, where one is waited for too long."""
        now = self.history.number
        if case.peer in self.history.out or now - case.round > LONGEST:
            self._end(case, "undone")
        elif now - case.since <= PATIENCE:
            return
        elif case.wanted:
            here = any(x.index == case.peer for x in self.rounds.here())
            self._end(case, "failed" if here else "absent")
        elif case.auditor is not None:
            self._next(case)

    def _next(self, case: Case) -> None:
        """The auditor that was asked does not answer, or could not do it: the next one."""
        case.auditor, case.since = None, self.history.number
        if not case.order:
            self._end(case, "undone")

    # --- what peers are told

    def keeps(self, member: Member, number: int) -> bool:
        """Whether a peer must keep the state that a round follows on."""
        return any(c.round == number and member.index in c.keepers for c in self.cases.values())

    def task(self, member: Member) -> m.Show | m.Audit | None:
        """What a peer must do before it trains, or in place of it."""
        for case in self.cases.values():
            if case.peer == member.index and case.wanted:
                return m.Show(case.wanted)
        for case in self.cases.values():
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
        """Whether the open round can do without a peer's training: at least half must train."""
        open_ = self.rounds.open
        if open_ is None or member.index in open_.excused:
            return open_ is not None
        return 2 * (len(open_.excused) + 1) <= len(self.rounds.here())

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
        fits = case.decided()
        if fits is not None:
            self._end(case, "passed" if fits else "failed")
        elif not case.order:
            self._end(case, "undone")
        return m.Ack()

    # --- the ledger

    def _end(self, case: Case, outcome: str) -> None:
        """Write how a case ended. Not while a round is closing: its weights are being computed."""
        self.cases.pop((case.round, case.peer), None)
        liars = (
            [] if outcome not in ("passed", "failed") else self._liars(case, outcome == "passed")
        )
        entry = AuditEntry(case.peer, outcome, case.tokens, case.verdicts, liars)  # type: ignore[arg-type]
        open_ = self.rounds.open
        if open_ is not None and open_.closing and open_.number == self.history.number:
            self._late.append(lambda: self._write(case, entry))
        else:
            self._write(case, entry)

    def _liars(self, case: Case, fits: bool) -> list[int]:
        return [x for x, one in case.verdicts.items() if one.fits != fits]

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
