"""A member that speaks the protocol perfectly and lies: in every field of every question, one field at a time
and in pairs. The run that it lies to is the real one, node, coordinator and peers, in virtual time, so that
a million lies take minutes and no limit of the clock keeps any of them out."""

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from bench.fuzz.lies import Path as LiePath
from bench.fuzz.lies import lied, plan
from bench.fuzz.target import Ended, table
from duckweed.ledger.entries import PeerEntry, RoundEntry, StateEntry, Writing
from duckweed.ledger.ledger import Ledger, entry_hash
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.net.framing import LinkError
from duckweed.net.identity import Identity
from duckweed.net.virtual import Network, VirtualLink
from duckweed.process.simulation import Simulation
from duckweed.round.open_round import Timings
from duckweed.round.signed import signed_part, verdict_part, writing_part
from duckweed.run import events
from duckweed.run.events import Event, RoundClosed
from duckweed.run.state import State
from duckweed.run.task.work import expected
from duckweed.run.task.written import Written
from duckweed.swarm.protocol import messages as m
from duckweed.wire.codec import codec_of

PACE = 0.02  # virtual seconds between two lies: as many questions as one key may ask
AT_ONCE = 500  # lies that are not answered yet
FORGED = 0.2  # share of contributions whose blob is nothing, noise, or another's
LOOK = 200  # lies between two looks at the run
KINDS = list(get_args(m.AnyQuestion))


class LiedTo(Simulation):
    """A simulated run with a liar among its members."""

    def __init__(self, *words: Any, lies: int, dice: random.Random, **more: Any) -> None:
        super().__init__(*words, tell=self._hear, **more)
        self.count, self.dice = lies, dice
        self.ended, self.sent, self.memory = Ended(), 0, (0, 0)
        self.closed: list[RoundClosed] = []

    def _hear(self, event: Event) -> None:
        events.encode(event)  # what cannot be written down would end a coordinator
        if isinstance(event, RoundClosed):
            self.closed.append(event)

    async def _take_part(self, n: int, key: Identity, network: Network, to: str) -> State:
        if n:
            return await super()._take_part(n, key, network, to)
        lying = asyncio.create_task(self._lie(network, to))
        try:
            return await super()._take_part(n, key, network, to)
        finally:
            lying.cancel()
            with suppress(asyncio.CancelledError):
                await lying  # raises what the liar has found

    async def _lie(self, network: Network, to: str) -> None:
        liar = Liar(self, network, to)
        await liar.join()
        gate = asyncio.Semaphore(AT_ONCE)  # some questions are answered after seconds
        before = memory()

        async def tell(kind: type, told: list[tuple[LiePath, Any]]) -> None:
            async with gate:
                self.ended[kind.__name__, await liar.tell(kind, told)] += 1
                self.sent += 1

        async with asyncio.TaskGroup() as telling:
            for number, (kind, told) in enumerate(plan(KINDS, self.count, self.dice)):
                await asyncio.sleep(PACE)
                if number % LOOK == 0:
                    await liar.look()
                if number == self.count // 10:
                    before = memory()  # pools and caches are full
                async with gate:
                    telling.create_task(tell(kind, told))
        await liar.look()
        self.memory = before, memory()
        await liar.ask(m.Leave("enough"))


