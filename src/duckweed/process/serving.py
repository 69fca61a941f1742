"""A coordinator that machines elsewhere can reach: where it listens, and where that is written down."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from duckweed.net import relay as relays
from duckweed.process.local_run import LocalRun
from duckweed.run.events import Serving
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.swarm.protocol.invitation import Invitation, InvitationError, publish, published


class Way(NamedTuple):
    """How machines elsewhere reach a coordinator here."""

    listen: str | None = None
    """ADDRESS:PORT; None: as the last time, else every address and any port."""
    public: Sequence[str] = ()
    """IP:PORT at which others reach this machine, if it is not its own."""
    elsewhere: Sequence[str] = ()
    """URLs of relays on other machines."""
    own_relay: bool = True
    """Whether one runs beside the coordinator, at the next TCP port."""


def serve(
    folder: RunFolder, spec: RunSpec, processes: LocalRun, way: Way, stays: bool = False
) -> Serving:
    """Start the processes, and note where the run is served. stays: as of LocalRun.start."""
    at, relay_at = _ports(folder, way.listen)
    serving = processes.start(at, way.elsewhere, relay_at if way.own_relay else None, stays)
    direct = [*way.public, *serving.addresses]
    own = [relays.url_for(direct, serving.relay)] if serving.relay else []
    publish(folder, Invitation(spec.identity, serving.id, (*direct, *own, *way.elsewhere), ""))
    return serving


def _ports(folder: RunFolder, listen: str | None) -> tuple[str, int]:
    """Where to listen, and the TCP port of the relay beside it: as told, else as the last time, so
    that invitations that were given out stay true."""
    if listen:
        return listen, relays.port_beside(listen)
    with contextlib.suppress(InvitationError):
        return relays.ports(published(folder).addresses)
    return "0.0.0.0:0", 0
