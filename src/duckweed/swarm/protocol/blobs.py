"""Messages that move blobs and saved states, from the coordinator and between peers."""

from typing import Annotated

import msgspec

from duckweed.run.checked import Count, Hash, Number
from duckweed.swarm.protocol.message import Ack, Answer, Blob, PeerAddress, Question, Wait

PieceHashes = Annotated[
    list[Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]],
    msgspec.Meta(max_length=8192),
]

# --- answers


class BlobManifest(Answer, tag="held"):
    """A large blob, to be fetched in pieces: piece n from the coordinator by peer n modulo the number of
    peers, and from that peer by the others."""

    size: Count  # bytes
    pieces: PieceHashes
    at: list[PeerAddress]  # the peers that fetch it together, the asker among them


class SavedState(Answer, tag="saved"):
    """A saved state that can be fetched in pieces."""

    round: Number  # the state after so many rounds
    size: Count  # bytes of the file
    pieces: PieceHashes


class DonorList(Answer, tag="donated"):
    """Where a newcomer may find a saved state."""

    agreed: dict[Number, Hash]  # round -> agreed hash of the state after it, for the newest rounds
    at: list[PeerAddress]  # peers that may have one


# --- questions


class Fetch(Question[Blob | BlobManifest], tag="fetch"):
    """Give a blob. Unless `whole`, a large one may be answered with its manifest."""

    blob: Hash  # its hash
    whole: bool = False


class GetBlobPiece(Question[Blob | Wait], tag="part"):
    """Give one piece of a blob. Answered with Wait by a peer that is still fetching it."""

    blob: Hash  # its hash
    number: Number


class GetSavedState(Question[SavedState], tag="snapshot"):
    """Which saved state can the coordinator, or this peer, give to a newcomer?"""


class GetStatePiece(Question[Blob], tag="piece"):
    """Give one piece of the saved state after `round` rounds."""

    round: Number
    number: Number


PieceQuestion = GetBlobPiece | GetStatePiece


class GetDonors(Question[DonorList], tag="donors"):
    """Which peers may have a saved state, and which states were agreed on? The coordinator knows."""


class IsMember(Question[Ack], tag="known"):
    """Does the holder of a key take part? The coordinator refuses if not."""

    key: Hash
