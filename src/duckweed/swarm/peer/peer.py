"""A peer: joins, asks what to do, trains, contributes, applies. Holds the whole state of the run."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import UNSET

from duckweed.learn.memory import trim
from duckweed.ledger.entries import Closed
from duckweed.merge.round import fetch_limit
from duckweed.net import clock
from duckweed.net.carrier import Endpoint as Carrier
from duckweed.net.identity import Identity, verify
from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import CONTROLS_CHECK, HINT, LAST_WORD, PATH_JOIN
from duckweed.net.transport import Endpoint, LinkError
from duckweed.round import answers
from duckweed.round.blocks import Span, lead
from duckweed.round.open_round import Timings
from duckweed.round.signed import ForeignRun, genesis_hash, signed_part, writing_part
from duckweed.round.worker import Contribution, Trained, Worker, forget_before, residual_path
from duckweed.run.folder import RunFolder
from duckweed.run.state import State
from duckweed.run.task.rollouts import blob_limit
from duckweed.swarm.blobs.peer_links import PeerLinks
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.peer.auditor import Auditor
from duckweed.swarm.peer.blob_fetch import BlobFetch
from duckweed.swarm.peer.coordinator_client import CoordinatorClient, Invited, Leaders
from duckweed.swarm.peer.evidence import Evidence
from duckweed.swarm.peer.ledger_copy import Copying, LedgerCopy
from duckweed.swarm.peer.overlap import Overlap, span_of
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import QuestionRefused
from duckweed.swarm.protocol.errors import HandedBack, PeerStopped
from duckweed.volunteer.watch import Watch

log = logging.getLogger(__name__)


class OwnNode(Leaders, Protocol):
    """What a peer needs of the node in its process, if there is one (duckweed.swarm.node.node.Node)."""

    endpoint: Carrier
    rate_limits: RateLimits
    peer_links: PeerLinks | None  # what answers the questions of other peers

    async def copy(self) -> None:
        """Copy the entries of the ledger that are new. Raises LinkError."""
        ...

    def copied(self, question: m.GetCopiedEntries) -> tuple[m.Answer, bytes]:
        """What the copy here has beyond the end of another peer's."""
        ...


