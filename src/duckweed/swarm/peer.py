"""A peer: joins, asks what to do, trains, hands in, applies. Holds the whole state of the run."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from duckweed.merge.round import PEER_LIMIT, Closed, advance, blob_hash
from duckweed.merge.rules import WEIGHT_LIMIT
from duckweed.run.folder import RunFolder
from duckweed.run.sections import Integer
from duckweed.run.state import State
from duckweed.swarm import messages as m
from duckweed.swarm.identity import Identity
from duckweed.swarm.keeper import LOOK, HandedBack, Keeper
from duckweed.swarm.timing import BEAT, GOODBYE, PATIENCE, REMIND, RETRY
from duckweed.swarm.transport import Endpoint, Link, LinkError
from duckweed.swarm.work import Worker, forget_before, residual_path
from duckweed.wire.contribution import max_size
from duckweed.wire.update import max_update_size


def listening(addresses: Sequence[str]) -> str:
    """Where a peer binds its socket: loopback only if the coordinator is on this machine only."""
    here = all(address.startswith(("127.", "[::1]")) for address in addresses)
    return "127.0.0.1:0" if here else "0.0.0.0:0"


class PeerStopped(RuntimeError):
    """The peer cannot go on; the message says whose fault it is."""


class Peer:
    """One peer of a run. home: its own folder; shared: where it saves states when it is asked to."""

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
    ) -> None:
        self.identity, self.worker, self.state, self.say = identity, worker, state, say
        self.home, self.shared, self.coordinator = home, shared, coordinator
        self.secret, self.keeper = secret, Keeper(home, say)
        self.progress = m.Progress("starting", state.round)
        self.timings = m.Timings()
        self.saves = False
        self._link: Link | None = None
        self._endpoint: Endpoint | None = None

    async def run(self) -> str:
        """Take part until the run ends; returns the reason. Raises PeerStopped, LinkError."""
        self._endpoint = await Endpoint.bind(
            self.identity, m.HEAD_LIMIT, listening(self.coordinator[1])
        )
        self._endpoint.pace = self.keeper.pace
        beat = asyncio.create_task(self._beat())
        try:
            welcome = await self._join()
            self.index = welcome.index
            self._recall(welcome.last_accepted)
            return await self._take_part()
        except (asyncio.CancelledError, OSError, MemoryError, RuntimeError) as error:
            self.keeper.ended = True  # a block that is being trained ends with its next step
            await self._leave(str(error) or "ended by hand")
            raise
        finally:
            beat.cancel()
            if self._link:
                self._link.close()
            await self._endpoint.close()

    async def _take_part(self) -> str:
        contributed, digest = False, self.state.hash()
        while True:
            if self.keeper.leaving():
                await self._leave("its volunteer let it go")
                return "left"
            if reason := self.keeper.pausing():
                await self._pause(reason)
                contributed = False
                continue
            began = time.perf_counter()
            answer, _ = await self._ask(m.Next(self.state.round, digest, contributed))
            match answer:
                case m.Train():
                    contributed = await self._train(answer)
                case m.Apply():
                    self.timings.wait += time.perf_counter() - began
                    await self._apply(answer.closed)
                    contributed, digest = False, self.state.hash()
                case m.Wait():
                    self.timings.wait += time.perf_counter() - began
                    self._set("waiting")
                case m.Stop(reason=reason, fault=fault):
                    if fault:
                        raise PeerStopped(reason)
                    # Whoever was to save it may be gone.
                    if self.saves or not self.shared.state(self.state.round).exists():
                        self.state.save(self.shared.state(self.state.round))
                    await self._ask(m.Leave(reason))
                    return reason
                case m.Refused(reason=reason):
                    raise PeerStopped(f"the coordinator refused: {reason}")

    async def _train(self, task: m.Train) -> bool:
        """False if the volunteer wanted the machine back before the block was trained."""
        self.saves = task.share == 0
        self._save_state()
        nats, tokens = 0.0, 0
        if task.evaluate:
            began = time.perf_counter()
            nats, tokens = await asyncio.to_thread(
                self.worker.evaluate, self.state, task.share, task.shares
            )
            self.timings.evaluate = time.perf_counter() - began
        self._set("training")
        self.keeper.steps = task.steps or self.worker.spec.inner.steps
        try:
            made = await asyncio.to_thread(
                self.worker.contribute, self.state, self.index, task.block, self._stepped,
                task.first, task.steps,
            )  # fmt: skip
        except HandedBack:
            return False
        # On disk before it is sent: once it counts, the residual must not be lost.
        self.worker.save(residual_path(self.home, task.round))
        self.timings.train, self.timings.compress = made.train_seconds, made.compress_seconds
        self._set("sending")
        signature = self.identity.sign(m.signed_part(made.announcement))
        question = m.Contribute(made.announcement, signature, self.timings, nats, tokens)
        began = time.perf_counter()
        answer, _ = await self._ask(question, made.blob)
        self.timings = m.Timings(send=time.perf_counter() - began)
        if isinstance(answer, m.Refused):
            self.say(f"round {task.round}: not accepted: {answer.reason}")
        self._set("waiting")
        return True

    async def _apply(self, closed: Closed) -> None:
        self._set("applying")
        began = time.perf_counter()
        blobs = {digest: await self._fetch(digest) for digest in closed.needed()}
        self.timings.fetch = time.perf_counter() - began
        began = time.perf_counter()
        worker = self.worker
        self.state = await asyncio.to_thread(
            advance, worker.spec, worker.layout, self.state, closed, blobs.__getitem__
        )
        accepted = self.index in closed.accepted
        worker.settle(accepted)
        if accepted:
            forget_before(self.home, closed.round)
        self.keeper.tidy(self.shared)
        self.timings.apply = time.perf_counter() - began

    # --- the volunteer's wishes

    async def _pause(self, reason: str) -> None:
        """Hand back what was begun, do nothing while there is a reason, join again."""
        self.say(f"pausing: {reason}")
        await self._leave(f"paused: {reason}")
        while self.keeper.pausing() and not self.keeper.leaving():
            await asyncio.sleep(LOOK)
        if not self.keeper.leaving():
            self.say("going on")
            await self._join()

    async def _leave(self, reason: str) -> None:
        """Say good-bye, if the coordinator can be reached."""
        link, self._link = self._link, None  # no further sign of life
        if link:
            with contextlib.suppress(LinkError):
                await link.ask(m.encode(m.Leave(reason[:200])), patience=GOODBYE)
            link.close()

    # --- memory

    def _recall(self, round_: int) -> None:
        """Take up the residual of the last round that counted; without it, start from zero."""
        if round_ >= 0 and not self.worker.load(residual_path(self.home, round_)):
            self.say(f"the residual of round {round_} is lost; going on without it")

    def _save_state(self) -> None:
        every = self.worker.spec.rounds.checkpoint
        if self.saves and self.state.round and self.state.round % every == 0:
            self.state.save(self.shared.state(self.state.round))
            for old in self.shared.saved_rounds()[1:-2]:
                self.shared.state(old).unlink(missing_ok=True)

    # --- talking

    async def _join(self) -> m.Welcome:
        answer, _ = await self._ask(m.Join(m.PROTOCOL, self.secret))
        if not isinstance(answer, m.Welcome):
            raise PeerStopped(f"not admitted: {getattr(answer, 'reason', answer)}")
        return answer

    async def _fetch(self, digest: str) -> bytes:
        spec, layout = self.worker.spec, self.worker.layout
        limit = max_size(spec.wire, layout)
        if isinstance(spec.wire, Integer):
            limit = max_update_size(layout, spec.wire.levels, PEER_LIMIT, WEIGHT_LIMIT)
        answer, blob = await self._ask(m.Fetch(digest), body_limit=limit)
        if not isinstance(answer, m.Blob):
            raise PeerStopped(f"the coordinator has no blob {digest[:10]}")
        if blob_hash(blob) != digest:
            raise PeerStopped(f"what came is not blob {digest[:10]}; the coordinator is at fault")
        return blob

    async def _ask(
        self, question: m.Message, body: bytes = b"", body_limit: int = 0
    ) -> tuple[m.Answer, bytes]:
        """Ask until there is an answer: a coordinator that goes away is waited for."""
        away_since, told = 0.0, 0.0
        while True:
            try:
                link = await self._connected()
                head, blob = await link.ask(
                    m.encode(question), body, body_limit=body_limit, patience=PATIENCE
                )
                return _understood(head), blob
            except LinkError as error:
                if self._link:
                    self._link.close()
                    self._link = None
                now = time.monotonic()
                away_since = away_since or now
                if not told or now - told > REMIND:
                    gone = f" for {now - away_since:.0f} s" if told else ""
                    self.say(f"the coordinator does not answer{gone} ({error}); trying again")
                    told = now
                await asyncio.sleep(RETRY)

    async def _connected(self) -> Link:
        if self._link is None:
            assert self._endpoint is not None
            self._link = await self._endpoint.connect(*self.coordinator)
        return self._link

    def _set(self, doing: str) -> None:
        self.progress = m.Progress(doing, self.state.round, 0, self.progress.loss)  # type: ignore[arg-type]

    def _stepped(self, step: int, loss: float) -> None:
        self.progress = m.Progress("training", self.state.round, step, loss)
        self.keeper.stepped(step)

    async def _beat(self) -> None:
        """Signs of life, apart from all other questions."""
        while True:
            await asyncio.sleep(BEAT)
            if self._link:
                try:
                    await self._link.ask(m.encode(self.progress), patience=PATIENCE)
                except LinkError:
                    continue


def _understood(head: bytes) -> m.Answer:
    try:
        return m.answer(head)
    except msgspec.DecodeError as error:
        raise PeerStopped(f"the coordinator's answer makes no sense: {error}") from error
