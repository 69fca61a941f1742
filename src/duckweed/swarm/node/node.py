"""A machine's end of a run: answers whatever comes, keeps its copy of the ledger, and coordinates the
run for as long as it is in charge."""

import asyncio
from collections.abc import Callable
from typing import Any

from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import Identity
from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import HANDOVER, PEERS_CHECK, POLL, RETRY
from duckweed.net.transport import Endpoint, LinkError
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.blobs.peer_links import Neighbours
from duckweed.swarm.coordinator.coordinator import Coordinator
from duckweed.swarm.node.election import Election
from duckweed.swarm.node.replica import Replica
from duckweed.swarm.protocol import messages as m

Tell = Callable[[dict[str, Any]], None]


class OwnLink:
    """Questions to the coordinator in this same process."""

    def __init__(self, coordinator: Coordinator, me: str) -> None:
        self._coordinator, self._me = coordinator, me

    async def ask(
        self, head: bytes, body: bytes = b"", *, body_limit: int = 0, patience: float = 0
    ) -> tuple[bytes, bytes]:
        """As Link.ask. Raises LinkError."""
        if self._coordinator.unseated:
            raise LinkError("this machine is not in charge any more")
        try:
            return await self._coordinator.handle(self._me, head, body)
        except ValueError as error:
            raise LinkError(str(error)) from error

    def close(self) -> None:
        pass