class Peer:
    """One peer of a run.

    home: its own folder. shared: the folder where it saves states when it is asked to. coordinator: key
    and addresses, as the peer was given them. node: the node in this process, if this machine copies the
    ledger. writes: whether it only writes answers, for others to learn from.
    """

    def __init__(
        self,
        identity: Identity,
        worker: Worker,
        state: State,
        home: Path,
        shared: RunFolder,
        coordinator: tuple[str, list[str]],
        secret: str,
        say: Callable[[str], None],
        node: OwnNode | None = None,
        writes: bool = False,
    ) -> None:
        self.identity, self.worker, self.state, self.say = identity, worker, state, say
        self.home, self.shared, self.coordinator = home, shared, coordinator
        self.secret, self.watch = secret, Watch(home, say)
        self.progress = m.Progress("starting", state.round)
        self.timings = Timings()
        self.saves = False
        self.ahead = Overlap(worker)
        self.node, self.index, self.writes = node, -1, writes
        self.genesis = ""  # hash of the run's first entry
        self.handed = -1  # the round for which the coordinator has this peer's contribution
        self.copy: LedgerCopy | None = None  # of the ledger, where no other is on this machine
        if not node and not shared.coordinator_key.exists():
            self.copy = LedgerCopy(shared.ledger, worker.spec.identity, identity)
        self._sent: tuple[m.Contribute, bytes] | None = None  # to send again, should it be lost
        self._wrote: tuple[m.Wrote, bytes] | None = None  # likewise, of a peer that only writes
        self._done_at = clock.now()  # when the work for the round before was done
        self._heard = ""  # what the user was told that the run waits for
        self._writing: asyncio.Task[None] | None = None  # to disk

    async def run(self) -> str:
        """Take part until the run ends; returns the reason. Raises PeerStopped, LinkError."""
        if self.node:
            return await self.run_over(self.node.endpoint)
        farther = bool(self.worker.spec.members.successors)  # they may be on other machines
        endpoint = await Endpoint.toward(
            self.identity, m.HEAD_LIMIT, self.coordinator[1], farther=farther
        )
        try:
            return await self.run_over(endpoint)
        finally:
            await endpoint.close()

    async def run_over(self, endpoint: Carrier) -> str:
        """The same over an endpoint that is there already, which stays open."""
        endpoint.pace = self.watch.pace
        self._leaders: Leaders = self.node or Invited(endpoint, self.coordinator)
        client = self._client = CoordinatorClient(
            endpoint,
            self._leaders,
            self.secret,
            self.say,
            self._welcomed,
            self._aside,
            self.worker.pace,
            self.writes,
        )
        self._evidence = Evidence(self.home, client, self.say)
        self._peer_links = PeerLinks(
            endpoint,
            Store(self.shared),
            client,
            rate_limits=self.node.rate_limits if self.node else None,
        )
        # A coordinator on this machine keeps the same folder; then its word is what counts.
        folder = self.shared if self.node or self.copy else None
        self._fetch = BlobFetch(client, self._peer_links, folder, self.say)
        self._auditor = Auditor(
            self.worker, self.home, self.identity, client, self._fetch, self.say
        )
        self._copying = Copying(self.copy, client.ask_once, self._peer_links.ask, self.say)
        if holder := self.node or self.copy:
            self._peer_links.copied = holder.copied
        tasks = [asyncio.create_task(client.beat(lambda: self.progress))]
        if self.node:
            self.node.peer_links = self._peer_links
        else:
            tasks.append(asyncio.create_task(self._peer_links.serve()))
        try:
            # A path may have ended while this machine read its text; there may be others to train.
            await client.join(math.inf if self.worker.spec.path is None else PATH_JOIN)
            self._copying.begin()
            self._done_at = clock.now()
            return await self._take_part()
        except (asyncio.CancelledError, Exception) as error:
            # Whatever ends this peer, the others must not wait for it.
            log.info("leaving: %s: %s", type(error).__name__, error)
            self.watch.ended = True  # a block that is being trained ends with its next step
            await client.leave(_words(error))
            raise
        finally:
            await self.ahead.drop()
            if self._writing:  # nothing is written any more when this peer has ended
                await asyncio.wait({self._writing})
            self._evidence.close()
            for task in tasks:
                task.cancel()
            self._copying.close()
            self._peer_links.close()
            client.close()

    async def _take_part(self) -> str:
        digest = await asyncio.to_thread(self.state.hash)
        while True:
            if self.watch.leaving():
                await self._client.leave("its volunteer let it go")
                return "left"
            if reason := self.watch.pausing():
                await self._pause(reason)
                continue
            began = clock.now()
            links = self._peer_links
            contributed = self.handed == self.state.round
            question = m.Next(self.state.round, digest, contributed, links.given, links.fetched)
            try:
                answer = await self._what_now(question)
            except TimeoutError:
                return await self._end_alone()
            match answer:
                case m.Train():
                    await self._contribute(answer)
                case m.Write():
                    await self._write(answer)
                case m.Apply():
                    self.timings.wait += clock.now() - began
                    if self.worker.spec.audits:
                        self._auditor.keep(answer.keep, self.state)
                        await self._evidence.show(self.state.round, answer.show)
                    await self._apply(answer.closed)
                    digest = await asyncio.to_thread(self.state.hash)
                case m.Audit():
                    self._set("training")
                    report = self._stepping(self.state.round, 0, answer.steps)
                    await self._auditor.audit(answer, self.genesis, report)
                case m.Wait(reason=reason):
                    self.timings.wait += clock.now() - began
                    self._set("waiting")
                    self._tell_waiting(reason)
                case m.Stop(reason=reason, fault=fault):
                    if fault:
                        raise PeerStopped(reason)
                    # The peer that was to save it may be gone.
                    if self.saves or not self.shared.state(self.state.round).exists():
                        await self._written(self._save_last)
                    await self._copying.end()
                    with contextlib.suppress(QuestionRefused):  # it heard that already
                        await self._client.ask(m.Leave(reason))
                    return reason

    def _tell_waiting(self, reason: str) -> None:
        """Say what the run waits for, to who has just come and would see nothing happen."""
        idle = clock.now() - self._done_at > HINT and self._sent is None and self._wrote is None
        if self.copy and idle and reason != self._heard:
            self.say(reason)
            self._heard = reason

    async def _what_now(
        self, question: m.Next
    ) -> m.Train | m.Write | m.Audit | m.Apply | m.Wait | m.Stop:
        """Raises TimeoutError where all rounds are done, and no coordinator is there to say so."""
        last = question.round == self.worker.spec.schedule.rounds
        async with asyncio.timeout(LAST_WORD if last and not self.node else None):
            answer, _ = await self._client.ask(question)
        return answer

    async def _end_alone(self) -> str:
        await self._written(self._save_last)
        self.shared.note({"over": m.ALL_DONE})
        return (
            f"all rounds are done, and the coordinator has not answered for {LAST_WORD:.0f} s since; the last "
            "state is kept as this machine has it"
        )

    # --- a round

    async def _contribute(self, task: m.Train) -> None:
        """Hand in the work for a round and, with overlap, begin the next meanwhile; unless the
        volunteer wants the machine back before the block is trained."""
        self.saves = task.share == 0
        await self._written(self._save_state)
        steps = self.worker.spec.block_steps
        if self._sent and _is_for(self._sent[0], task, steps):
            await self._hand_in(*self._sent)
            return
        try:
            made, nats = await self._make(task)
        except HandedBack:
            return
        await self._go_on()
        # Written before it is sent: once it counts, a kill must not lose the residual.
        await self._written(self.worker.save, residual_path(self.home, task.round))
        if self.worker.spec.audits:
            self._evidence.keep(task.round, made.announcement.blob, made.blob)
        self.timings.compress = made.compress_seconds
        signature = self.identity.sign(signed_part(self.genesis, made.announcement))
        question = m.Contribute(
            made.announcement, signature, self.timings, *nats, made.written or UNSET
        )
        self._sent = question, made.blob + made.rollouts
        await self._hand_in(*self._sent)

    async def _write(self, task: m.Write) -> None:
        """Hand in answers, unless the volunteer wants the machine back before they are written."""
        span = Span(task.block, task.first, task.steps)
        done = self._wrote and self._wrote[0].writing
        if not done or (done.round, answers.span_of(done)) != (task.round, span):
            self._set("writing")
            report = self._stepping(task.round, 0, span.steps, "writing")
            try:
                made = await asyncio.to_thread(
                    self.worker.write, self.state, self.index, span, report
                )
            except HandedBack:
                return
            signature = self.identity.sign(writing_part(self.genesis, made.writing))
            self._wrote = m.Wrote(made.writing, signature, made.written), made.blob
            trim()
        assert self._wrote
        self._set("sending")
        try:
            await self._client.ask(*self._wrote)
        except QuestionRefused as error:
            self.say(f"round {task.round}: not accepted: {error.reason}")
        self._set("waiting")

    async def _make(self, task: m.Train) -> tuple[Contribution, tuple[float, int]]:
        """Evaluate if asked, train what is left of a block and compress it. Raises HandedBack, Diverged."""
        begun = await self.ahead.take(task)
        nats = await self._evaluate(task)
        trained = await self._train(task, begun)
        now = clock.now()
        self.timings.train, self.timings.wall = trained.seconds, now - self._done_at
        self._done_at = now
        trim()  # what training has used, before compressing takes as much again
        return await asyncio.to_thread(self.worker.compress, self.state, self.index, trained), nats

    async def _evaluate(self, task: m.Train) -> tuple[float, int]:
        if not task.evaluate:
            return 0.0, 0
        began = clock.now()
        nats = await asyncio.to_thread(self.worker.evaluate, self.state, task.share, task.shares)
        self.timings.evaluate = clock.now() - began
        return nats

    async def _train(self, task: m.Train, begun: Trained | None) -> Trained:
        """What is left of a task. Raises HandedBack, Diverged."""
        self._set("training")
        span = span_of(task, self.worker.spec.block_steps)
        limit = blob_limit(self.worker.spec)
        blobs = await self._fetch.all([said.rollouts for said in task.answers], limit)
        found = [(said, blobs[said.rollouts]) for said in task.answers]
        given = answers.given(self.worker.spec, span, found)
        report = self._stepping(task.round, begun.steps if begun else 0, span.steps)
        return await asyncio.to_thread(self.worker.train, self.state, span, report, begun, given)

    async def _go_on(self) -> None:
        """Begin with the next round, from the state that is held and what this peer has sent."""
        rounds, coming = self.worker.spec.rounds, self.state.round + 1
        if (
            not rounds.overlap
            or coming >= self.worker.spec.schedule.rounds
            or self.ahead.round is not None
        ):
            return
        task, _ = await self._client.ask(m.Ahead(self.state.round))
        if isinstance(task, m.Train) and task.round == coming:
            steps = lead(rounds.overlap, span_of(task, self.worker.spec.block_steps).steps)
            self.ahead.begin(self.state, task, self._stepping(coming, 0, steps))

    async def _hand_in(self, question: m.Contribute, body: bytes) -> None:
        self._set("sending")
        began = clock.now()
        try:
            await self._client.ask(question, body)
        except QuestionRefused as error:
            self.say(f"round {question.announcement.round}: not accepted: {error.reason}")
        self.timings = Timings(send=clock.now() - began)
        self.handed = question.announcement.round
        self._set("waiting")

    async def _apply(self, closed: Closed) -> None:
        self._set("applying")
        worker, carries = self.worker, self.index in closed.carrying()
        worker.close_round(carries, closed.round)
        if carries:
            await self._written(forget_before, self.home, closed.round)
        if self.index not in closed.accepted:
            await self.ahead.drop()  # it builds on what did not count
            if reason := closed.rejected.get(self.index):
                more = ". Who is new or was away counts after some rounds" if carries else ""
                self.say(
                    f"round {closed.round}: the work of this peer did not count: {reason}{more}"
                )
        self._sent = None
        if self.ahead.round != closed.round + 1:
            await self.ahead.drop()
            await self._go_on()
        began = clock.now()
        limit = fetch_limit(worker.spec, worker.layout)
        blobs = await self._fetch.all(closed.needed(), limit)
        self.timings.fetch = clock.now() - began
        began = clock.now()
        self.state = await asyncio.to_thread(worker.advance, self.state, closed, blobs)
        trim()
        self.watch.tidy(self.shared)
        self.timings.apply = clock.now() - began
        if self.node:
            with contextlib.suppress(LinkError):  # with the next round, then
                await self.node.copy()
        self._copying.begin()

    # --- the volunteer's wishes

    async def _pause(self, reason: str) -> None:
        """Hand back what was begun, do nothing while there is a reason, join again."""
        began = clock.now()
        self.say(f"pausing: {reason}")
        await self._client.leave(f"paused: {reason}")
        while self.watch.pausing() and not self.watch.leaving():
            await asyncio.sleep(CONTROLS_CHECK)
        if not self.watch.leaving():
            self.say("going on")
            await self._client.join()
            self._done_at += clock.now() - began  # no time of the run

    # --- memory

    def _welcomed(self, welcome: m.Welcome) -> None:
        """Admitted, for the first time or again, perhaps by another coordinator. Raises PeerStopped."""
        try:
            genesis = genesis_hash(welcome.genesis, self.worker.spec, self.coordinator[0], verify)
        except ForeignRun as error:
            raise PeerStopped(f"{error}") from error
        if self.genesis not in ("", genesis):
            raise PeerStopped("the machine that leads now leads another run of this specification")
        self.genesis = genesis
        first, known = self.index < 0, self.index == welcome.index
        self.index, self.handed = welcome.index, welcome.handed
        if first:
            self._recall(welcome)
        elif not known:
            self._sent = self._wrote = None  # they name another peer

    def _recall(self, welcome: m.Welcome) -> None:
        """Take up the residual of the last round that left one, and that of the contribution which is
        in hand, if there is one; what is lost starts from zero."""
        worker, counted, handed = self.worker, welcome.last_accepted, welcome.handed
        if counted >= 0 and not worker.load(residual_path(self.home, counted), counted):
            self.say(f"the residual of round {counted} is lost; going on without it")
        path = residual_path(self.home, handed)
        if handed >= 0 and not worker.load_pending(path, handed):
            self.say(f"the residual of round {handed} is lost; going on without it")

    def _aside(self) -> str:
        done = self.ahead.done
        return f"round {self.ahead.round} is begun, as far as it can be, and kept" if done else ""

    async def _written(self, write: Callable[..., None], *what: object) -> None:
        """Write to disk in a thread. It goes on where this peer is cancelled meanwhile."""
        self._writing = asyncio.create_task(asyncio.to_thread(write, *what))
        await asyncio.shield(self._writing)

    def _save_last(self) -> None:
        self.state.save(self.shared.state(self.state.round))

    def _save_state(self) -> None:
        every = self.worker.spec.rounds.checkpoint
        # Beside the coordinator one peer saves for all; elsewhere each, to give it to newcomers.
        beside = self._leaders.leader_address()[0] == self.coordinator[0] and not self.node
        saves = self.saves or not beside or not self.shared.coordinator_key.exists()
        if saves and self.state.round and self.state.round % every == 0:
            self.state.save(self.shared.state(self.state.round))
            for old in self.shared.saved_rounds()[1:-2]:
                with contextlib.suppress(OSError):  # some systems keep what is being read
                    self.shared.state(old).unlink(missing_ok=True)

    def _set(self, doing: str) -> None:
        self.progress = m.Progress(doing, self.state.round, 0, self.progress.loss)  # type: ignore[arg-type]

    def _stepping(
        self, round_: int, done: int, steps: int, doing: str = "training"
    ) -> Callable[[int, float], None]:
        """What is to be called after every inner step for a round, from `done` to `steps`."""
        self.watch.steps = steps - done

        def stepped(step: int, loss: float) -> None:
            self.progress = m.Progress(doing, round_, done + step, loss)  # type: ignore[arg-type]
            self.watch.stepped(step)

        return stepped


def _words(error: BaseException) -> str:
    """Why a peer leaves, for the coordinator to show."""
    if isinstance(error, asyncio.CancelledError):
        return "ended by hand"
    return f"{error}".partition("\n")[0] or repr(error)


def _is_for(question: m.Contribute, task: m.Train, steps: int) -> bool:
    """Whether a contribution is the work for this task; steps: those of a whole block."""
    said, span = question.announcement, span_of(task, steps)
    done = Span(said.block, said.first, said.steps)
    return (said.round, done) == (task.round, span)
