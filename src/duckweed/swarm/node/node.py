"""A machine's node of a run: it answers whatever comes, copies the ledger, and coordinates the run while
it is the leader."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.ledger.succession import Voter
from duckweed.net.carrier import Connection, Endpoint
from duckweed.net.framing import Accept, LinkError
from duckweed.net.identity import Identity
from duckweed.net.rate_limits import RateLimits
from duckweed.net.timeouts import HANDOVER, PEERS_CHECK, POLL, RETRY
from duckweed.run.events import RunEnded, Tell
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.blobs.peer_links import PeerLinks, PeerQuestion
from duckweed.swarm.coordinator import status
from duckweed.swarm.coordinator.coordinator import Coordinator
from duckweed.swarm.node.election import Election
from duckweed.swarm.node.replica import Replica
from duckweed.swarm.protocol import copied, offers
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.server import accepting, take_turn
from duckweed.wire.codec import warm_up

log = logging.getLogger(__name__)

LedgerQuestion = m.GetEntries | m.GetEntryRange | m.RequestVote | m.GetLeader
"""What the machines that copy the ledger ask each other."""


class LocalConnection:
    """Questions to the coordinator in this same process. The same bytes as over a network, so that they
    are checked and counted in the same way."""

    def __init__(self, coordinator: Coordinator, me: str) -> None:
        self._coordinator, self._me = coordinator, me

    async def ask(
        self, head: bytes, body: bytes = b"", *, body_limit: int = 0, patience: float = 0
    ) -> tuple[bytes, bytes]:
        """As Link.ask. Raises LinkError."""
        if self._coordinator.rounds.deposed:
            raise LinkError("this machine is no longer the leader")
        try:
            return await self._coordinator.accept(self._me, head).answer(body)
        except ValueError as error:
            raise LinkError(str(error)) from error

    def close(self) -> None:
        pass


class Node:
    """One machine that copies the ledger.

    first: key and addresses of the leader, as an invitation or the run's folder says. tell: takes the
    events of a coordinator. leading: called when this machine becomes the leader.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        identity: Identity,
        folder: RunFolder,
        ledger: Ledger,
        spec: RunSpec,
        layout: Layout,
        first: tuple[str, list[str]],
        tell: Tell,
        say: Callable[[str], None],
        leading: Callable[[], None] = lambda: None,
    ) -> None:
        warm_up(spec.wire)  # now, and not in a round
        self.endpoint, self.folder, self.tell, self.say = endpoint, folder, tell, say
        self.spec, self.layout, self._leading = spec, layout, leading
        self.replica = Replica(
            folder, identity, endpoint, ledger, spec, layout, first, say,
            acknowledged=self._acknowledged, deposed=self._deposed, ask_peer=self._ask_peer,
        )  # fmt: skip
        self.coordinator: Coordinator | None = None  # while this machine is the leader
        self.peer_links: PeerLinks | None = None  # of the peer in this process, if there is one
        self.rate_limits = RateLimits(self._knows)
        self.over = ""  # why the run ends here
        self.stays = False  # whether this machine answers until `stop`, though the run is over
        # Of a run that is over, while another machine leads it.
        self._desk: Coordinator | None = None
        self._moved: dict[str, list[int]] = {}

    def _knows(self, key: str) -> bool:
        return (
            (self.coordinator is not None and key in self.coordinator.admission.members)
            or (self.peer_links is not None and self.peer_links.met(key))
            or self.replica.knows(key)
        )

    def account(self, relayed: int) -> RunEnded:
        """What this machine moved as coordinator, and what it refused; relayed: bytes that went through
        its relay."""
        return RunEnded(
            relayed=relayed, traffic=self._moved, refused=dict(self.rate_limits.refused)
        )

    def _acknowledged(self) -> None:
        if self.coordinator:
            self.coordinator.rounds.nudge()

    def _deposed(self) -> None:
        log.warning("%s is no longer the leader", self.endpoint.id[:10])
        if self.coordinator:
            self.coordinator.rounds.step_down()

    # --- answers

    @property
    def accept(self) -> Accept:
        """What the endpoint does with a question."""
        return accepting(
            m.question, self.body_limit, self.handle, self._count, self.rate_limits.fault
        )

    def body_limit(self, peer: str, question: m.AnyQuestion | None) -> int:
        """Most bytes of body that may follow a question. Raises ValueError."""
        return self.coordinator.body_limit(peer, question) if self.coordinator else 0

    def _count(self, question: m.AnyQuestion, answer: m.Answer, received: int, sent: int) -> None:
        if self.coordinator and not isinstance(question, LedgerQuestion):
            self.coordinator.traffic.count(question, answer, received, sent)

    async def handle(
        self, peer: str, question: m.AnyQuestion, body: bytes
    ) -> tuple[m.Answer, bytes]:
        """Answer one question of the holder of key `peer`. Raises ValueError if this machine does not
        answer such a question, or not this peer."""
        votes = self.replica.votes(peer)
        if isinstance(question, LedgerQuestion):
            self.rate_limits.asks(peer)
            return await self._of_the_ledger(peer, question, votes)
        if votes and isinstance(question, m.Fetch) and question.whole:
            return self.replica.store.blob(question.blob)
        if votes and isinstance(question, m.GetSavedState | m.GetStatePiece):
            return self.replica.store.give(question)
        if votes and isinstance(question, m.GetPaths):
            return m.Paths(offers.read(self.folder)), b""
        if self.coordinator:
            if votes and isinstance(question, m.Join):
                self.replica.note_voters([m.PeerAddress(peer, question.addresses)])
            return await self.coordinator.handle(peer, question, body)
        await take_turn(self.rate_limits, peer, question)
        if self.peer_links and isinstance(question, PeerQuestion):
            return await self.peer_links.answer(peer, question, body)
        if self.replica.knows(peer):
            return self.replica.leader(), b""
        if self._desk and isinstance(question, status.Lasting):
            return await self._desk.handle(peer, question, body)
        self.rate_limits.fault(peer, "strangers")
        leader, term = self.replica.name(self.replica.known.key), self.replica.known.term
        return m.Refused(
            f"this machine copies the ledger; the leader of the run is {leader} (term {term}): ask there "
            "for an invitation"
        ), b""

    async def _of_the_ledger(
        self, peer: str, question: LedgerQuestion, votes: bool
    ) -> tuple[m.Answer, bytes]:
        if not self.replica.knows(peer):
            raise ValueError("takes no part in this run")
        match question:
            case m.GetLeader(addresses=addresses):
                if votes:
                    self.replica.note_voters([m.PeerAddress(peer, addresses)])
                return self.replica.leader(), b""
            case m.GetEntries():
                return await self.replica.entries(peer, question, self._addresses(peer))
            case m.GetEntryRange() if votes:
                return self.replica.extract(question)
            case m.RequestVote() if votes and self.replica.voter:
                return Election(self.replica, self.replica.voter).promise(peer, question), b""
        raise ValueError("does not vote")

    def _addresses(self, peer: str) -> list[str]:
        """Where other peers reach this one, as far as is known here."""
        member = self.coordinator.admission.members.get(peer) if self.coordinator else None
        return member.addresses if member and member.here else []

    async def _ask_peer(
        self, peer: m.PeerAddress, question: m.GetCopiedEntries, limit: int
    ) -> tuple[m.LedgerEntries | m.Wait, bytes]:
        if not self.peer_links:
            raise LinkError("no peer is in this process")
        return await self.peer_links.ask(peer, question, limit)

    async def serve(self) -> None:
        """Answer until the endpoint closes."""
        await self.endpoint.serve(self.accept, self.rate_limits)

    # --- for a peer in this same process (duckweed.swarm.peer.coordinator_client.Leaders)

    def leader_address(self) -> tuple[str, list[str]]:
        """Key and addresses of the leader, as far as is known here."""
        return self.replica.leader_address()

    def note_leader(self, leader: m.Leader) -> None:
        """Another machine says which one leads."""
        self.replica.note_leader(leader)

    def name(self, key: str) -> str:
        """What people call the holder of a key."""
        return self.replica.name(key)

    async def look_for_leader(self) -> None:
        """Ask the other voters who leads."""
        await self.replica.look_for_leader()

    async def doubt_leader(self) -> None:
        """The same, when nothing has happened for a while."""
        await self.replica.look_for_leader()

    async def connect_to(self, key: str, addresses: list[str]) -> Connection:
        """To the coordinator here, if that is this machine's key. Raises LinkError."""
        if key != self.endpoint.id:
            return await self.endpoint.connect(key, addresses)
        if self.coordinator is None or self.coordinator.rounds.deposed:
            raise LinkError("this machine is not the leader")
        return LocalConnection(self.coordinator, self.endpoint.id)

    def copied(self, question: m.GetCopiedEntries) -> tuple[m.Answer, bytes]:
        """What the copy here has beyond the end of another peer's; of a voter's what counts already."""
        ledger, voter = self.replica.ledger, self.replica.voter
        return copied.give(ledger, question, voter.committed if voter else ledger.number)

    async def copy(self) -> None:
        """Copy the entries that are new; a machine that votes does so all the time. Raises LinkError,
        LedgerError."""
        while self.replica.voter is None and await self.replica.pull():
            pass

    # --- the leader, or not

    async def run(self) -> None:
        """Follow or coordinate, whichever it is, until the run ends here. Raises LedgerError, OSError."""
        voter = self.replica.voter
        if voter is None:
            where = self.replica.ledger.path
            raise LedgerError(
                f"{where}: this machine's key is not one of those that may coordinate the run"
                if self.replica.leadership
                else f"{where}: empty; the run has lost its ledger"
            )
        election = Election(self.replica, voter)
        while not self.over:
            if voter.leads:
                await self._coordinate(voter)
            elif not self.done:
                await self._follow(election)
            elif self.stays:
                await self._stay(election)
            else:
                self.over = m.ALL_DONE

    async def stop(self, reason: str) -> None:
        """End the run here; what is not closed has not happened."""
        self.over = reason
        if self.coordinator:
            await self.coordinator.rounds.stop(reason)

    @property
    def done(self) -> bool:
        """Whether the ledger tells of the end of the run."""
        return self.replica.ledger.last_round(StateEntry) == self.spec.schedule.rounds

    async def _stay(self, election: Election) -> None:
        """Once the run is over, follow on: the common start of a family is where newcomers hear of its paths, and where
        the machines that vote in them find each other."""
        self._desk = self._desk or Coordinator(
            self.folder, self.spec, self.layout, self.replica.ledger, self.tell, election.voter, self.rate_limits,
        )  # fmt: skip
        if await self._follow(election):
            with contextlib.suppress(LinkError):
                key = self.replica.known.key
                answer, _ = await self.replica.ask(key, m.GetPaths(m.PROTOCOL))
                if answer.paths:
                    offers.note(self.folder, answer.paths)

    async def _follow(self, election: Election) -> bool:
        """Keep up with the leader, for a moment; if there was none for too long, stand for election. False: there was
        none."""
        try:
            await self.replica.pull()
            return True
        except LinkError as error:
            log.info("no entries from the leader: %s", error)
            await self.replica.look_for_leader()
        if election.due:
            await election.stand()
        if not election.voter.leads:
            await asyncio.sleep(RETRY)
        return False

    async def _coordinate(self, voter: Voter) -> None:
        ledger = self.replica.ledger
        log.info("%s leads the run in term %d", self.endpoint.id[:10], voter.leadership.term)
        self._desk = None
        self.coordinator = Coordinator(
            self.folder, self.spec, self.layout, ledger, self.tell, voter, self.rate_limits
        )
        rounds = self.coordinator.rounds
        self._leading()
        looking = asyncio.create_task(self._look_for_another(voter))
        try:
            await rounds.run()
            while (rounds.attended() or self.stays) and not rounds.ended:
                await asyncio.sleep(PEERS_CHECK)
            if not rounds.deposed:
                self.over = rounds.stopping or m.ALL_DONE
                await self._hand_over(voter)
        finally:
            looking.cancel()
            rounds.rewards.close()
            self._moved = rounds.traffic.moved()
            self.coordinator = None
        if not self.over:
            self.say("another machine may lead the run now; going on with a copy of the ledger")

    async def _look_for_another(self, voter: Voter) -> None:
        """While too few voters are heard: does another machine lead?"""
        while len(voter.leadership.voters) > 1:
            if not self.replica.in_touch(voter):
                await self.replica.look_for_leader()
            await asyncio.sleep(POLL)

    async def _hand_over(self, voter: Voter) -> None:
        """Let the voters that are there copy the end of the ledger."""
        for _ in range(int(HANDOVER / RETRY)):
            if voter.committed == self.replica.ledger.number or not self.replica.in_touch(voter):
                return
            await asyncio.sleep(RETRY)
