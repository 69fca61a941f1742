"""Asking a coordinator how its run is doing, without taking part."""

from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint, LinkError
from duckweed.swarm.protocol.client import Client
from duckweed.swarm.protocol.invitation import Invitation, unanswered
from duckweed.swarm.protocol.message import HEAD_LIMIT, PROTOCOL
from duckweed.swarm.protocol.status import GetStatus, Status


async def status(invitation: Invitation, identity: Identity) -> Status:
    """How the run is doing at this moment. Raises LinkError; of these, AnswerError if the coordinator is
    there and does not say."""
    endpoint = await Endpoint.toward(identity, HEAD_LIMIT, invitation.addresses)
    try:
        try:
            link = await endpoint.connect(invitation.coordinator, list(invitation.addresses))
        except LinkError as error:
            raise LinkError(unanswered(invitation)) from error
        client = Client(link)
        found, _ = await client.ask(GetStatus(PROTOCOL, invitation.secret))
        client.close()
        return found
    finally:
        await endpoint.close()
