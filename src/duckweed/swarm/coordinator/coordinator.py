"""The coordinator: answers the questions of peers while this machine leads the run. Needs no weights.

It may be killed at any instant: a contribution is on disk before it is acknowledged, and the next coordinator
finds everything else in the ledger. Its rounds are driven by duckweed.swarm.coordinator.rounds.
"""

import logging
from collections.abc import Mapping

import msgspec
from msgspec import UNSET

from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.ledger.succession import Voter
from duckweed.net import clock
from duckweed.net.framing import Accept
from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import POLL
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.round.history import RunHistory
from duckweed.round.open_round import Member, OpenRound
from duckweed.run import toml
from duckweed.run.events import ContributionRefused, PeerLeft, StateDiffers, Tell
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.task.rollouts import blob_limit
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.coordinator import fetch_groups, handed_in, intake, status
from duckweed.swarm.coordinator.admission import Admission
from duckweed.swarm.coordinator.agreement import Agreement, voters
from duckweed.swarm.coordinator.audits import AuditDesk
from duckweed.swarm.coordinator.guest_book import GuestBook
from duckweed.swarm.coordinator.handed_in import Handed
from duckweed.swarm.coordinator.rounds import RoundDriver
from duckweed.swarm.coordinator.traffic import Traffic
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.server import accepting, take_turn
from duckweed.wire.codec import codec_of

log = logging.getLogger(__name__)
TOLD = 5  # events that a peer may cause in a round


