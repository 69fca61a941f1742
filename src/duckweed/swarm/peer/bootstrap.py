"""How a machine comes to a run, and comes back: it finds the leader and, where the specification names
successors, it copies the ledger."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from duckweed.ledger.ledger import Ledger
from duckweed.net import clock
from duckweed.net.identity import Identity
from duckweed.net.timeouts import HANDOVER, RETRY
from duckweed.net.transport import Endpoint, LinkError
from duckweed.round import founding
from duckweed.run import spec as specs
from duckweed.run.events import Event, PeerLeft, RoundClosed
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.node.node import Node
from duckweed.swarm.peer.peer import Peer
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import Client, QuestionRefused, is_final
from duckweed.swarm.protocol.errors import PeerStopped
from duckweed.swarm.protocol.invitation import Invitation, publish, unanswered
from duckweed.volunteer.controls import Controls

T = TypeVar("T")


class Bootstrap:
    """One machine's way into a run. A context manager: on leaving it, all that it began is ended."""

    def __init__(
        self,
        invitation: Invitation,
        folder: RunFolder,
        identity: Identity,
        limits: Controls,
        say: Callable[[str], None],
        stays: bool = False,
    ) -> None:
        """stays: this machine votes on when the run is over."""
        self._stays = stays
        self.invitation, self.folder, self.identity = invitation, folder, identity
        self.limits, self.say = limits, say
        self.node: Node | None = None  # once the specification is known, if it names successors
        self._port = folder.peer(0) / "port"  # where a successor listens: others know it by that
        self._tasks: list[asyncio.Task] = []
        self.voting: asyncio.Task | None = None
        """Ends with the run, where this machine votes; None: it does not, as far as is known."""

    async def __aenter__(self) -> "Bootstrap":
        self.endpoint = await Endpoint.toward(
            self.identity, m.HEAD_LIMIT, self.invitation.addresses, _read(self._port)
        )
        self.endpoint.pace.limit(self.limits.up_bytes, self.limits.down_bytes)
        if known := _begun(self.folder):
            self._open(*known)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            if self.node:
                self.node.replica.close()
                self.node.replica.ledger.close()
            await self.endpoint.close()

    def _open(self, spec: RunSpec, layout: Layout) -> Node:
        """This machine's node, in a run that names successors."""
        folder, invitation = self.folder, self.invitation
        write_atomically(self._port, self.endpoint.ipv4.rpartition(":")[2].encode())
        if not folder.secret.exists():  # of this machine, should it become the leader
            folder.secret.touch(mode=0o600)
            folder.secret.write_text(secrets.token_urlsafe(24), "ascii")
        ledger = Ledger(folder.ledger, self.identity.sign, folder.dropped)
        first = (invitation.coordinator, list(invitation.addresses))
        node = self.node = Node(
            self.endpoint, self.identity, folder, ledger, spec, layout, first, self._told, self.say,
            leading=lambda: self._publish(node),
        )  # fmt: skip
        node.stays = self._stays
        self._tasks.append(asyncio.create_task(node.serve()))
        self._vote(node)
        return node

    def _vote(self, node: Node) -> None:
        """Vote from here on, if this machine does."""
        if node.replica.voter and not self.voting:
            self.voting = asyncio.create_task(node.run())
            self._tasks.append(self.voting)

    # --- coming to the run

    async def meet(self, first: Callable[[Client], Awaitable[T]]) -> tuple[Client, T]:
        """A client of the leader, and the answer to the first question. Where another machine could become the leader,
        it is waited for. first: asks that question; a machine that was restarted may know itself as the leader, and not
        lead.

        Raises LinkError, and what `first` raises.
        """
        if self.node is None:
            client = await self._call()
            return client, await first(client)
        replica, told = self.node.replica, False
        leadership = replica.leadership
        patience = leadership.absence * (len(leadership.voters) + 1) if leadership else 0.0
        closes = clock.now() + patience
        while True:
            try:
                return await self._try(self.node, first)
            except LinkError as error:
                if clock.now() > closes or is_final(error):
                    raise
                if not told:
                    self.say(f"{error}; looking for the leader of the run")
                    told = True
                await replica.look_for_leader()
                await asyncio.sleep(RETRY)

    async def _call(self) -> Client:
        addresses = list(self.invitation.addresses)
        try:
            return Client(await self.endpoint.connect(self.invitation.coordinator, addresses))
        except LinkError as error:
            raise LinkError(unanswered(self.invitation)) from error

    async def _try(self, node: Node, first: Callable[[Client], Awaitable[T]]) -> tuple[Client, T]:
        key, addresses = node.leader_address()
        client = Client(await node.connect_to(key, addresses))
        try:
            if key != self.endpoint.id and node.replica.leadership:
                await self._confirm(node, key, client)
            return client, await first(client)
        except BaseException:
            client.close()
            raise

    async def _confirm(self, node: Node, key: str, client: Client) -> None:
        """Raises LinkError where another machine leads."""
        try:
            leader, _ = await client.ask(m.GetLeader(self.endpoint.offered))
        except QuestionRefused:  # it has not heard of this machine: what it answers next decides
            return
        if leader.key != key:
            node.note_leader(leader)
            raise LinkError(f"{node.name(leader.key)} is the leader, not {node.name(key)}")

    async def settle(self, spec: RunSpec, layout: Layout) -> Node | None:
        """Once admitted, or as a voter: copy the ledger, and make sure that it is the run's. None where no successors
        are named. Raises PeerStopped, LinkError."""
        if not spec.members.successors:
            return None
        write_atomically(self.folder.path / "layout.json", msgspec.json.encode(layout))
        node = self.node or self._open(spec, layout)
        await node.copy()
        while node.replica.leadership is None:
            await asyncio.sleep(RETRY)
            await node.copy()
        leadership = node.replica.leadership
        if (
            leadership.run != self.invitation.run
            or self.invitation.coordinator not in leadership.voters
        ):
            raise PeerStopped(
                f"the coordinator gave the ledger of run {leadership.run[:12]}, and the invitation is to run "
                f"{self.invitation.run[:12]}; ask the organiser for a new invitation"
            )
        if not self.voting and node.replica.voter:
            self.say(
                "this machine is named as a successor: it copies the ledger and may become the leader"
            )
        self._vote(node)
        return node

    # --- taking part

    async def stay(self, peer: Peer, node: Node) -> str:
        """Be a peer until the run ends; returns the reason. A voter stays until enough voters hold the
        end of the ledger, or none asks for it any more."""
        working = asyncio.create_task(peer.run())
        keeping = [self.voting] if self.voting else []
        try:
            await asyncio.wait([working, *keeping], return_when=asyncio.FIRST_COMPLETED)
            for task in keeping:
                if task.done():
                    task.result()  # raises what broke: a full disk, say
            reason = await working
        finally:
            working.cancel()
        if keeping:
            patience = None if node.coordinator else HANDOVER
            await asyncio.wait(keeping, timeout=patience)
        else:
            with contextlib.suppress(LinkError):
                await node.copy()
        return reason

    def _publish(self, node: Node) -> None:
        """As the leader: `duckweed invite` and `duckweed status` work for this folder from here on."""
        at = tuple(self.endpoint.offered)
        publish(self.folder, Invitation(node.spec.identity, self.endpoint.id, at, ""))

    def _told(self, event: Event) -> None:
        """What happens while this machine coordinates."""
        self.folder.record(event)
        if isinstance(event, RoundClosed):
            self.say(f"round {event.round} closed with {len(event.accepted)} peers")
        elif isinstance(event, PeerLeft):
            self.say(f"peer {event.peer} left: {event.reason}")


def _read(port: Path) -> int:
    try:
        return int(port.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _begun(folder: RunFolder) -> tuple[RunSpec, Layout] | None:
    """What this machine knows of a run with successors from before."""
    try:
        spec, layout = specs.load(folder.spec), founding.layout(folder)
    except (FileNotFoundError, specs.SpecError):
        return None
    return (spec, layout) if spec.members.successors else None
