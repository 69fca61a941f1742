"""The rounds of a run, as its leader drives them: opened, closed, written into the ledger, reported.

The coordinator (duckweed.swarm.coordinator.coordinator) answers what peers ask about them. A round is closed
by one insert into the ledger. What is not in the ledger has not happened.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine

from msgspec import UNSET

from duckweed.ledger.entries import Closed, Writing
from duckweed.ledger.succession import Voter
from duckweed.merge.announcement import Announcement
from duckweed.merge.arrivals import Arrivals
from duckweed.merge.round import nothing
from duckweed.merge.trunk import split_of
from duckweed.net import clock
from duckweed.net.timeouts import GATHER, SIBLINGS_CHECK, STATE_CHECK
from duckweed.net.wakeup import Wakeup
from duckweed.round.blocks import Span, budgets
from duckweed.round.engine import Engine
from duckweed.round.history import RunHistory
from duckweed.round.open_round import Member, OpenRound
from duckweed.round.round_record import closed_event, epoch
from duckweed.run.events import ContributionRefused, FinalLoss, PeerLeft, RoundClosed, Said, Tell
from duckweed.run.folder import RunFolder
from duckweed.run.task.work import writes
from duckweed.run.task.written import Written
from duckweed.swarm.coordinator import handed_in
from duckweed.swarm.coordinator.admission import Admission
from duckweed.swarm.coordinator.guest_book import PUT_OUT
from duckweed.swarm.coordinator.rewards import Rewards
from duckweed.swarm.coordinator.siblings import Siblings, siblings_of, waiting_for
from duckweed.swarm.coordinator.traffic import Traffic
from duckweed.swarm.coordinator.writers import Task, WriterDesk

WATCHED = 3  # rounds in which almost no group has spread, until it is said
log = logging.getLogger(__name__)


class RoundDriver:
    """Opens and closes the rounds of a run while this machine leads the run."""

    def __init__(
        self,
        folder: RunFolder,
        engine: Engine,
        history: RunHistory,
        admission: Admission,
        traffic: Traffic,
        voter: Voter,
        tell: Tell,
    ) -> None:
        self.folder, self.engine, self.history = folder, engine, history
        self.admission, self.traffic, self.voter, self.tell = admission, traffic, voter, tell
        self.spec = engine.spec
        self.rewards = Rewards(folder, lambda text: tell(Said(text)))
        self.writers = WriterDesk(self.spec)
        self.siblings = siblings_of(folder, self.spec)
        self.open: OpenRound | None = None  # the round that is being worked on
        self.next: OpenRound | None = None  # the one after it, if a peer trains for it already
        self.last: RoundClosed | None = None  # how the last round closed
        self.held_out: float | None = None  # last measured loss on held-out text, nats per token
        self.stopping = ""  # why the run ends here; "" while it goes on
        self.deposed = False  # whether another machine leads by now
        self.news = Wakeup()  # a round opened or closed: what peers wait for
        self._changed = Wakeup()  # anything that may close a round
        self._broken: Exception | None = None
        # Seconds that peers needed in the last rounds, for each usual step of the round.
        self._paces: deque[float] = deque(maxlen=64)
        self._written: list[Written] = []  # by the models of the peers in the last rounds
        self._was_held = False
        self._gathered = (0, clock.now())  # number of peers that are here, and since when
        done, self._began = self.spec.schedule.rounds in history.agreed, clock.now()
        self._before = [] if done else history.counted_last()  # they worked for another coordinator
        self.closed: Callable[[], None] = lambda: None  # called after every round
        self._background: set[asyncio.Task[None]] = set()
        # What was handed in for the round that is to open, before this coordinator was started: all of it, or what the
        # path has offered.
        offered = self.siblings.own(self.number) if self.siblings else None
        held = offered.handed if offered else handed_in.of_round(folder, self.number)
        self._handed = {x.announcement.peer: x for x in held}
        self._arrivals: Arrivals | None = None  # what is done already with those of the open round
        self._adding = asyncio.Lock()  # held while that is worked on

    @property
    def number(self) -> int:
        """How many rounds are closed."""
        return self.history.number

    async def run(self) -> None:
        """Open and close rounds until all are done or the run is stopped."""
        if writes(self.spec):
            self._later(self.rewards.begin())
        if (
            self.number < self.spec.schedule.rounds
        ):  # else all that is left is to agree on the state
            await self._until(self._enough_here)
        while self.number < self.spec.schedule.rounds and not self.ended:
            self._arrivals = self.engine.arrivals(self.history.shared)
            open_ = self.open = self.next or self._resume() or self._open(self.number)
            self.next, open_.opened = None, clock.now()
            open_.writings = self._writings()
            for member in self.here():
                if member.writes and member.expected:
                    self._assign_writing(member, open_)
            await self.notify(news=True)
            event = None
            while event is None and not self.ended:
                await self._until(self._complete)
                event = None if self.ended else await self._close(open_)
            await self._until(lambda: self.ended or self.held(self.number - 1))
            if event and self.held(open_.number):
                self._report(event)
        self.open = None
        await self.notify(news=True)
        await self._until(lambda: self.ended or self.number in self.history.agreed)

    def _writings(self) -> list[Writing]:
        """The answers that the open round learns from. A machine that leads since a moment ago may lack some, and those
        whom it sent for them could do nothing."""
        found = [x for x in self.history.writings if self.folder.blob(x.rollouts).is_file()]
        if lost := len(self.history.writings) - len(found):
            text = f"round {self.number}: the answers of {lost} peers that only write are not here, and are written anew"
            self.tell(Said(text))
        return found

    def _open(self, number: int) -> OpenRound:
        """A round with work for all peers that it waits for."""
        expected = [x for x in self.trainers() if x.expected]
        usual = self.spec.schedule.steps_of(number)
        budgets = self._budgets(expected, usual)
        return OpenRound(number, clock.now(), self.history.blocks.share(budgets, usual))

    def _resume(self) -> OpenRound | None:
        """The round that was open when a coordinator was killed here, with what was handed in by peers that
        still belong to the run; None where there is nothing."""
        handed, self._handed = self._handed, {}
        kept = {peer: x for peer, x in handed.items() if peer in self.admission.by_index}
        if not kept:
            return None
        said = {peer: x.announcement for peer, x in kept.items()}
        spans = {peer: Span(a.block, a.first, a.steps) for peer, a in said.items()}
        self.history.blocks.hold(spans.values())
        others = [x for x in self.trainers() if x.expected and x.index not in kept]
        usual = self.spec.schedule.steps_of(self.number)
        shared = self.history.blocks.share(self._budgets(others, usual), usual)
        open_ = OpenRound(self.number, clock.now(), spans | shared)
        for peer, x in kept.items():
            member = self.admission.by_index[peer]
            open_.take(
                member, x.announcement, x.signature, x.timings, x.nats, clock.now(), x.written
            )
            self.look_into(open_, peer)
        return open_

    def in_hand(self, peer: int) -> int:
        """The round that is open, or opens next, if the contribution of the peer to it is here; -1: it is not."""
        held = self.open.contributions.keys() if self.open else self._handed.keys()
        return self.number if peer in held else -1

    def look_into(self, open_: OpenRound, peer: int) -> None:
        """Have a contribution added up that was just taken, and its rewards checked, if its peer's model writes."""
        said = open_.contributions[peer]
        self._later(self._add(said))
        if said.rollouts is not UNSET and peer in open_.written:
            open_.unchecked[peer] = clock.now()
            self._later(self._check_rewards(open_, said, open_.written[peer]))

    async def _add(self, said: Announcement) -> None:
        arrivals = self._arrivals
        async with self._adding:
            # Not where the round has begun to close by now.
            if arrivals and arrivals is self._arrivals and not self.ended:
                with contextlib.suppress(OSError):  # then it fails to close, and says so
                    await asyncio.to_thread(self.engine.take, arrivals, said)

    async def _check_rewards(self, open_: OpenRound, said: Announcement, told: Written) -> None:
        reason, written = await self.rewards.check(said, told)
        if said.peer not in open_.unchecked:  # the round has done without it
            return
        open_.checked(said.peer, reason, written)
        if reason:
            self._refused(said.peer, reason)
        await self.notify()

    def take_writing(self, member: Member, task: Task, said: Writing, told: Written) -> None:
        """Take answers of a peer that only writes, whose blob is on disk, and have their rewards checked."""
        task.said = said
        member.worked(late=False)
        # Never more than before: small differences must not make the steps of a run depend on the clock.
        member.pace = min(member.pace, (clock.now() - task.begun) / said.steps)
        self._later(self._check_writing(task, said, told))

    async def _check_writing(self, task: Task, said: Writing, told: Written) -> None:
        task.fault, _ = await self.rewards.check(said, told)
        task.checked = not task.fault
        if task.fault:
            self._refused(said.peer, task.fault)
        await self.notify()

    def _refused(self, peer: int, reason: str) -> None:
        """Tell of a contribution that was taken and does not count."""
        self.tell(ContributionRefused(peer, reason))
        log.info("contribution of peer %d does not count: %s", peer, reason)
        self.admission.rate_limits.fault(self.admission.by_index[peer].key, "contributions")

    def ahead(self, number: int) -> OpenRound:
        """The round after the open one, to be trained ahead."""
        self.next = self.next or self._open(number)
        return self.next

    def assign(self, member: Member, round_: OpenRound) -> Span:
        """What a peer is to train in a round. A newcomer is waited for from here on."""
        member.idle = member.idle and member.passed > 0
        if member.index not in round_.assigned:
            usual = self.spec.schedule.steps_of(round_.number)
            budget = self._budgets([*self.trainers(), member], usual)[member.index]
            round_.assigned[member.index] = self.history.blocks.take(budget, usual)
        if not self.spec.rounds.overlap or member.index not in round_.begun:
            round_.begun[member.index] = clock.now()
        return round_.assigned[member.index]

    def writing(self, member: Member, round_: int) -> Span | None:
        """What a peer that only writes is to write by the weights that a round begins from; None: nothing now."""
        if self.open is None or self.open.closing or self.open.number != round_:
            return None
        self._assign_writing(member, self.open)
        return self.writers.span(member, round_)

    def _assign_writing(self, member: Member, open_: OpenRound) -> None:
        """Give a peer that only writes a span, if it is its turn."""
        if self.writers.turn(member, self.here(), open_.number):
            usual = self.spec.schedule.steps_of(open_.number)
            budget = self._budgets([*self.trainers(), member], usual)[member.index]
            self.writers.assign(member, open_.number, self.history.blocks, budget, usual)

    def excuse(self, member: Member) -> None:
        """Let a peer do an audit in place of its work for the open round, which is given out again."""
        if self.open is not None and member.index not in self.open.excused:
            self.open.excused.add(member.index)
            self._later(self.notify())

    async def fail(self, error: Exception) -> None:
        """End `run` with this error, with what is on disk kept."""
        self._broken = error
        await self.notify(news=True)

    async def stop(self, reason: str) -> None:
        """End the run here; what is not closed has not happened."""
        self.stopping = reason
        await self.notify(news=True)

    def _budgets(self, members: list[Member], usual: int) -> dict[int, int]:
        lag = self.writers.lag  # a peer that only writes has so many rounds for it
        paces = {x.index: x.pace / (lag if x.writes else 1) for x in members}
        others = self.siblings.others(self.number - 1) if self.siblings else []
        elsewhere = [one.pace for one in others if one.pace > 0]
        return budgets(paces, usual, self.spec.rounds.patience, elsewhere)

    def waiting_for(self) -> str:
        """What the run waits for, in words."""
        if not self.held(self.number - 1):
            leadership = self.voter.leadership
            return (
                f"{leadership.majority} of {len(leadership.voters)} machines that keep the ledger must have "
                "the last round"
            )
        if self.open is None:
            need, writers = self.spec.rounds.peers, self.spec.writers
            if len(self.here()) - len(self.trainers()) > writers:  # who else writes is one too many
                need -= writers
                here = min(need, len(self.trainers()))
                return f"waiting for peers that train: {here} of {need} are here"
            return f"waiting for peers: {self._first_here()} of {need} are here"
        if self.siblings and self.siblings.own(self.number):
            return waiting_for(self.siblings, self.number)
        return self.open.waiting_for()

    # --- the leader, among voters that could lead (duckweed.ledger.succession)

    def held(self, round_: int) -> bool:
        """Whether a majority of the voters hold a closed round; -1: whether they follow this machine."""
        return self.voter.committed >= max(
            self.history.entry_of(round_), self.voter.leadership.since
        )

    def nudge(self) -> None:
        """A voter has acknowledged entries of the ledger."""
        if self.held(self.number - 1) != self._was_held:
            self._was_held = not self._was_held
            self._later(self.notify(news=True))

    def step_down(self) -> None:
        """Another machine leads from now on; what is not acknowledged has not happened."""
        self.deposed = True
        self._later(self.notify(news=True))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Run in the background, from where nothing can be awaited."""
        task = asyncio.ensure_future(work)
        self._background.add(task)  # the event loop alone does not keep it
        task.add_done_callback(self._background.discard)

    @property
    def ended(self) -> bool:
        """Whether no more rounds are closed here."""
        return bool(self.stopping) or self.deposed

    def measured(self) -> float | None:
        """The loss on held-out text, nats per token: of the finished model where that is known, else of the
        last round that measured it."""
        if self.number == self.spec.schedule.rounds:
            for final in self.folder.records(FinalLoss):
                self.held_out = final.held_out
        return self.held_out

    def _loss_before(self) -> float:
        """Of the last round in which anything was trained."""
        before = self.last or next(iter([*self.folder.records(RoundClosed)][-1:]), None)
        return before.loss if before else 0.0

    def attended(self) -> bool:
        """Whether any peer is here, or must still hear that it was put out, or that all is done: who worked for the
        coordinator before this one looks for it for a while, and without an answer for good."""
        known = self.admission.by_index
        looking = self.gathering and not all(known[x].heard for x in self._before)
        return bool(self.here()) or looking or self.admission.untold()

    @property
    def gathering(self) -> bool:
        """Whether peers of the coordinator before this one may still be looking for it."""
        return clock.now() - self._began <= GATHER

    def here(self) -> list[Member]:
        """The members that take part at this moment; tells who has left."""
        for member, reason in self.admission.missed():
            self.tell(PeerLeft(member.index, reason))
        return self.admission.here()

    def trainers(self) -> list[Member]:
        """Those of them that train."""
        return [x for x in self.here() if not x.writes]

    def _first_here(self) -> int:
        """How many of the peers that the run begins with are here; nobody who only writes stands for one that trains."""
        training, here, writers = len(self.trainers()), len(self.here()), self.spec.writers
        return min(training, self.spec.rounds.peers - writers) + min(here - training, writers)

    def _enough_here(self) -> bool:
        """A run begins with all its peers. A run that was begun by another coordinator, or before a
        restart, goes on without the peers that do not come back, if a peer whose work counted is here."""
        here, now = {member.index for member in self.here()}, clock.now()
        if len(here) != self._gathered[0]:
            self._gathered = len(here), now
        succeeded = self.voter.leadership.term > 0
        known = self.history.counted_last() or (here if succeeded else [])
        late = not here.isdisjoint(known) and now - self._gathered[1] > GATHER
        enough = self._first_here() >= self.spec.rounds.peers or late or self._rests()
        return self.ended or ((enough or self._has_offered()) and self.held(self.number - 1))

    def _has_offered(self) -> bool:
        """Whether the open round, or the one that opens next, is done here, and others may have closed it."""
        return self.siblings is not None and self.siblings.own(self.number) is not None

    def _rests(self) -> bool:
        """Whether this path lets the round that is open, or opens next, pass (`Siblings.rests`)."""
        return self.siblings is not None and self.siblings.rests(
            self.number, self.open, self.trainers(), self.spec.rounds.patience
        )

    def _complete(self) -> bool:
        assert self.open is not None
        if self.ended or self._has_offered() or self._rests():
            return True
        self.open.give_up_checks(clock.now())
        everybody = [x for x in self.here() if x.expected]
        waited_for = [x for x in everybody if not x.writes]
        expected = {x.index for x in waited_for}
        working = {x.index for x in waited_for if x.works_for(self.open.number)}
        rules, now = self.spec.rounds, clock.now()
        steps = self.spec.schedule.steps_of(self.open.number)
        before = [steps * pace for pace in self._paces]
        writing = self.writers.wait(self.open.number, {x.index for x in everybody if x.writes})
        return self.open.complete(expected, working, before, rules, now, writing)

    async def _close(self, open_: OpenRound) -> RoundClosed | None:
        """Write into the ledger how the round ends, and return what is to be told of it. None if it
        does not end: nothing counts, or another machine leads by now."""
        open_.closing = True  # what comes while the sum is formed is too late
        offered = self.siblings.own(open_.number) if self.siblings else None
        crowded = offered.left_out if offered else self._left_out(open_)
        kept = [a for peer, a in sorted(open_.contributions.items()) if peer not in crowded]
        if offered:
            kept = [one.announcement for one in offered.handed]
        closed = await self._merged(open_.number, kept)
        going_on = offered or (self.siblings and self.siblings.others(open_.number))
        if not closed.accepted and not going_on:
            await self._go_on(open_, closed.rejected | crowded)
            return None
        if self.siblings:
            joined = await self._joined(self.siblings, open_, closed, kept, crowded)
            if joined is None:
                return None
            closed = joined
        history = self.history
        closed.rejected |= crowded
        for peer in open_.assigned:
            if peer not in open_.contributions.keys() | open_.excused:
                missed = "nothing handed in before the round closed"
                closed.rejected[peer] = open_.false.get(peer, missed)
                if peer not in open_.refused:
                    open_.overdue(self.admission.by_index[peer], clock.now())
        if self.deposed:
            return None
        due = self.writers.close(open_.number, self.admission.by_index)
        # Who trained for this round before it began to write may have been accepted.
        faults = {peer: task.fault for peer, task in due if task.fault}
        closed.rejected |= {x: faults[x] for x in faults if x not in closed.accepted}
        # An audit looks at one thing of a peer in a round: at its contribution, where there is one.
        written = [(peer, x) for peer, x in due if peer not in open_.contributions]
        writings = {peer: x.said for peer, x in written if x.said and x.checked}
        spans = [task.span for _, task in due]
        history.close(closed, open_.assigned, kept, open_.signatures, writings, spans)
        self.closed()
        self._was_held = self.held(open_.number)
        self.admission.counted(closed.accepted)
        self.admission.forget(self.next.assigned if self.next else ())
        steps = self.spec.schedule.steps_of(open_.number)
        self._paces.extend(seconds / steps for seconds in open_.seconds.values())
        return closed_event(
            open_,
            closed,
            seconds=clock.now() - open_.opened,
            loss_before=self._loss_before(),
            update_size=sum(self.folder.blob(x).stat().st_size for x in closed.updates()),
            traffic=self.traffic.moved(),
            epoch=epoch(self.spec, open_.assigned.values(), self.history.windows),
            evaluate_tokens=self.spec.rounds.evaluate_tokens,
            writings=writings,
        )

    def _left_out(self, open_: OpenRound) -> dict[int, str]:
        """Peer -> why its contribution is not looked at."""
        crowded = self.admission.crowded({p: a.tokens for p, a in open_.contributions.items()})
        out = {peer: PUT_OUT for peer in open_.contributions if peer in self.history.out}
        return crowded | out

    async def _merged(self, number: int, kept: list[Announcement]) -> Closed:
        """What the contributions to a round come to. In a thread: a thousand contributions take a while, and peers want
        to be heard meanwhile."""
        history, arrivals, self._arrivals = self.history, self._arrivals, None
        if not kept:
            return nothing(self.spec, number, history.shared)
        async with self._adding:
            return await asyncio.to_thread(
                self.engine.close, history.shared, kept, dict(history.memory), arrivals
            )

    async def _joined(
        self, siblings: Siblings, open_: OpenRound, closed: Closed, kept: list[Announcement],
        left_out: dict[int, str],
    ) -> Closed | None:  # fmt: skip
        """The round with what all paths of the family have for what they hold in common, once all have offered that; None
        if the run ends before."""
        number, engine = closed.round, self.engine
        split = split_of(self.spec, engine.layout)
        assert split
        if siblings.own(number) is None:
            handed = [handed_in.of_open(open_, said.peer) for said in kept]
            paces = [self.admission.by_index[said.peer].pace for said in kept]
            seconds = clock.now() - open_.opened
            siblings.offer(closed, handed, left_out, split.trunk, seconds, paces)
        await self.notify(news=True)

        def all_offered() -> bool:
            self._rests()  # who is here, and who is silent, is noticed meanwhile
            return self.ended or siblings.complete(number)

        await self._until(all_offered, SIBLINGS_CHECK)
        if self.ended:
            return None
        given, sizes = siblings.given(closed)
        return await asyncio.to_thread(
            engine.join, self.history.shared, closed, given, sizes, siblings.read
        )

    async def _go_on(self, open_: OpenRound, rejected: dict[int, str]) -> None:
        """Nothing counts. The round stays open: otherwise a lone peer could use up the rounds of a run."""
        for peer, reason in rejected.items():
            self._refused(peer, reason)
        open_.go_on(rejected, clock.now())
        text = f"round {open_.number}: nothing that was handed in counts; it stays open"
        self.tell(Said(text))
        await self.notify(news=True)

    def _report(self, event: RoundClosed) -> None:
        """Tell how a round has closed."""
        self.last = event
        if event.held_out is not None:
            self.held_out = event.held_out
        self.tell(event)
        if event.written is not UNSET:
            self._written = [*self._written, event.written][-WATCHED:]
            if len(self._written) == WATCHED and (text := sum(self._written, Written()).advice()):
                self._written = []
                self.tell(Said(f"of the last {WATCHED} rounds {text}"))

    async def notify(self, news: bool = False) -> None:
        """Something changed that may close the round. news: waiting peers must hear of it too."""
        await self._changed.notify()
        if news:
            await self.news.notify()

    async def _until(self, true: Callable[[], bool], check: float = STATE_CHECK) -> None:
        """Wait for a condition, checked on every change and every so many seconds. Raises what `fail` was given."""
        while not true():
            if self._broken:
                raise self._broken
            await self._changed.wait(check)
