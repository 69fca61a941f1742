"""The coordinator: admits peers, opens and closes rounds, keeps the ledger. Needs no weights.

It survives being killed at any instant: blobs are on disk before a round closes, and a round is
closed by one insert into the ledger. What is not in the ledger has not happened.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence

from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.ledger.succession import Voter
from duckweed.net import clock
from duckweed.net.framing import Accept
from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import GATHER, POLL, STATE_CHECK
from duckweed.net.wakeup import Wakeup
from duckweed.round.blocks import Member, OpenRound, budgets
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.round.history import Past
from duckweed.round.round_record import epoch, told
from duckweed.run import toml
from duckweed.run.events import ContributionRefused, PeerLeft, RoundClosed, Said, StateDiffers, Tell
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.coordinator import fetch_groups, intake, status
from duckweed.swarm.coordinator.admission import Admission
from duckweed.swarm.coordinator.agreement import Agreement, voters
from duckweed.swarm.coordinator.guest_book import EXPELLED, Guests
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.server import accepting
from duckweed.wire.codec import codec_of

log = logging.getLogger(__name__)


class Coordinator:
    """The state of a run while it is served; `handle` answers the questions of peers."""

    def __init__(
        self, folder: RunFolder, spec: RunSpec, layout: Layout, ledger: Ledger, tell: Tell,
        voter: Voter, guard: RateLimits,
    ) -> None:  # fmt: skip
        self.folder, self.spec, self.layout, self.ledger, self.tell = (
            folder, spec, layout, ledger, tell,
        )  # fmt: skip
        self.voter, self.deposed = voter, False
        self.past = Past(folder, spec, layout, ledger)
        self.admission = Admission(
            self.past, Guests(folder.guests), folder.read_secret(), spec.members, guard
        )
        self.agreement = Agreement(self.past)
        self.store = Store(folder)
        self.engine = Engine(spec, layout, FolderBlobs(folder))
        self.traffic: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.durations: deque[float] = deque(maxlen=64)
        self.last: RoundClosed | None = None  # how the last round closed
        self.held_out: float | None = None
        self.stopping = ""
        self.broken: Exception | None = None
        self._began, self._was_held = clock.now(), False
        self._gathered = (0, self._began)  # peers that are here, and since when so many
        self._background: set[asyncio.Task[None]] = set()
        self._changed = Wakeup()  # anything that may close a round
        self._news = Wakeup()  # a round opened or closed: what peers wait for
        self.round: OpenRound | None = None
        self.coming: OpenRound | None = None  # the next, if somebody trains for it already

    @property
    def number(self) -> int:
        """How many rounds are closed."""
        return self.past.number

    # --- questions

    @property
    def accept(self) -> Accept:
        """What is done with a question, from its bytes to those of the answer."""
        return accepting(m.question, self.body_limit, self.handle, self.count)

    def body_limit(self, peer: str, question: m.AnyQuestion) -> int:
        """Most bytes of body that may follow a question. Raises ValueError for a stranger."""
        if isinstance(question, m.Probe):
            objection = self.admission.objection(peer, m.PROTOCOL, question.secret)
            return 0 if objection else m.PROBE_LIMIT
        if not isinstance(question, m.Contribute):
            return 0
        if peer not in self.admission.members:
            raise ValueError("a contribution of a stranger")
        return codec_of(self.spec.wire, self.layout).blob_limit

    async def handle(
        self, peer: str, question: m.AnyQuestion, body: bytes
    ) -> tuple[m.Answer, bytes]:
        """Answer one question of the holder of key `peer`. Raises ValueError if it is not one for a
        coordinator, or one too many."""
        self.admission.guard.asks(peer)
        try:
            return await self._answer(peer, question, body)
        except (OSError, LedgerError) as error:
            self.broken = error  # a full disk, say: the run ends, with what is on disk kept
            await self._notify(news=True)
            raise

    def count(self, question: m.AnyQuestion, answer: m.Answer, received: int, sent: int) -> None:
        """Count the bytes of a question and its answer."""
        purpose = "contributions" if isinstance(question, m.Contribute) else "control"
        self.traffic[purpose][0] += received
        purpose = "updates" if isinstance(answer, m.Blob) else "control"
        self.traffic[purpose][1] += sent

    async def _answer(
        self, peer: str, question: m.AnyQuestion, body: bytes
    ) -> tuple[m.Answer, bytes]:
        if isinstance(question, m.Join | m.GetRunInfo | m.GetStatus | m.Probe):
            protocol = m.PROTOCOL if isinstance(question, m.Probe) else question.protocol
            if objection := self.admission.objection(peer, protocol, question.secret):
                return self._refuse(peer, "not admitted", objection), b""
            if not isinstance(question, m.Join):
                return status.answer(self, question)
            return await self._admit(peer, question), b""
        member = self.admission.members.get(peer)
        if member is None or peer in self.admission.expelled:
            return self._refuse(peer, "strangers", EXPELLED if member else "join first"), b""
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
            case m.GetSavedState() | m.GetStatePiece() | m.GetBlobPiece():
                return self.store.give(question)
            case m.Fetch():
                return fetch_groups.fetch(self.store, self.admission.here(), member, question)
            case m.GetDonors():
                return fetch_groups.donors(self.past.agreed, self.admission.here(), member), b""
            case m.IsMember(key=key):
                known = key in self.admission.members and key not in self.admission.expelled
                return m.Ack() if known else m.Refused("that key takes no part in this run"), b""
            case m.Progress():
                member.doing, member.at = question.doing, question.round
                member.step, member.loss = question.step, question.loss
                return m.Ack(self.admission.beat), b""
            case m.Leave():
                await self._left(member, question.reason)
                return m.Ack(), b""
        raise ValueError("not a question for a coordinator")

    def _refuse(self, key: str, kind: str, reason: str) -> m.Refused:
        log.info("refused %s (%s): %s", key[:10], kind, reason)
        self.admission.guard.fault(key, kind)
        return m.Refused(reason)

    async def _admit(self, key: str, join: m.Join) -> m.Answer:
        member = self.admission.admit(key, join.secret, self.number)
        member.addresses = join.addresses
        log.info("peer %d joined: key %s, from %s", member.index, key[:10], member.origin)
        await self._notify()
        return m.Welcome(
            member.index,
            toml.write(self.spec),
            member.last,
            self.layout.digest(),
            self.past.tokens,
            self.round.number if self.round and member.index in self.round.handed else -1,
        )

    async def _next(self, member: Member, question: m.Next) -> m.Answer:
        closes = clock.now() + POLL
        voted = False
        while True:
            if self.held(-1) and not voted:
                voted = True
                if fault := await self._vote(member, question):
                    return fault
            if self.deposed:
                return m.Wait("another machine leads the run now")
            closed = self.past.closed.get(question.round)
            if closed and not self._held_back(question.round):
                return m.Apply(closed)
            if self.stopping:
                return m.Stop(self.stopping)
            if question.round == self.spec.rounds.count:
                if question.round in self.past.agreed:
                    return m.Stop("all rounds are done")
            elif self.round and self.round.wants(member.index, question):
                return self._assign(member, self.round)
            if not await self._news.wait(closes - clock.now()):
                return m.Wait(self.waiting_for())

    def _held_back(self, round_: int) -> bool:
        """A round is not to be applied before a majority keeps it; with overlap, after a restart, nor
        the last one before the next is open, which is begun from the state before."""
        if not self.held(round_):
            return True
        starting = self.round is None and self.number < self.spec.rounds.count
        return starting and round_ == self.number - 1 and self.spec.rounds.overlap > 0

    def waiting_for(self) -> str:
        """What the run waits for, in words."""
        if not self.held(self.number - 1):
            charge = self.voter.charge
            return (
                f"{charge.majority} of {len(charge.voters)} machines that keep the ledger must have the "
                "last round"
            )
        if self.round is None:
            return f"{len(self._here())} of {self.spec.rounds.peers} peers are here"
        return self.round.waiting_for()

    def _assign(self, member: Member, open_: OpenRound) -> m.Answer:
        if member.index not in open_.assigned:
            open_.assigned[member.index] = self.past.blocks.take(self._budgets()[member.index])
        if not self.spec.rounds.overlap or member.index not in open_.begun:
            open_.begun[member.index] = clock.now()
        return open_.task(member.index, self.spec.rounds.evaluate)

    def _ahead(self, member: Member, question: m.Ahead) -> m.Answer:
        """Work for the round after the one that the peer has done: that may be the open round, where
        the peer is catching up, or the one that opens next."""
        number, open_ = question.round + 1, self.round
        if not self.spec.rounds.overlap or open_ is None or self.ended:
            return m.Wait("nothing to train ahead")
        if number == open_.number and open_.lacks(member.index):
            return self._assign(member, open_)
        if number == open_.number + 1 < self.spec.rounds.count:
            self.coming = self.coming or self._open(number)
            return self._assign(member, self.coming)
        return m.Wait(f"round {number} is not one to train ahead for")

    def _budgets(self) -> dict[int, int]:
        paces = {member.index: member.pace for member in self._here()}
        return budgets(paces, self.spec.inner.steps, self.spec.rounds.patience)

    async def _take(self, member: Member, question: m.Contribute, blob: bytes) -> m.Answer:
        open_ = self.round
        if reason := intake.objection(self.spec, self.past, open_, member, question, blob):
            late = open_ is not None and question.announcement.round < open_.number
            if open_ is not None and not open_.closing and not late:
                open_.refused.add(member.index)
            self.tell(ContributionRefused(member.index, reason))
            return self._refuse(member.key, "contributions", reason)
        assert open_ is not None
        if member.index in open_.handed:
            return m.Ack()
        self.engine.blobs.write(question.announcement.blob, blob)
        open_.take(member, question, clock.now())
        await self._notify()
        return m.Ack()

    async def _left(self, member: Member, reason: str) -> None:
        member.here, member.doing = False, "gone"
        log.info("peer %d left: %s", member.index, reason)
        if self.number < self.spec.rounds.count:
            self.tell(PeerLeft(member.index, reason))
        await self._notify()

    # --- agreement on the state

    async def _vote(self, member: Member, question: m.Next) -> m.Stop | None:
        """Note which state a peer holds; the state that most hold is written into the ledger."""
        number = question.round
        if self.past.agreed.get(number) == question.hash:
            return None
        if number > self.number:
            return m.Stop(f"this peer is at round {number}, the run at {self.number}", fault=True)
        if self.agreement.vote(number, member.index, question.hash, self._voters(number)):
            await self._notify(news=True)
        if (reason := self.agreement.differs(number, question.hash)) is None:
            return None
        self.tell(StateDiffers(member.index, number))
        return m.Stop(reason, fault=True)

    def _voters(self, number: int) -> Sequence[int]:
        here = {member.index for member in self._here()}
        late = clock.now() - self._began > GATHER
        missed = {x.index for x in self.admission.by_index if x.heard or late} - here
        return voters(self.past.counted(number), here, missed)

    # --- rounds

    async def run(self) -> None:
        """Open and close rounds until all are done or the run is stopped."""
        if self.number < self.spec.rounds.count:  # else all that is left is to agree on the state
            await self._until(self._enough_here)
        while self.number < self.spec.rounds.count and not self.ended:
            open_ = self.round = self.coming or self._open(self.number)
            self.coming, open_.opened = None, clock.now()
            await self._notify(news=True)
            event = None
            while event is None and not self.ended:
                await self._until(self._complete)
                event = None if self.ended else await self._close(open_)
            await self._until(lambda: self.ended or self.held(self.number - 1))
            if event and self.held(open_.number):
                self._report(event)
        self.round = None
        await self._notify(news=True)
        await self._until(lambda: self.ended or self.number in self.past.agreed)

    def _open(self, number: int) -> OpenRound:
        """A round with work for all who are here."""
        return OpenRound(number, clock.now(), self.past.blocks.share(self._budgets()))

    async def stop(self, reason: str) -> None:
        """End the run here; what is not closed has not happened."""
        self.stopping = reason
        await self._notify(news=True)

    # --- the leader, among voters that could lead (duckweed.ledger.succession)

    def held(self, round_: int) -> bool:
        """Whether a majority of those who keep the ledger have a closed round; -1: whether they follow
        this machine."""
        return self.voter.committed >= max(self.past.entry_of(round_), self.voter.charge.since)

    def nudge(self) -> None:
        """Somebody has acknowledged entries of the ledger."""
        if self.held(self.number - 1) != self._was_held:
            self._was_held = not self._was_held
            self._later(self._notify(news=True))

    def step_down(self) -> None:
        """Another machine leads from now on; what is not acknowledged has not happened."""
        self.deposed = True
        self._later(self._notify(news=True))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Run in the background, from where nothing can be awaited."""
        task = asyncio.ensure_future(work)
        self._background.add(task)  # the event loop alone does not keep it
        task.add_done_callback(self._background.discard)

    @property
    def ended(self) -> bool:
        return bool(self.stopping) or self.deposed

    def moved(self) -> dict[str, list[int]]:
        """Bytes received and sent so far, by purpose; between peers: as they say, given and fetched."""
        shared = zip(*(x.shared for x in self.admission.by_index), strict=True)
        between = [sum(x) for x in shared] or [0, 0]
        return {purpose: list(counts) for purpose, counts in self.traffic.items()} | {
            "between peers": between
        }

    def attended(self) -> bool:
        """Whether any peer is here."""
        return bool(self._here())

    def _here(self) -> list[Member]:
        for member, reason in self.admission.missed():
            self.tell(PeerLeft(member.index, reason))
        return self.admission.here()

    def _enough_here(self) -> bool:
        """A run begins with all its peers. One that had begun before this coordinator started, or was
        put in charge, goes on without those who do not come back, if anybody is here whose work has
        counted."""
        here, now = {member.index for member in self._here()}, clock.now()
        if len(here) != self._gathered[0]:
            self._gathered = len(here), now
        succeeded = self.voter.charge.term > 0
        known = next(filter(None, self.past.counted(self.number)), here if succeeded else [])
        late = not here.isdisjoint(known) and now - self._gathered[1] > GATHER
        enough = len(here) >= self.spec.rounds.peers or late
        return self.ended or (enough and self.held(self.number - 1))

    def _complete(self) -> bool:
        assert self.round is not None
        if self.ended:
            return True
        here = {member.index for member in self._here()}
        return self.round.complete(here, self.durations, self.spec.rounds, clock.now())

    async def _close(self, open_: OpenRound) -> RoundClosed | None:
        """Write into the ledger how the round ends, and return what is to be told of it. None if it
        does not end: nothing counts, or another is in charge by now."""
        open_.closing = True  # what comes while the sum is formed is too late
        crowded = self.admission.crowded({p: a.tokens for p, a in open_.handed.items()})
        handed = [open_.handed[peer] for peer in sorted(open_.handed) if peer not in crowded]
        # In a thread: a thousand contributions take a while, and peers want to be heard meanwhile.
        closed = await asyncio.to_thread(self.engine.close, self.past.shared, handed)
        if not closed.accepted:
            await self._go_on(open_, closed.rejected)
            return None
        closed.rejected |= crowded
        for peer in open_.assigned:
            if peer not in open_.handed:
                closed.rejected[peer] = "nothing handed in before the round closed"
                open_.overdue(self.admission.by_index[peer], clock.now())
        if self.deposed:
            return None
        self.past.close(closed, open_.assigned, handed)
        self._was_held = self.held(open_.number)
        self.admission.counted(closed.round, closed.accepted)
        self.durations.extend(open_.seconds.values())
        return told(
            open_, closed,
            seconds=clock.now() - open_.opened,
            update_size=self.folder.blob(closed.update).stat().st_size if closed.update else 0,
            traffic=self.moved(),
            epoch=epoch(self.spec, (s.block for s in open_.assigned.values()), self.past.windows),
        )  # fmt: skip

    async def _go_on(self, open_: OpenRound, rejected: dict[int, str]) -> None:
        """Nothing counts: were the round closed, whoever is alone with a run could use it up."""
        for peer, reason in rejected.items():
            self.tell(ContributionRefused(peer, reason))
            self._refuse(self.admission.by_index[peer].key, "contributions", reason)
        open_.go_on(rejected, clock.now())
        text = f"round {open_.number}: nothing that was handed in counts; it stays open"
        self.tell(Said(text))
        await self._notify(news=True)

    def _report(self, event: RoundClosed) -> None:
        """Tell how a round has closed."""
        self.last = event
        if event.held_out is not None:
            self.held_out = event.held_out
        self.tell(event)

    async def _notify(self, news: bool = False) -> None:
        """Something may close the round; news: and every waiting peer must hear of it."""
        await self._changed.notify()
        if news:
            await self._news.notify()

    async def _until(self, true: Callable[[], bool]) -> None:
        """Wait for a condition, looked at on every change and every second. Raises what broke."""
        while not true():
            if self.broken:
                raise self.broken
            await self._changed.wait(STATE_CHECK)
