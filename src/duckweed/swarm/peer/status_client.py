"""Asking a coordinator how its run stands, without being in it."""

from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint, LinkError
from duckweed.swarm.peer.coordinator_client import PeerStopped
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.invitation import Invitation


async def standing(invitation: Invitation, identity: Identity) -> m.Standing:
    """How the run stands at this moment. Raises LinkError, PeerStopped."""
    endpoint = await Endpoint.toward(identity, m.HEAD_LIMIT, invitation.addresses)
    try:
        link = await endpoint.connect(invitation.coordinator, list(invitation.addresses))
        head, _ = await link.ask(m.encode(m.Look(m.PROTOCOL, invitation.secret)))
        link.close()
    finally:
        await endpoint.close()
    answer = m.answer(head)
    if isinstance(answer, m.Refused):
        raise PeerStopped(f"the coordinator refused: {answer.reason}")
    if not isinstance(answer, m.Standing):
        raise LinkError("the coordinator gave no proper answer")
    return answer
