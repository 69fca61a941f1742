"""How a machine comes to a run, and comes back: who is in charge is found, and where the specification
names successors, the machine gets a copy of the ledger and keeps it."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from duckweed.ledger.ledger import Ledger
from duckweed.net import clock
from duckweed.net.identity import Identity
from duckweed.net.timeouts import HANDOVER, RETRY
from duckweed.net.transport import Endpoint, Link, LinkError
from duckweed.round import founding
from duckweed.round.worker import Worker
from duckweed.run import spec as specs
from duckweed.run.events import Event, PeerLeft, RoundClosed
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.node.node import Station
from duckweed.swarm.peer.coordinator_client import PeerStopped
from duckweed.swarm.peer.peer import Peer
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.invitation import Invitation, publish
from duckweed.volunteer.controls import Controls


class Arrival:
    """One machine's way into a run. A context manager: on leaving, all that it began is ended."""

    def __init__(
        self,
        invitation: Invitation,
        folder: RunFolder,
        identity: Identity,
        limits: Controls,
        say: Callable[[str], None],
    ) -> None:
        self.invitation, self.folder, self.identity = invitation, folder, identity
        self.limits, self.say = limits, say
        self.station: Station | None = None
        self._port = folder.peer(0) / "port"  # where a successor listens: others know it by that
        self._tasks: list[asyncio.Task] = []
        self._keeping: asyncio.Task | None = None

    async def __aenter__(self) -> "Arrival":
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
        if self.station:
            self.station.replica.close()
            self.station.replica.ledger.close()
        await self.endpoint.close()

    def _open(self, spec: RunSpec, layout: Layout) -> Station:
        """This machine's end of a run that names successors."""
        folder, invitation = self.folder, self.invitation
        bound = next(x for x in self.endpoint.bound if not x.startswith("["))
        write_atomically(self._port, bound.rpartition(":")[2].encode())
        if not folder.secret.exists():  # of this machine, should it ever be in charge
            folder.secret.touch(mode=0o600)
            folder.secret.write_text(secrets.token_urlsafe(24), "ascii")
        ledger = Ledger(folder.ledger, self.identity.sign, folder.dropped)
        first = (invitation.coordinator, list(invitation.addresses))
        self.station = Station(
            self.endpoint, self.identity, folder, ledger, first, self._told, self.say
        )
        self.station.took_office = self._publish
        self.station.begin(spec, layout)
        self._tasks.append(asyncio.create_task(self.station.serve()))
        self._keep()
        return self.station

    def _keep(self) -> None:
        """Vote from here on, if this machine does."""
        if self.station and self.station.replica.seat and not self._keeping:
            self._keeping = asyncio.create_task(self.station.run())
            self._tasks.append(self._keeping)

    # --- in

    async def meet(self) -> Any:
        """A link to who is in charge. Where others could be put in charge, they are waited for.

        Raises LinkError.
        """
        if self.station is None:
            return await self._call()
        replica, told = self.station.replica, False
        charge = replica.charge
        patience = charge.absence * (len(charge.voters) + 1) if charge else 0.0
        closes = clock.now() + patience
        while True:
            try:
                return await self._try(self.station)
            except LinkError as error:
                if clock.now() > closes:
                    raise
                if not told:
                    self.say(f"{error}; looking for who is in charge of the run")
                    told = True
                await replica.look_round()
                await asyncio.sleep(RETRY)

    async def _call(self) -> Link:
        addresses = list(self.invitation.addresses)
        try:
            return await self.endpoint.connect(self.invitation.coordinator, addresses)
        except LinkError as error:
            raise LinkError(
                f"the coordinator does not answer at {', '.join(addresses)}; why, and what to do, says: "
                "duckweed doctor INVITATION"
            ) from error

    async def _try(self, station: Station) -> Any:
        replica = station.replica
        key, addresses = replica.in_charge_at()
        if key == self.endpoint.id:
            return station.own_link()
        link: Link = await self.endpoint.connect(key, addresses)
        if replica.charge:
            answer = m.answer((await link.ask(m.encode(m.Who(self.endpoint.offered))))[0])
            if isinstance(answer, m.InCharge) and answer.key != key:
                replica.note(answer.term, answer.key, answer.at)
                link.close()
                raise LinkError(f"{replica.name(answer.key)} is in charge, not {replica.name(key)}")
        return link

    async def settle(self, worker: Worker) -> Station | None:
        """Admitted: get a copy of the ledger, and make sure that it is that of the run. None where no
        successors are named. Raises PeerStopped, LinkError."""
        spec, layout = worker.spec, worker.layout
        if not spec.members.successors:
            return None
        write_atomically(self.folder.path / "layout.json", msgspec.json.encode(layout))
        station = self.station or self._open(spec, layout)
        await station.copy()
        while station.replica.charge is None:
            await asyncio.sleep(RETRY)
            await station.copy()
        charge = station.replica.charge
        if charge.run != self.invitation.run or self.invitation.coordinator not in charge.voters:
            raise PeerStopped("the coordinator gave the ledger of another run")
        if not self._keeping and station.replica.seat:
            self.say(
                "this machine is named as a successor: it keeps the ledger and may be put in charge"
            )
        self._keep()
        return station

    # --- there

    async def stay(self, peer: Peer) -> str:
        """Be a peer until the run ends; returns the reason. Who votes stays until the ledger's end is
        held by enough, or nobody asks for it any more."""
        working = asyncio.create_task(peer.run())
        keeping = [self._keeping] if self._keeping else []
        try:
            await asyncio.wait([working, *keeping], return_when=asyncio.FIRST_COMPLETED)
            for task in keeping:
                if task.done():
                    task.result()  # raises what broke: a full disk, say
            reason = await working
        finally:
            working.cancel()
        assert self.station is not None
        if keeping:
            patience = None if self.station.coordinator else HANDOVER
            await asyncio.wait(keeping, timeout=patience)
        else:
            with contextlib.suppress(LinkError):
                await self.station.copy()
        return reason

    def _publish(self) -> None:
        """In charge: `duckweed invite` and `duckweed status` work for this folder from here on."""
        assert self.station is not None
        charge = self.station.replica.charge
        assert charge is not None
        at = tuple(self.endpoint.offered)
        publish(self.folder, Invitation(charge.run, self.endpoint.id, at, ""))

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
