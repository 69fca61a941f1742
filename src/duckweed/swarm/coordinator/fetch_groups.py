"""How the coordinator lets peers fetch from each other, so that its own link carries a blob once for
a group of peers and not once for each."""

from collections.abc import Mapping

from duckweed.round.open_round import Member
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.protocol import messages as m

PIECES_FROM = 1 << 20  # bytes from which on a blob is fetched in pieces
GROUP = 16  # peers that fetch the pieces of a blob from one another
NEWEST = 64  # rounds of which a newcomer is told the state hash


def fetch(
    store: Store, here: list[Member], member: Member, question: m.Fetch
) -> tuple[m.Answer, bytes]:
    """A blob, or where its pieces are. here: the members that take part at this moment."""
    if not question.whole and member.addresses:
        try:
            size, pieces = store.pieces_of(question.blob)
        except (FileNotFoundError, ValueError):
            return store.blob(question.blob)
        at = group(here, member)
        if size >= PIECES_FROM and len(at) > 1:
            return m.BlobManifest(size, pieces, at), b""
    return store.blob(question.blob)


def group(here: list[Member], member: Member) -> list[m.PeerAddress]:
    """The peers that fetch together with one, itself among them, in an order common to all."""
    able = [x for x in here if x.addresses]
    place = next((i for i, x in enumerate(able) if x is member), 0) // GROUP * GROUP
    return [m.PeerAddress(x.key, x.addresses) for x in able[place : place + GROUP]]


def donors(agreed: Mapping[int, str], here: list[Member], member: Member) -> m.DonorList:
    """Peers that may have a saved state for a member. agreed: round -> hash of the state after it."""
    newest = sorted(agreed)[-NEWEST:]
    others = [x for x in here if x.addresses and x is not member]
    return m.DonorList(
        {n: agreed[n] for n in newest},
        [m.PeerAddress(x.key, x.addresses) for x in others[:GROUP]],
    )