class Station:
    """first: key and addresses of who is in charge, as an invitation or the run's folder says; tell:
    takes the events of a coordinator; took_office: called when this machine is put in charge."""

    def __init__(
        self,
        endpoint: Endpoint,
        identity: Identity,
        folder: RunFolder,
        ledger: Ledger,
        first: tuple[str, list[str]],
        tell: Tell,
        say: Callable[[str], None],
    ) -> None:
        self.endpoint, self.folder, self.tell, self.say = endpoint, folder, tell, say
        self.replica = Replica(folder, identity, endpoint, ledger, first, say)
        self.took_office: Callable[[], None] = lambda: None
        self.coordinator: Coordinator | None = None
        self.neighbours: Neighbours | None = None
        self.guard = RateLimits(self._knows)
        self.spec: RunSpec | None = None
        self.over = ""  # why the run ends here
        self._moved: dict[str, list[int]] = {}

    def begin(self, spec: RunSpec, layout: Layout) -> None:
        """What the run is; from now on this machine can vote and be in charge."""
        self.spec, self.layout = spec, layout
        self.replica.begin(spec, layout)

    def _knows(self, key: str) -> bool:
        return (
            (self.coordinator is not None and key in self.coordinator.admission.members)
            or (self.neighbours is not None and self.neighbours.met(key))
            or self.replica.knows(key)
        )

    def account(self) -> dict[str, Any]:
        """What this machine moved as coordinator, and what it refused."""
        return {"traffic": self._moved, "refused": dict(self.guard.refused)}

    # --- answers

    def body_limit(self, peer: str, head: bytes) -> int:
        """Most bytes that may follow a question. Raises ValueError."""
        return self.coordinator.body_limit(peer, head) if self.coordinator else 0

    async def handle(self, peer: str, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Answer one question of the holder of key `peer`. Raises ValueError if it is nonsense."""
        question = m.question(head)
        votes = self.replica.votes(peer)
        if isinstance(question, m.Entries | m.Extract | m.Promise | m.Who):
            self.guard.asks(peer)
            answer, data = await self._of_the_ledger(peer, question, votes)
            return m.encode(answer), data
        if votes and isinstance(question, m.Fetch) and question.whole:
            answer, data = self.replica.library.blob(question.blob)
            return m.encode(answer), data
        if self.coordinator:
            if votes and isinstance(question, m.Join):
                self.replica.note(0, "", [m.Holder(peer, question.addresses)])
            return await self.coordinator.handle(peer, head, body)
        self.guard.asks(peer)
        if self.neighbours and isinstance(question, m.Part | m.Snapshot | m.Piece):
            return await self.neighbours.answer(peer, head, body)
        if self.replica.knows(peer):
            return m.encode(self.replica.in_charge()), b""
        self.guard.fault(peer, "strangers")
        who, term = self.replica.known.key, self.replica.known.term
        return m.encode(
            m.Refused(
                f"this machine keeps a copy of the ledger; {self.replica.name(who)} is in charge of the "
                f"run (term {term}): ask there for an invitation"
            )
        ), b""

    async def _of_the_ledger(
        self, peer: str, question: m.Entries | m.Extract | m.Promise | m.Who, votes: bool
    ) -> tuple[m.Answer, bytes]:
        if not self.replica.knows(peer):
            raise ValueError("takes no part in this run")
        match question:
            case m.Who(addresses=addresses):
                if votes:
                    self.replica.note(0, "", [m.Holder(peer, addresses)])
                return self.replica.in_charge(), b""
            case m.Entries():
                return await self.replica.entries(peer, question)
            case m.Extract() if votes:
                return self.replica.extract(question)
            case m.Promise() if votes and self.replica.seat:
                return Election(self.replica, self.replica.seat).promise(peer, question), b""
        raise ValueError("does not vote")

    async def serve(self) -> None:
        """Answer until the endpoint closes."""
        await self.endpoint.serve(self.handle, self.body_limit, self.guard)

    # --- for a peer of this same process

    def own_link(self) -> OwnLink:
        """To the coordinator. Raises LinkError while this machine is not in charge."""
        if self.coordinator is None or self.coordinator.unseated:
            raise LinkError("this machine is not in charge")
        return OwnLink(self.coordinator, self.endpoint.id)

    async def copy(self) -> None:
        """Take over the entries that are new; a machine that votes does so all the time. Raises
        LinkError, LedgerError."""
        while self.replica.seat is None and await self.replica.pull():
            pass

    # --- in charge, or not

    async def run(self) -> None:
        """Follow or coordinate, whichever it is, until the run ends here. Raises LedgerError, OSError."""
        seat = self.replica.seat
        if seat is None:
            where = self.replica.ledger.path
            raise LedgerError(
                f"{where}: this machine's key is not one of those that may coordinate the run"
                if self.replica.charge
                else f"{where}: empty; the run has lost its ledger"
            )
        election = Election(self.replica, seat)
        while not self.over:
            if seat.in_charge:
                await self._coordinate()
            elif self._done():
                self.over = "all rounds are done"
            else:
                await self._follow(election)

    async def stop(self, reason: str) -> None:
        """End the run here; what is not closed has not happened."""
        self.over = reason
        if self.coordinator:
            await self.coordinator.stop(reason)

    def _done(self) -> bool:
        """Whether the ledger tells of the end of the run."""
        assert self.spec is not None
        last = self.replica.ledger.last("state")
        return last is not None and last.round == self.spec.rounds.count

    async def _follow(self, election: Election) -> None:
        """Keep up with who is in charge, for a moment; if nobody was for too long, stand for office."""
        try:
            await self.replica.pull()
            return
        except LinkError:
            await self.replica.look_round()
        if election.due:
            await election.stand()
        if not election.seat.in_charge:
            await asyncio.sleep(RETRY)

    async def _coordinate(self) -> None:
        seat, ledger = self.replica.seat, self.replica.ledger
        assert self.spec is not None
        assert seat is not None
        run = Coordinator(self.folder, self.spec, self.layout, ledger, self.tell, seat, self.guard)
        seat.unseated, self.replica.advanced = run.unseat, run.nudge
        self.coordinator = run
        self.took_office()
        looking = asyncio.create_task(self._look())
        try:
            await run.run()
            while run.attended() and not run.ended:
                await asyncio.sleep(PEERS_CHECK)
            if not run.unseated:
                self.over = run.stopping or "all rounds are done"
                await self._hand_over()
        finally:
            looking.cancel()
            self._moved = run.moved()
            self.coordinator = None
        if not self.over:
            self.say("another may be in charge of the run; going on with a copy of the ledger")

    async def _look(self) -> None:
        """While too few voters are heard: is somebody else in charge?"""
        while len(self.replica.charge.voters) > 1:  # type: ignore[union-attr]
            if not self.replica.in_touch():
                await self.replica.look_round()
            await asyncio.sleep(POLL)

    async def _hand_over(self) -> None:
        """Let those who are there copy the end of the ledger."""
        seat = self.replica.seat
        assert seat is not None
        for _ in range(int(HANDOVER / RETRY)):
            if seat.committed == self.replica.ledger.number or not self.replica.in_touch():
                return
            await asyncio.sleep(RETRY)