class Liar:
    """The member. What it says but for the lies is what a member in its place would say."""

    def __init__(self, run: LiedTo, network: Network, to: str) -> None:
        self.run, self.dice, self.me = run, run.dice, Identity(run.dice.randbytes(32))
        self.network, self.to, self.index, self.genesis = network, to, -1, ""
        self.round, self.task, self.agreed = 0, m.Train(0, 0, 0, 1, False), "ab" * 32
        self.link: VirtualLink | None = None
        self.work: tuple[m.Contribute, bytes] | None = None  # for the task, without a lie

    async def ask(self, question: m.Message, body: bytes = b"") -> m.Answer:
        """Raises LinkError."""
        if self.link is None:
            self.link = await self.network.endpoint(self.me).connect(self.to, [])
        head, _ = await self.link.ask(m.encode(question), body, body_limit=1 << 24, patience=60)
        return m.answer(head)

    async def join(self) -> None:
        answer = await self.ask(m.Join(m.PROTOCOL, self.run.folder.read_secret()))
        assert isinstance(answer, m.Welcome), answer
        self.index = answer.index
        assert answer.genesis
        self.genesis = entry_hash("", 0, "genesis", 0, answer.genesis.body)

    async def look(self) -> None:
        """The run can still be looked at, and shows nothing that is out of its mind; and the liar learns
        what an honest peer would do now."""
        seen = await self.ask(m.GetStatus(m.PROTOCOL, self.run.folder.read_secret()))
        assert isinstance(seen, m.Status), seen
        assert seen.loss is None or 0.5 < seen.loss < 50, seen.loss
        assert seen.held_out is None or 0.5 < seen.held_out < 50, seen.held_out
        donors = await self.ask(m.GetDonors())
        if not isinstance(donors, m.DonorList):  # it has just taken its leave
            await self.join()
            return
        self.round, self.agreed = seen.round, donors.agreed.get(seen.round, self.agreed)
        answer = await self.ask(m.Next(self.round, self.agreed, False))
        if isinstance(answer, m.Train):
            self.task = answer

    async def tell(self, kind: type, told: list[tuple[LiePath, Any]]) -> str:
        """Say something with these lies in it; how that ended, in a word or two."""
        question, body = self.truth(kind)
        if kind is m.Contribute and self.dice.random() < FORGED:
            question, body = self._forged(question, body)
        for path, value in told:
            question = lied(question, path, value)
        if kind is m.Contribute and all(path[0] != "signature" for path, _ in told):
            with suppress(Exception):  # another lie stands there, and cannot be signed
                question.signature = self.me.sign(signed_part(self.genesis, question.announcement))
        try:
            answer = await self.ask(question, body)
        except LinkError as error:
            return f"cut off: {str(error)[:40]}"  # over this network it is heard again all the same
        except (msgspec.MsgspecError, OverflowError, TypeError):
            return "cannot be said"
        if isinstance(answer, m.Refused):
            if "join" in answer.reason:
                await self.join()
            malformed = answer.reason.startswith("not a question")
            return "malformed" if malformed else "refused"
        if kind is m.Leave:
            await self.join()
        return type(answer).__name__

    def truth(self, kind: type) -> tuple[Any, bytes]:
        """What an honest member could say at this moment, and the body that goes with it."""
        secret, digest = self.run.folder.read_secret(), "ab" * 32
        said: dict[type, Callable[[], m.Message]] = {
            m.Join: lambda: m.Join(m.PROTOCOL, secret, ["192.0.2.1:7000"]),
            m.GetRunInfo: lambda: m.GetRunInfo(m.PROTOCOL, secret),
            m.Probe: lambda: m.Probe(1000, secret),
            m.GetPaths: lambda: m.GetPaths(m.PROTOCOL, secret),
            m.GetRouter: lambda: m.GetRouter(m.PROTOCOL, secret),
            m.GetStatus: lambda: m.GetStatus(m.PROTOCOL, secret),
            m.Next: lambda: m.Next(self.round, self.agreed, True),
            m.Ahead: lambda: m.Ahead(self.round),
            m.Progress: lambda: m.Progress("training", self.round, 1, 3.0),
            m.Fetch: lambda: m.Fetch(digest),
            m.GetBlobPiece: lambda: m.GetBlobPiece(digest, 0),
            m.GetDonors: m.GetDonors,
            m.IsMember: lambda: m.IsMember(self.me.id),
            m.Leave: lambda: m.Leave("paused"),
            m.Shown: lambda: m.Shown(digest),
            m.Audited: self._verdict,
            m.Wrote: self._answers,
            m.GetSavedState: m.GetSavedState,
            m.GetStatePiece: lambda: m.GetStatePiece(0, 0),
            m.GetEntries: lambda: m.GetEntries(0, -1, ""),
            m.GetCopiedEntries: lambda: m.GetCopiedEntries(-1, ""),
            m.GetEntryRange: lambda: m.GetEntryRange(0, 3, digest),
            m.RequestVote: lambda: m.RequestVote(0, False),
            m.GetLeader: lambda: m.GetLeader(["192.0.2.1:7000"]),
        }
        if kind is m.Contribute:
            if self.work is None or self.work[0].announcement.round != self.task.round:
                self.work = self._work()
            return self.work
        return said[kind](), b"x" * 1000 if kind is m.Probe else b""

    def _verdict(self) -> m.Audited:
        """What an auditor could say of the first peer's work."""
        round_ = max(0, self.round - 1)
        part = verdict_part(self.genesis, round_, 0, False, "distance 2")
        return m.Audited(round_, 0, True, False, "distance 2", self.me.sign(part))

    def _answers(self) -> m.Wrote:
        """What a peer that only writes could say in another run."""
        said = Writing(self.round, max(0, self.index), 0, 0, 1, 32, 0.5, "ab" * 32)
        return m.Wrote(said, self.me.sign(writing_part(self.genesis, said)), Written())

    def _forged(self, question: m.Contribute, blob: bytes) -> tuple[m.Contribute, bytes]:
        """A contribution whose blob is another, of which all else is true."""
        old = [p for p in self.run.folder.blobs.iterdir() if p.suffix != ".part"]
        blob = self.dice.choice(
            [b"", self.dice.randbytes(200), blob[: len(blob) // 2], blob + b"x", bytes(164)]
            + [self.dice.choice(old).read_bytes() for _ in old[:1]]
        )
        said = msgspec.structs.replace(question.announcement, blob=blob_hash(blob), size=len(blob))
        return msgspec.structs.replace(question, announcement=said), blob

    def _work(self) -> tuple[m.Contribute, bytes]:
        """A contribution that an honest peer could have made."""
        run, task = self.run, self.task
        steps = task.steps or run.spec.inner.steps
        codec = codec_of(run.spec.wire, run.layout)
        state = run.workers[0].states[max(run.workers[0].states)]
        noise = np.random.default_rng(self.dice.randrange(1 << 32)).normal(size=run.layout.total)
        wanted = (1e-4 * noise).astype(np.float32)
        blob = codec.encode(wanted, state.shared).blob
        announcement = Announcement(
            task.round, self.index, task.block, blob_hash(blob), len(blob),
            expected(run.spec, steps).most, steps, 3.0, codec.announce(wanted), task.first,
        )  # fmt: skip
        signature = self.me.sign(signed_part(self.genesis, announcement))
        tokens = 256 if task.evaluate else 0
        return m.Contribute(announcement, signature, Timings(train=1.0), 3.0 * tokens, tokens), blob


def memory() -> int:
    """Bytes that this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def lie_to(run: LiedTo) -> dict[str, Any]:
    """Let a simulated run be lied to; what came of it."""
    began = time.monotonic()
    run.run()
    ledger = Ledger(run.folder.ledger)
    closed = [entry.body.closed for entry in ledger.entries(RoundEntry)]
    agreed = sum(1 for _ in ledger.entries(StateEntry))
    members = sum(1 for _ in ledger.entries(PeerEntry))
    ledger.close()
    before, after = run.memory
    honest = set(range(run.spec.rounds.peers))
    return {
        "lies": run.sent,
        "seconds": time.monotonic() - began,
        "ended": table(run.ended),
        "memory": {"before": before, "after": after},
        "rounds closed": len(closed),
        "states agreed on": agreed,
        "members": members,
        "rounds without the work of an honest peer": sum(
            not honest <= set(one.accepted) for one in closed
        ),
        "bytes of metrics": run.folder.metrics.stat().st_size,
        "bytes of the ledger": run.folder.ledger.stat().st_size,
    }