class Coordinator:
    """Answers the questions of peers. Its parts: who takes part (`admission`), which state is the right
    one (`agreement`), what can be fetched (`store`), and the rounds."""

    def __init__(
        self, folder: RunFolder, spec: RunSpec, layout: Layout, ledger: Ledger, tell: Tell,
        voter: Voter, rate_limits: RateLimits,
    ) -> None:  # fmt: skip
        self.spec, self.layout, self.tell = spec, layout, tell
        self.history = RunHistory(folder, spec, layout, ledger)
        self.admission = Admission(
            self.history, GuestBook(folder.guests), folder.read_secret(), spec.members, rate_limits
        )
        self.agreement = Agreement(self.history)
        self.store = Store(folder)
        self.engine = Engine(spec, layout, FolderBlobs(folder))
        self.traffic = Traffic(self.admission)
        self.rounds = RoundDriver(
            folder, self.engine, self.history, self.admission, self.traffic, voter, tell
        )
        self.audits = AuditDesk(self.rounds, self.store)

    # --- questions

    @property
    def accept(self) -> Accept:
        """What is done with a question, from its bytes to those of the answer."""
        return accepting(
            m.question,
            self.body_limit,
            self.handle,
            self.traffic.count,
            self.admission.rate_limits.fault,
        )

    def body_limit(self, peer: str, question: m.AnyQuestion | None) -> int:
        """Most bytes of body that may follow a question; None: one that is refused, which may be a
        contribution. Raises ValueError for a contribution of a stranger."""
        member = peer in self.admission.members
        contribution = codec_of(self.spec.wire, self.layout).blob_limit + blob_limit(self.spec)
        if question is None:
            return contribution if member else 0
        if isinstance(question, m.Probe):
            objection = self.admission.objection(peer, m.PROTOCOL, question.secret)
            return 0 if objection else m.PROBE_LIMIT
        if isinstance(question, m.Shown):
            return self.audits.limit(self.admission.members.get(peer), question)
        if not isinstance(question, m.Contribute | m.Wrote):
            return 0
        if not member:
            raise ValueError("a contribution of a stranger")
        return contribution if isinstance(question, m.Contribute) else blob_limit(self.spec)

    async def handle(
        self, peer: str, question: m.AnyQuestion, body: bytes
    ) -> tuple[m.Answer, bytes]:
        """Answer one question of the holder of key `peer`. Raises ValueError if it is not one for a
        coordinator, or one too many."""
        await take_turn(self.admission.rate_limits, peer, question)
        try:
            return await self._answer(peer, question, body)
        except (OSError, LedgerError) as error:
            await self.rounds.fail(error)  # a full disk, for example
            raise

    async def _answer(
        self, peer: str, question: m.AnyQuestion, body: bytes
    ) -> tuple[m.Answer, bytes]:
        if isinstance(question, m.Join | status.Outside):
            protocol = m.PROTOCOL if isinstance(question, m.Probe) else question.protocol
            if objection := self.admission.objection(peer, protocol, question.secret):
                return self._refuse(peer, "not admitted", objection), b""
            if not isinstance(question, m.Join):
                return status.answer(self.rounds, question, body)
            if question.writes and self.spec.no_writers:
                return self._refuse(peer, "not admitted", self.spec.no_writers), b""
            if objection := self.admission.crowd(peer):
                return self._refuse(peer, "too many newcomers", objection), b""
            return await self._admit(peer, question), b""
        member = self.admission.members.get(peer)
        out = self.admission.put_out(peer)
        if member is None or out:
            if member and not isinstance(
                question, m.Progress
            ):  # it takes no notice of those answers
                member.doing = "gone"
            return self._refuse(peer, "strangers", out or "join first"), b""
        if member.doing == "gone":
            return m.Refused("this peer has left; join again"), b""
        self.admission.hear(member)
        match question:
            case m.Next():
                member.shared = (question.given, question.fetched)
                return await self._next(member, question), b""
            case m.Ahead():
                return self._ahead(member, question), b""
            case m.Contribute():
                return await self._take(member, question, body), b""
            case m.Wrote():
                return await self._take_writing(member, question, body), b""
            case m.Shown(blob=blob):
                return self.audits.shown(member, blob, body), b""
            case m.Audited():
                answer = self.audits.found(member, question, self.history.genesis_hash)
                await self.rounds.notify(news=True)
                return answer, b""
            case m.GetSavedState() | m.GetStatePiece() | m.GetBlobPiece():
                return self.store.give(question)
            case m.Fetch(blob=blob):
                # Whoever learns from answers is alone with them: nobody else has pieces of them to give.
                alone = any(x.rollouts == blob for x in self.history.writings)
                here = [] if alone else self.admission.here()
                return fetch_groups.fetch(self.store, here, member, question)
            case m.GetDonors():
                return fetch_groups.donors(self.history.agreed, self.admission.here(), member), b""
            case m.IsMember(key=key):
                known = key in self.admission.members and not self.admission.put_out(key)
                return m.Ack() if known else m.Refused("that key takes no part in this run"), b""
            case m.Progress():
                member.doing, member.at = question.doing, question.round
                member.step, member.loss = question.step, question.loss
                if self.rounds.open and member.works_for(self.rounds.open.number):
                    member.idle = False
                return m.Ack(self.admission.beat), b""
            case m.Leave():
                await self._left(member, question.reason)
                return m.Ack(), b""
        raise ValueError("not a question for a coordinator")

    def _refuse(self, key: str, kind: str, reason: str) -> m.Refused:
        log.info("refused %s (%s): %s", key[:10], kind, reason)
        self.admission.rate_limits.fault(key, kind)
        return m.Refused(reason)

    async def _admit(self, key: str, join: m.Join) -> m.Answer:
        new = key not in self.admission.members
        member = self.admission.admit(key, join.secret, self.rounds.number)
        member.addresses, member.pace = join.addresses, member.pace or join.pace
        member.writes = join.writes
        if new and self.rounds.open:
            member.idle = True  # keys cost nothing: it is waited for once it has asked for work
        log.info("peer %d joined: key %s, from %s", member.index, key[:10], member.origin)
        await self.rounds.notify()
        return m.Welcome(
            member.index,
            toml.write(self.spec),
            self.history.carrying_since.get(member.index, -1),
            self.layout.digest(),
            self.history.tokens,
            self.rounds.in_hand(member.index),
            self.history.genesis,
        )

    async def _next(self, member: Member, question: m.Next) -> m.Answer:
        closes = clock.now() + POLL
        voted = False
        while True:
            if self.rounds.held(-1) and not voted:
                voted = True
                if fault := await self._vote(member, question):
                    return fault
            if self.rounds.deposed:
                return m.Wait("another machine leads the run now")
            closed = self.history.closed.get(question.round)
            if closed and not self._held_back(question.round):
                return m.Apply(closed, self.audits.kept_by(member), self.audits.shown_by(member))
            if question.round == self.spec.schedule.rounds:
                if question.round in self.history.agreed:
                    return m.Stop(m.ALL_DONE)
            elif member.writes:
                if span := self.rounds.writing(member, question.round):
                    return m.Write(question.round, span.block, span.first, span.steps)
            elif (open_ := self.rounds.open) and open_.wants(
                member.index, question.round, question.contributed
            ):
                return self.audits.task(member) or self._train(member, open_)
            if not await self.rounds.news.wait(closes - clock.now()):
                return m.Wait(self.rounds.waiting_for())

    def _held_back(self, round_: int) -> bool:
        """Whether peers must not apply a closed round yet: a majority of the voters does not hold it. With
        overlap, after a restart, the last round also waits until the next is open, since peers begin
        that one from the state before it."""
        if not self.rounds.held(round_):
            return True
        starting = self.rounds.open is None and self.rounds.number < self.spec.schedule.rounds
        return starting and round_ == self.rounds.number - 1 and self.spec.rounds.overlap > 0

    def _train(self, member: Member, open_: OpenRound) -> m.Train:
        span = self.rounds.assign(member, open_)
        return m.Train(
            round=open_.number,
            block=span.block,
            share=open_.share(member.index),
            shares=len(open_.assigned),
            evaluate=open_.number % self.spec.rounds.evaluate == 0,
            first=span.first,
            steps=span.steps,
            answers=tuple(open_.answers_for(member.index)),
        )

    def _ahead(self, member: Member, question: m.Ahead) -> m.Answer:
        """Work for the round after the one that the peer has done: that may be the open round, where
        the peer is catching up, or the one that opens next."""
        number, open_ = question.round + 1, self.rounds.open
        if not self.spec.rounds.overlap or open_ is None or self.rounds.ended:
            return m.Wait("nothing to train ahead")
        if number == open_.number and open_.lacks(member.index):
            return self._train(member, open_)
        if number == open_.number + 1 < self.spec.schedule.rounds:
            return self._train(member, self.rounds.ahead(number))
        return m.Wait(f"round {number} is not one to train ahead for")

    async def _take(self, member: Member, question: m.Contribute, body: bytes) -> m.Answer:
        open_, said = self.rounds.open, question.announcement
        writes = said.rollouts is not UNSET
        blob, rollouts = (body[: said.size], body[said.size :]) if writes else (body, b"")
        codec = codec_of(self.spec.wire, self.layout)
        if reason := intake.objection(
            self.spec, self.history, open_, member, question, blob, rollouts, codec
        ):
            late = open_ is not None and said.round < open_.number
            if open_ is not None and not open_.closing and not late:
                open_.refuse(member.index, said)
            if late and intake.own(self.history.genesis_hash, member, question):
                member.worked(late=True)
            self._tell(member, ContributionRefused(member.index, reason))
            return self._refuse(member.key, "contributions", reason)
        assert open_ is not None
        if member.index in open_.contributions:
            return m.Ack()
        self.engine.blobs.write(said.blob, blob)
        if said.rollouts is not UNSET:
            self.engine.blobs.write(said.rollouts, rollouts)
        nats, signature = (question.nats, question.tokens), question.signature
        handed = Handed(said, signature, question.timings, nats, question.written)
        handed_in.note(self.store.folder, handed, first=not open_.contributions)
        open_.take(member, said, signature, question.timings, nats, clock.now(), question.written)
        self.rounds.look_into(open_, member.index)
        await self.rounds.notify()
        return m.Ack()

    async def _take_writing(self, member: Member, question: m.Wrote, body: bytes) -> m.Answer:
        """Answers of a peer that only writes."""
        said, task = question.writing, self.rounds.writers.tasks.get(member.index)
        if task and task.round != said.round:
            task = None
        if task and task.said:
            return m.Ack()
        span = task.span if task else None
        if reason := intake.writing_objection(
            self.spec, self.history, span, member, question, body
        ):
            if task:
                task.fault = reason
            member.worked(late=True)
            self._tell(member, ContributionRefused(member.index, reason))
            await self.rounds.notify()
            return self._refuse(member.key, "contributions", reason)
        assert task is not None
        self.engine.blobs.write(said.rollouts, body)
        signed = msgspec.structs.replace(said, signature=question.signature.hex())
        self.rounds.take_writing(member, task, signed, question.written)
        return m.Ack()

    async def _left(self, member: Member, reason: str) -> None:
        member.here, member.doing = False, "gone"
        log.info("peer %d left: %s", member.index, reason)
        if self.rounds.number < self.spec.schedule.rounds:
            self._tell(member, PeerLeft(member.index, reason))
        await self.rounds.notify()

    def _tell(self, member: Member, event: PeerLeft | ContributionRefused | StateDiffers) -> None:
        """Tell what a member has caused, but not more often than TOLD times in a round: events are kept on
        disk for good."""
        round_, count = member.told
        count = count + 1 if round_ == self.rounds.number else 1
        member.told = self.rounds.number, count
        if count <= TOLD:
            self.tell(event)
        else:
            self.admission.rate_limits.refused["events: too many of one peer in a round"] += 1

    # --- agreement on the state

    async def _vote(self, member: Member, question: m.Next) -> m.Stop | None:
        """Note which state a peer holds; the state that most hold is written into the ledger."""
        number = question.round
        if self.history.agreed.get(number) == question.hash:
            return None
        if number > self.rounds.number:
            return m.Stop(
                f"this peer is at round {number}, the run at {self.rounds.number}", fault=True
            )
        if self.agreement.vote(number, member.index, question.hash, self._says(number)):
            await self.rounds.notify(news=True)
        if (reason := self.agreement.differs(number, question.hash)) is None:
            return None
        self._tell(member, StateDiffers(member.index, number))
        return m.Stop(reason, fault=True)

    def _says(self, number: int) -> Mapping[int, int]:
        """Who decides which state is the right one, and the tokens of its work; where the merge rule remembers
        nobody's, all the same."""
        here = {member.index for member in self.rounds.here()}
        known = self.admission.by_index.values()
        missed = {x.index for x in known if x.heard or not self.rounds.gathering} - here
        memory = self.history.memory
        deciding = voters(self.history.counted(number), here, missed)
        return {peer: max(1, memory[peer].work) if peer in memory else 1 for peer in deciding}
