"""All messages of a run in one namespace (`messages as m`), and how bytes become one of them.

Each question is one stream: a head (an encoded message) and, for some, a body of raw bytes, whose size is
limited before it is read; the answer likewise.
"""

import msgspec

from duckweed.swarm.protocol.blobs import (
    BlobManifest,
    DonorList,
    Fetch,
    GetBlobPiece,
    GetDonors,
    GetSavedState,
    GetStatePiece,
    IsMember,
    SavedState,
)
from duckweed.swarm.protocol.ledger import (
    GetCopiedEntries,
    GetEntries,
    GetEntryRange,
    GetLeader,
    LedgerEntries,
    RequestVote,
    VoteReply,
)
from duckweed.swarm.protocol.message import (  # noqa: F401
    HEAD_LIMIT,
    PROTOCOL,
    Ack,
    Answer,
    Blob,
    Leader,
    Message,
    PeerAddress,
    Question,
    Refused,
    Wait,
    encode,
)
from duckweed.swarm.protocol.peer import (
    ALL_DONE,  # noqa: F401
    Ahead,
    Apply,
    Audit,
    Audited,
    Contribute,
    Join,
    Leave,
    Next,
    Progress,
    Shown,
    Stop,
    Train,
    Welcome,
    Write,
    Wrote,
)
from duckweed.swarm.protocol.status import (  # noqa: F401
    PROBE_LIMIT,
    GetPaths,
    GetRouter,
    GetRunInfo,
    GetStatus,
    PathOffer,
    Paths,
    PeerStatus,
    Probe,
    RunInfo,
    Status,
)

AnyQuestion = (
    Join
    | GetRunInfo
    | GetPaths
    | GetRouter
    | Probe
    | GetStatus
    | Next
    | Ahead
    | Progress
    | Contribute
    | Wrote
    | Shown
    | Audited
    | Fetch
    | GetBlobPiece
    | GetDonors
    | IsMember
    | Leave
    | GetSavedState
    | GetStatePiece
    | GetEntries
    | GetCopiedEntries
    | GetEntryRange
    | RequestVote
    | GetLeader
)

AnyAnswer = (
    Welcome
    | RunInfo
    | Paths
    | Status
    | Train
    | Write
    | Apply
    | Audit
    | Wait
    | Stop
    | Blob
    | SavedState
    | BlobManifest
    | DonorList
    | LedgerEntries
    | VoteReply
    | Leader
    | Ack
    | Refused
)

_questions = msgspec.msgpack.Decoder(AnyQuestion)
_answers = msgspec.msgpack.Decoder(AnyAnswer)


def question(head: bytes) -> AnyQuestion:
    """Raises msgspec.ValidationError or msgspec.DecodeError on anything that is not a question."""
    return _questions.decode(head)


def answer(head: bytes) -> AnyAnswer:
    """Raises msgspec.ValidationError or msgspec.DecodeError on anything that is not an answer."""
    return _answers.decode(head)
