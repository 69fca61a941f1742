"""The coordinator: admits peers, opens and closes rounds, keeps the ledger. Needs no weights.

It survives being killed at any instant: blobs are on disk before a round closes, and a round is
closed by one insert into the ledger. What is not in the ledger has not happened.
"""

import asyncio
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import msgspec

from duckweed.merge.round import Closed, blob_hash, close
from duckweed.run import toml
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.ledger import Ledger, LedgerError
from duckweed.run.spec import RunSpec
from duckweed.swarm import messages as m
from duckweed.swarm import standing
from duckweed.swarm.admission import Admission
from duckweed.swarm.agreement import Agreement
from duckweed.swarm.guests import EXPELLED, Guests
from duckweed.swarm.identity import verify
from duckweed.swarm.library import Library
from duckweed.swarm.record import assignments, epoch, ledger_body, round_event
from duckweed.swarm.rounds import Blocks, Member, OpenRound, budgets, deadline
from duckweed.swarm.timing import POLL
from duckweed.wire.contribution import max_size

NAMED = 10  # peers that are named as missing

Tell = Callable[[dict[str, Any]], None]


class Coordinator:
    """The state of a run while it is served; `handle` answers the questions of peers."""

    def __init__(
        self, folder: RunFolder, spec: RunSpec, layout: Layout, ledger: Ledger, tell: Tell
    ) -> None:
        self.folder, self.spec, self.layout, self.ledger, self.tell = (
            folder, spec, layout, ledger, tell,
        )  # fmt: skip
        self.admission = Admission(
            ledger, Guests(folder.guests), folder.read_secret(), spec.members
        )
        self.agreement = Agreement(ledger)
        self.library = Library(folder)
        self.blocks = Blocks(spec.inner.steps)
        self.closed: dict[int, Closed] = {}
        self.traffic: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.durations: deque[float] = deque(maxlen=64)
        self.scales: list[float] = []
        self.tokens, self.windows = "", 1
        self.last: dict[str, Any] | None = None  # what was told of the last round
        self.held_out: float | None = None
        self.stopping = ""
        self.broken: Exception | None = None
        self._changed = asyncio.Condition()  # anything that may close a round
        self._news = asyncio.Condition()  # a round opened or closed: what peers wait for
        self._load()
        self.round: OpenRound | None = None

    # --- the past

    def _load(self) -> None:
        """Take up what the ledger tells. Raises LedgerError if it is not that of this run."""
        for entry in self.ledger.entries():
            if entry.kind == "genesis":
                self._check_genesis(entry.body)
                self.scales = entry.body["scales"]
                self.tokens, self.windows = entry.body["tokens"], entry.body["windows"]
                self.agreement.agreed[0] = entry.body["state"]
            elif entry.kind == "peer":
                self.admission.replay(entry.body)
            elif entry.kind == "round":
                closed = msgspec.convert(entry.body["closed"], Closed, strict=False)
                self.blocks.replay(assignments(entry.body, self.blocks.steps), closed.accepted)
                self.closed[closed.round] = closed
                self.admission.counted(closed.round, closed.accepted)
                self.scales = closed.scales
            elif entry.kind == "state":
                self.agreement.agreed[entry.round] = entry.body["hash"]
        if 0 not in self.agreement.agreed:
            raise LedgerError(f"{self.ledger.path}: empty; the run has lost its ledger")
        saved = self.folder.saved_rounds()
        if saved and saved[-1] > self.number:
            raise LedgerError(
                f"{self.ledger.path}: ends with round {self.number}, but there is a state after "
                f"round {saved[-1]}; entries were cut off. Put the whole ledger back"
            )

    def _check_genesis(self, body: dict[str, Any]) -> None:
        if body["run"] != self.spec.identity:
            raise LedgerError(
                f"{self.folder.spec} is not the specification that the run began with; put the old "
                "one back (the ledger has it, in its first entry), or start a new run with it"
            )
        if body["layout"] != self.layout.digest():
            raise LedgerError(f"{self.folder.path}: layout.json was changed after the run began")

    @property
    def number(self) -> int:
        """How many rounds are closed."""
        return len(self.closed)

    # --- questions

    def body_limit(self, peer: str, head: bytes) -> int:
        """Most bytes that may follow a question. Raises ValueError for a stranger or nonsense."""
        question = m.question(head)
        if isinstance(question, m.Probe):
            objection = self.admission.objection(peer, m.PROTOCOL, question.secret)
            return 0 if objection else m.PROBE_LIMIT
        if not isinstance(question, m.Contribute):
            return 0
        if peer not in self.admission.members:
            raise ValueError("a contribution of a stranger")
        return max_size(self.spec.wire, self.layout)

    async def handle(self, peer: str, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Answer one question of the holder of key `peer`. Raises ValueError if it is nonsense, or
        one too many."""
        self.admission.guard.asks(peer)
        question = m.question(head)
        try:
            answer, blob = await self._answer(peer, question, body)
        except (OSError, LedgerError) as error:
            self.broken = error  # a full disk, say: the run ends, with what is on disk kept
            await self._notify(news=True)
            raise
        reply = m.encode(answer)
        purpose = "contributions" if isinstance(question, m.Contribute) else "control"
        self.traffic[purpose][0] += 12 + len(head) + len(body)
        purpose = "updates" if isinstance(answer, m.Blob) else "control"
        self.traffic[purpose][1] += 12 + len(reply) + len(blob)
        return reply, blob

    async def _answer(self, peer: str, question: m.Question, body: bytes) -> tuple[m.Answer, bytes]:
        if isinstance(question, m.Join | m.Enquire | m.Look | m.Probe):
            protocol = m.PROTOCOL if isinstance(question, m.Probe) else question.protocol
            if objection := self.admission.objection(peer, protocol, question.secret):
                return self._refuse(peer, "not admitted", objection), b""
            if not isinstance(question, m.Join):
                return standing.answer(self, question)
            return await self._admit(peer, question), b""
        member = self.admission.members.get(peer)
        if member is None or peer in self.admission.expelled:
            return self._refuse(peer, "strangers", EXPELLED if member else "join first"), b""
        if member.doing == "gone":
            return m.Refused("this peer has left; join again"), b""
        self.admission.hear(member)
        match question:
            case m.Next():
                return await self._next(member, question), b""
            case m.Contribute():
                return await self._take(member, question, body), b""
            case m.Snapshot():
                return self.library.newest(), b""
            case m.Piece():
                return self.library.piece(question)
            case m.Fetch():
                return self.library.blob(question.blob)
            case m.Progress():
                member.doing, member.step, member.loss = (
                    question.doing,
                    question.step,
                    question.loss,
                )
                return m.Noted(), b""
            case m.Leave():
                await self._left(member, question.reason)
                return m.Noted(), b""

    def _refuse(self, key: str, kind: str, reason: str) -> m.Refused:
        self.admission.guard.fault(key, kind)
        return m.Refused(reason)

    async def _admit(self, key: str, join: m.Join) -> m.Answer:
        member = self.admission.admit(key, join.secret, self.number)
        await self._notify()
        return m.Welcome(
            member.index,
            toml.write(self.spec),
            member.last,
            self.layout.digest(),
            self.tokens,
        )

    async def _next(self, member: Member, question: m.Next) -> m.Answer:
        if fault := await self._vote(member, question):
            return fault
        closes = time.monotonic() + POLL
        while True:
            if question.round in self.closed:
                return m.Apply(self.closed[question.round])
            if self.stopping:
                return m.Stop(self.stopping)
            if question.round == self.spec.rounds.count:
                if question.round in self.agreement.agreed:
                    return m.Stop("all rounds are done")
            elif self.round and self.round.wants(member.index, question):
                return self._assign(member, self.round)
            try:
                async with self._news:
                    await asyncio.wait_for(self._news.wait(), closes - time.monotonic())
            except TimeoutError:
                return m.Wait(self.waiting_for())

    def waiting_for(self) -> str:
        """What the run waits for, in words."""
        if self.round is None:
            return f"{len(self._here())} of {self.spec.rounds.peers} peers are here"
        missing = [str(p) for p in self.round.assigned if p not in self.round.handed]
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        return f"round {self.round.number}: waiting for peer {', '.join(missing[:NAMED])}{more}"

    def _assign(self, member: Member, open_: OpenRound) -> m.Answer:
        if member.index not in open_.assigned:
            open_.assigned[member.index] = self.blocks.take(self._budgets()[member.index])
        span = open_.assigned[member.index]
        open_.begun[member.index] = time.monotonic()
        return m.Train(
            open_.number,
            span.block,
            list(open_.assigned).index(member.index),
            len(open_.assigned),
            open_.number % self.spec.rounds.evaluate == 0,
            span.first,
            span.steps,
        )

    def _budgets(self) -> dict[int, int]:
        paces = {member.index: member.pace for member in self._here()}
        return budgets(paces, self.spec.inner.steps, self.spec.rounds.patience)

    def _objection(self, member: Member, question: m.Contribute, blob: bytes) -> str | None:
        """Why a contribution cannot be taken; None if it can."""
        announcement, open_ = question.announcement, self.round
        if announcement.peer != member.index:
            return "a contribution in another peer's name"
        if not verify(member.key, m.signed_part(announcement), question.signature):
            return "the signature does not fit the announcement"
        if open_ is None or announcement.round != open_.number:
            return f"round {announcement.round} is not open"
        span = open_.assigned.get(member.index)
        if span is None or span.block != announcement.block:
            return f"block {announcement.block} is not assigned to this peer"
        if announcement.size != len(blob) or announcement.blob != blob_hash(blob):
            return "the blob is not the one announced"
        if not math.isfinite(announcement.loss) or not math.isfinite(question.nats):
            return "the loss is not finite"
        if (announcement.first, announcement.steps) != (span.first, span.steps):
            return f"steps {span.first} to {span.end} of the block are assigned to this peer"
        expected = self.spec.tokens_per_block // self.spec.inner.steps * span.steps
        if announcement.tokens != expected:
            return f"{span.steps} steps have {expected} tokens, not {announcement.tokens}"
        return None

    async def _take(self, member: Member, question: m.Contribute, blob: bytes) -> m.Answer:
        announcement, open_ = question.announcement, self.round
        if objection := self._objection(member, question, blob):
            if open_ is not None:
                open_.refused.add(member.index)
            self.tell({"event": "refused", "peer": member.index, "reason": objection})
            return self._refuse(member.key, "contributions", objection)
        assert open_ is not None
        if member.index in open_.handed:
            return m.Noted()
        write_atomically(self.folder.blob(announcement.blob), blob)
        open_.handed[member.index] = (announcement, blob)
        open_.seconds[member.index] = time.monotonic() - open_.opened
        open_.timings[member.index] = question.timings
        if 0 < question.timings.train < math.inf:
            member.pace = question.timings.train / announcement.steps
        if question.tokens > 0:
            open_.nats[member.index] = (question.nats, question.tokens)
        await self._notify()
        return m.Noted()

    async def _left(self, member: Member, reason: str) -> None:
        member.here, member.doing = False, "gone"
        if self.number < self.spec.rounds.count:
            self.tell({"event": "left", "peer": member.index, "reason": reason})
        await self._notify()

    # --- agreement on the state

    async def _vote(self, member: Member, question: m.Next) -> m.Stop | None:
        """Note which state a peer holds; the state that most hold is written into the ledger."""
        number = question.round
        if number in self.agreement.agreed and self.agreement.agreed[number] == question.hash:
            return None
        if number > self.number:
            return m.Stop(f"this peer is at round {number}, the run at {self.number}", fault=True)
        accepted = set(self.closed[number - 1].accepted) if number else set()
        voters = [x.index for x in self._here() if x.index in accepted]
        if self.agreement.vote(number, member.index, question.hash, voters):
            await self._notify(news=True)
        agreed = self.agreement.agreed.get(number)
        if agreed is None or agreed == question.hash:
            return None
        self.tell({"event": "differs", "peer": member.index, "round": number})
        return m.Stop(
            f"the weights of this peer after round {number} differ from those of the others "
            f"({question.hash[:10]}, not {agreed[:10]}); it must not contribute",
            fault=True,
        )

    # --- rounds

    async def run(self) -> None:
        """Open and close rounds until all are done or the run is stopped."""
        await self._until(self._enough_here)
        while self.number < self.spec.rounds.count and not self.stopping:
            open_ = self.round = OpenRound(self.number, time.monotonic())
            # The slow ones first: they go on with the rests, the others take up what is left.
            given = self._budgets()
            spans = {p: self.blocks.take(given[p]) for p in sorted(given, key=given.__getitem__)}
            open_.assigned.update({peer: spans[peer] for peer in given})
            await self._notify(news=True)
            await self._until(self._complete)
            if not self.stopping:
                self._close(open_)
        self.round = None
        await self._notify(news=True)
        await self._until(lambda: bool(self.stopping) or self.number in self.agreement.agreed)

    async def stop(self, reason: str) -> None:
        """End the run here; what is not closed has not happened."""
        self.stopping = reason
        await self._notify(news=True)

    def moved(self) -> dict[str, list[int]]:
        """Bytes received and sent so far, by purpose."""
        return {purpose: list(counts) for purpose, counts in self.traffic.items()}

    def attended(self) -> bool:
        """Whether any peer is here."""
        return bool(self._here())

    def _here(self) -> list[Member]:
        for member, reason in self.admission.missed():
            self.tell({"event": "left", "peer": member.index, "reason": reason})
        return self.admission.here()

    def _enough_here(self) -> bool:
        return bool(self.stopping) or len(self._here()) >= self.spec.rounds.peers

    def _complete(self) -> bool:
        open_ = self.round
        assert open_ is not None
        if self.stopping:
            return True
        here = {member.index for member in self._here()}
        if not open_.handed:
            return False
        answered = open_.handed.keys() | open_.refused
        if all(peer in answered for peer in open_.assigned if peer in here):
            return True
        limit = deadline([*self.durations, *open_.seconds.values()], self.spec.rounds.patience)
        enough = len(open_.handed) >= self.spec.rounds.quorum * len(open_.assigned)
        return enough and limit is not None and time.monotonic() - open_.opened > limit

    def _close(self, open_: OpenRound) -> None:
        crowded = self.admission.crowded({p: a.tokens for p, (a, _) in open_.handed.items()})
        handed = [open_.handed[peer] for peer in sorted(open_.handed) if peer not in crowded]
        closed, update = close(self.spec, self.layout, self.scales, handed)
        closed.rejected |= crowded
        for peer in open_.assigned:
            if peer not in open_.handed:
                closed.rejected[peer] = "nothing handed in before the round closed"
                self._overdue(open_, peer)
        if update is not None:
            assert closed.update is not None
            write_atomically(self.folder.blob(closed.update), update)
        self.ledger.append(
            "round", open_.number, ledger_body(closed, open_.assigned, handed, self.blocks.steps)
        )
        self.blocks.settle(open_.assigned, closed.accepted)
        self.closed[open_.number], self.scales = closed, closed.scales
        self.admission.counted(closed.round, closed.accepted)
        self.durations.extend(open_.seconds.values())
        self._report(open_, closed, len(update) if update else 0)

    def _overdue(self, open_: OpenRound, peer: int) -> None:
        """A peer that was too slow for its steps: how far it came tells how many to give it."""
        member = self.admission.by_index[peer]
        begun = open_.begun.get(peer)
        if member.here and member.doing == "training" and begun is not None:
            member.pace = max(member.pace, (time.monotonic() - begun) / max(1, member.step))

    def _report(self, open_: OpenRound, closed: Closed, update_size: int) -> None:
        said = {peer: announcement for peer, (announcement, _) in open_.handed.items()}
        nats = [sum(x) for x in zip(*open_.nats.values(), strict=True)] or [0.0, 0]
        self.last = round_event(
            open_.number,
            seconds=time.monotonic() - open_.opened,
            announcements=said,
            closed=closed,
            update_size=update_size,
            nats=(float(nats[0]), int(nats[1])),
            timings={peer: msgspec.to_builtins(t) for peer, t in open_.timings.items()},
            traffic=self.moved(),
            epoch=epoch(self.spec, (s.block for s in open_.assigned.values()), self.windows),
        )
        if self.last["held_out"] is not None:
            self.held_out = self.last["held_out"]
        self.tell(self.last)

    async def _notify(self, news: bool = False) -> None:
        """Something may close the round; news: and every waiting peer must hear of it."""
        for condition in (self._changed, self._news) if news else (self._changed,):
            async with condition:
                condition.notify_all()

    async def _until(self, true: Callable[[], bool]) -> None:
        """Wait for a condition, looked at on every change and every second. Raises what broke."""
        while not true():
            if self.broken:
                raise self.broken
            try:
                async with self._changed:
                    await asyncio.wait_for(self._changed.wait(), 1.0)
            except TimeoutError:
                continue
