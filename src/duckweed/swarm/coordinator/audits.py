"""The audits of a run while it goes on: which contributions are done again, by whom, and what follows.

A contribution is drawn when its round has closed (duckweed.audit.draw). Its peer shows it with what it carried
before and after, through the coordinator, and trains meanwhile. One peer does it again in place of its own
training, and is paid the tokens. If that one finds fault, others are asked (duckweed.audit.outcomes). No round
waits for an audit: whoever is asked has PATIENCE rounds, and an audit is given up after LONGEST.

How an audit ended stands in the ledger. What is not there yet is drawn again by the next leader, or after a
restart: cases follow from the ledger alone, and files that this machine lacks are asked for again.
"""

import logging
from collections.abc import Callable

import msgspec

from duckweed.audit import draw, outcomes
from duckweed.audit.draw import LONGEST
from duckweed.ledger.entries import AuditEntry, Outcome, Verdict
from duckweed.merge.round import blob_hash
from duckweed.merge.trust import NEW
from duckweed.net import clock
from duckweed.net.identity import verify
from duckweed.round.blocks import Span
from duckweed.round.carried import carried_limit
from duckweed.round.open_round import Member
from duckweed.round.signed import verdict_part
from duckweed.run.events import Said
from duckweed.run.folder import write_atomically
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.coordinator.rounds import RoundDriver
from duckweed.swarm.protocol import messages as m
from duckweed.wire.codec import codec_of

log = logging.getLogger(__name__)

KEEPERS = 5
"""Peers that keep the state that a drawn contribution follows on: one audits, the others are there if that one
is gone, or finds fault."""
PATIENCE = 3
"""Rounds that a peer has to show its work while it is here, and an auditor to say what it found; more where a
slow line needs longer."""
SLOW_LINE = 1_250_000
"""Bytes a second of a line that is slow: 10 Mbit/s."""
UNASKED = 1 << 30
"""Bytes that a peer carries at most, 16 a parameter, up to which there are audits where the specification does
not ask for them: some sixty million parameters. What is shown goes whole through this machine's memory."""


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
    keepers: list[int]
    """Who was told to keep the state."""
    order: list[int]
    """Those of them who can still be asked, the next one first."""
    missing: set[str]
    """Hashes of what its peer has still to show."""
    since: float
    """When it began to wait for what it waits for."""
    waited: int = 0
    """Rounds that have closed meanwhile, of those in which the one that is waited for was here."""
    asked: set[int] = set()
    """Auditors who were asked."""
    verdicts: dict[int, Verdict] = {}

    def wait_anew(self) -> None:
        """It waits for somebody else from now on."""
        self.since, self.waited = clock.now(), 0


