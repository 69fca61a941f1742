"""A machine's end of a run: answers whatever comes, keeps its copy of the ledger, and coordinates the
run for as long as it is in charge."""

import asyncio
from collections.abc import Callable
from typing import Any

from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm import messages as m
from duckweed.swarm.coordinator import Coordinator
from duckweed.swarm.identity import Identity
from duckweed.swarm.limits import Guard
from duckweed.swarm.neighbours import Neighbours
from duckweed.swarm.replica import Replica, blob_limit
from duckweed.swarm.timing import HANDOVER, RETRY
from duckweed.swarm.transport import Endpoint, Link, LinkError

LOOK = 5.0  # seconds between looks for another in charge, while too few voters are heard

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
    takes the events of a coordinator."""

    def __init__(
        self,
        endpoint: Endpoint,
        identity: Identity,
        folder: RunFolder,
        first: tuple[str, list[str]],
        tell: Tell,
        say: Callable[[str], None],
    ) -> None:
        self.endpoint, self.folder, self.tell, self.say = endpoint, folder, tell, say
        self.replica = Replica(folder, identity, endpoint, first, say)
        self.coordinator: Coordinator | None = None
        self.neighbours: Neighbours | None = None
        self.guard = Guard(self._knows)
        self.spec: RunSpec | None = None
        self.over = ""  # why the run ends here

    def begin(self, spec: RunSpec, layout: Layout) -> None:
        """What the run is; from now on this machine can vote and be in charge."""
        self.spec, self.layout = spec, layout
        self.replica.limit = blob_limit(spec, layout)
        self.replica.take_seat()

    def _knows(self, key: str) -> bool:
        return (
            (self.coordinator is not None and key in self.coordinator.admission.members)
            or (self.neighbours is not None and self.neighbours.met(key))
            or self.replica.knows(key)
        )

    # --- answers

    def body_limit(self, peer: str, head: bytes) -> int:
        """Most bytes that may follow a question. Raises ValueError."""
        return self.coordinator.body_limit(peer, head) if self.coordinator else 0

    async def handle(self, peer: str, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Answer one question of the holder of key `peer`. Raises ValueError if it is nonsense."""
        question = m.question(head)
        if isinstance(question, m.Entries | m.Extract | m.Promise | m.Who):
            answer, data = await self.replica.answer(peer, question)
            return m.encode(answer), data
        if isinstance(question, m.Fetch) and question.whole and self._votes(peer):
            answer, data = self.replica.library.blob(question.blob)
            return m.encode(answer), data
        if self.coordinator:
            if isinstance(question, m.Join) and self._votes(peer) and question.addresses:
                self.replica.note(0, "", [m.Holder(peer, question.addresses)])
            return await self.coordinator.handle(peer, head, body)
        if self.neighbours and isinstance(question, m.Part | m.Snapshot | m.Piece):
            return await self.neighbours.answer(peer, head, body)
        if self.replica.knows(peer):
            return m.encode(self.replica.in_charge()), b""
        self.guard.fault(peer, "strangers")
        who = self.replica.known
        return m.encode(
            m.Refused(
                f"this machine keeps a copy of the ledger; {who.key[:10]} is in charge of the run (term "
                f"{who.term}). Ask there for an invitation"
            )
        ), b""

    def _votes(self, key: str) -> bool:
        charge = self.replica.ledger.charge
        return charge is not None and key in charge.voters

    async def serve(self) -> None:
        """Answer until the endpoint closes."""
        await self.endpoint.serve(self.handle, self.body_limit, self.guard)

    # --- questions

    def own_link(self) -> OwnLink:
        """For a peer of this same process. Raises LinkError while this machine is not in charge."""
        if self.coordinator is None or self.coordinator.unseated:
            raise LinkError("this machine is not in charge")
        return OwnLink(self.coordinator, self.endpoint.id)

    async def copy(self) -> None:
        """Take over the entries that are new; a machine that votes does so all the time."""
        while self.replica.seat is None and await self.replica.pull():
            self.replica.take_seat()

    # --- in charge, or not

    async def run(self) -> None:
        """Follow or coordinate, whichever it is, until the run ends here."""
        seat = self.replica.seat
        assert seat is not None
        while not self.over:
            if seat.in_charge:
                await self._coordinate()
            elif self._done():
                self.over = "all rounds are done"
            else:
                await self.replica.turn()

    async def stop(self, reason: str) -> None:
        """End the run here; what is not closed has not happened."""
        self.over = reason
        if self.coordinator:
            await self.coordinator.stop(reason)

    def _done(self) -> bool:
        """Whether the ledger tells of the end of the run."""
        assert self.spec is not None
        states = list(self.replica.ledger.entries("state"))
        return bool(states) and states[-1].round == self.spec.rounds.count

    async def _coordinate(self) -> None:
        assert self.spec is not None
        seat = self.replica.seat
        assert seat is not None
        ledger = self.replica.ledger
        run = Coordinator(self.folder, self.spec, self.layout, ledger, self.tell, seat)
        run.admission.guard = self.guard
        seat.unseated, self.replica.advanced = run.unseat, run.nudge
        self.coordinator = run
        looking = asyncio.create_task(self._look())
        try:
            await run.run()
            while run.attended() and not run.stopping and not run.unseated:
                await asyncio.sleep(0.1)
            if not run.unseated:
                self.over = run.stopping or "all rounds are done"
                await self._hand_over()
                refused = dict(self.guard.refused)
                self.folder.record(event="end", traffic=run.moved(), refused=refused)
        finally:
            looking.cancel()
            self.coordinator = None
        if run.unseated and not self.over:
            self.say("not in charge any more; going on with a copy of the ledger")

    async def _look(self) -> None:
        """While too few voters are heard: is somebody else in charge?"""
        while len(self.replica.seat.charge.voters) > 1:  # type: ignore[union-attr]
            if not self.replica.in_touch():
                await self.replica.look_round()
            await asyncio.sleep(LOOK)

    async def _hand_over(self) -> None:
        """Let those who are there copy the end of the ledger."""
        seat = self.replica.seat
        assert seat is not None
        for _ in range(int(HANDOVER / RETRY)):
            if seat.committed == self.replica.ledger.number or not self.replica.in_touch():
                return
            await asyncio.sleep(RETRY)