class AuditDesk:
    """The open cases of the run that this machine leads."""

    def __init__(self, rounds: RoundDriver, store: Store) -> None:
        self.rounds, self.store = rounds, store
        self.history, self.spec = rounds.history, rounds.spec
        layout = rounds.engine.layout
        self._largest = carried_limit(layout)
        self._contribution = codec_of(self.spec.wire, layout).blob_limit
        unasked = self.spec.members.audits is msgspec.UNSET
        self.share = 0.0 if unasked and self._largest > UNASKED else self.spec.audits
        self.cases: dict[tuple[int, int], Case] = {}
        self._late: list[Callable[[], None]] = []  # for when the round that is closing has closed
        rounds.closed = self.closed
        for number in range(max(0, self.history.number - LONGEST), self.history.number):
            self._draw(number)
        self._tidy()

    # --- when a round has closed

    def closed(self) -> None:
        """Draw the audits of the round that has just closed, and end those that wait in vain; all of them
        where it was the last."""
        late, self._late = self._late, []
        for write in late:
            write()
        here = {x.index for x in self.rounds.here()}
        for case in list(self.cases.values()):
            self._grow_older(case, here)
        self._draw(self.history.number - 1)
        if self._over:
            for case in list(self.cases.values()):
                self._end(case, _unfinished(case))

    @property
    def _over(self) -> bool:
        """Whether there is no round left in which anything could be audited."""
        return self.history.number >= self.spec.schedule.rounds

    def _draw(self, number: int) -> None:
        """Open the cases of a round that are not in the ledger yet."""
        if not self.share or self._over:
            return
        closed, beacon = self.history.closed[number], self.history.beacon(number)
        handed, spans = self.history.handed[number], self.history.spans(number)
        standing = {} if closed.standing is msgspec.UNSET else closed.standing
        work = {x: standing.get(x, NEW).work for x in closed.accepted}
        for peer in draw.drawn(beacon, closed.carrying(), self.share):
            said = handed[peer]
            ended = (number, peer) in self.history.audited or peer in self.history.out
            if ended or not said.after:  # a version without audits wrote that round
                continue
            keepers = draw.auditors(beacon, peer, work)[:KEEPERS]
            needed = {x for x in (said.blob, said.before, said.after) if x}
            self.cases[number, peer] = Case(
                number, peer, spans[peer], said.tokens, said.loss, said.blob, said.before, said.after,
                keepers, list(keepers), {x for x in needed if not self._has(x)}, clock.now(),
            )  # fmt: skip

    def _has(self, digest: str) -> bool:
        folder = self.store.folder
        return folder.blob(digest).exists() or folder.shown_blob(digest).exists()

    def _grow_older(self, case: Case, here: set[int]) -> None:
        """A round has closed: end a case, or ask the next auditor, where one is waited for too long."""
        turn = self._turn(case, here)
        # Nobody is blamed for not having been asked, where enough others have audited.
        case.waited += turn in here and bool(case.missing or turn in case.asked or self._spared())
        # A slow line is no fault.
        slow = clock.now() - case.since < 2 * self._largest / SLOW_LINE
        late = case.waited >= PATIENCE and not slow
        if case.peer in self.history.out:
            self._end(case, "undone")
        elif self.history.number - case.round > LONGEST:
            self._end(case, "absent" if case.missing else _unfinished(case))
        elif late and case.missing:
            self._end(case, "unshown")
        elif late and turn is not None:
            self._pass_on(case, turn)

    def _turn(self, case: Case, here: set[int]) -> int | None:
        """Who is waited for: the peer that has to show its work, or the next auditor that is here."""
        if case.missing:
            return case.peer
        return next((x for x in case.order if x in here), None)

    def _pass_on(self, case: Case, auditor: int) -> None:
        """An auditor has said what it has to say, or nothing for too long."""
        case.order.remove(auditor)
        case.wait_anew()
        able = set(case.keepers) - self.history.out
        outcome = outcomes.decided(case.verdicts, len(able), not able.isdisjoint(case.order))
        if outcome:
            self._end(case, outcome if case.verdicts else "undone")

    # --- what peers are told

    def kept_by(self, member: Member) -> tuple[int, ...]:
        """Rounds of which a peer must keep the state that they follow on."""
        return tuple(sorted({c.round for c in self.cases.values() if member.index in c.keepers}))

    def shown_by(self, member: Member) -> tuple[str, ...]:
        """Hashes of what a peer must show."""
        own = (case.missing for case in self.cases.values() if case.peer == member.index)
        return tuple(sorted(set[str]().union(*own)))

    def task(self, member: Member) -> m.Audit | None:
        """What a peer must audit in place of training for the open round."""
        if not self.cases or not self._spared():
            return None
        here = {x.index for x in self.rounds.here()}
        # First those in which fault was found: their peer is still in the run.
        for case in sorted(self.cases.values(), key=lambda case: not case.verdicts):
            if not case.missing and self._turn(case, here) == member.index:
                if member.index not in case.asked:
                    case.asked.add(member.index)
                    case.wait_anew()
                self.rounds.excuse(member)
                return m.Audit(
                    case.round, case.peer, case.span.block, case.span.first, case.span.steps,
                    case.tokens, case.loss, case.blob, case.before, case.after,
                )  # fmt: skip
        return None

    def _spared(self) -> bool:
        """Whether the open round can do without one more peer's training: two thirds train, but one audits in
        a round of any size."""
        open_ = self.rounds.open
        return open_ is not None and 3 * (len(open_.excused) + 1) <= max(3, len(self.rounds.here()))

    # --- what peers hand in

    def limit(self, member: Member | None, question: m.Shown) -> int:
        """Most bytes of what a peer shows: nothing that it was not asked for."""
        if member is None:
            return 0
        own = [c for c in self.cases.values() if c.peer == member.index]
        wanted = [c for c in own if question.blob in c.missing]
        if not wanted:
            return 0
        return self._contribution if question.blob == wanted[0].blob else self._largest

    def shown(self, member: Member, blob: str, body: bytes) -> m.Answer:
        """What a peer has to show of a contribution."""
        if blob_hash(body) != blob:
            return m.Refused("what came is not what the announcement names")
        for case in self.cases.values():
            if case.peer == member.index and blob in case.missing:
                folder = self.store.folder
                kept = folder.blob(blob) if blob == case.blob else folder.shown_blob(blob)
                write_atomically(kept, body)
                case.missing.discard(blob)
                case.wait_anew()
        return m.Ack()

    def found(self, member: Member, question: m.Audited, genesis: str) -> m.Answer:
        """What an auditor has found."""
        case = self.cases.get((question.round, question.peer))
        asked = case is not None and member.index in case.asked and member.index in case.order
        if case is None or not asked or self.rounds.deposed:
            return m.Refused("this audit is not asked of this peer, or no more")
        part = verdict_part(genesis, question.round, question.peer, question.fits, question.detail)
        if not verify(member.key, part, question.signature):
            return m.Refused("the signature does not fit the verdict")
        if question.done:
            verdict = Verdict(question.fits, question.detail, question.signature.hex())
            case.verdicts = case.verdicts | {member.index: verdict}
        else:
            log.info("peer %d could not audit: %s", member.index, question.detail)
        self._pass_on(case, member.index)
        return m.Ack()

    # --- the ledger

    def _end(self, case: Case, outcome: Outcome) -> None:
        """Write how a case ended. Not while a round is closing: its weights are being computed from what is
        remembered of its peers."""
        self.cases.pop((case.round, case.peer), None)
        open_ = self.rounds.open
        if open_ is not None and open_.closing and open_.number == self.history.number:
            self._late.append(lambda: self._write(case, outcome))
        else:
            self._write(case, outcome)

    def _write(self, case: Case, outcome: Outcome) -> None:
        at, before = self.history.number, self.history.audits()
        out = outcomes.put_out(case.round, case.peer, outcome, case.verdicts, at, before)
        entry = AuditEntry(case.peer, outcome, case.tokens, at, case.verdicts, out)
        self.history.audit(case.round, entry)
        self.rounds.admission.audited(entry)
        self._tidy()
        for peer in out:
            self.rounds.tell(
                Said(
                    f"peer {peer} is put out by the audit of round {case.round}, peer {case.peer}: {outcome}"
                )
            )

    def _tidy(self) -> None:
        """Remove what peers carried and no audit needs."""
        needed = {x for case in self.cases.values() for x in (case.before, case.after)}
        for path in self.store.folder.shown.glob("*"):
            if path.name not in needed:
                path.unlink(missing_ok=True)


def _unfinished(case: Case) -> Outcome:
    return "disputed" if case.verdicts else "undone"
