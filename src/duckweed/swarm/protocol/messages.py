"""All messages of a run in one namespace, and how bytes become one of them.

Each question is one stream: a head (an encoded message) and, for some, a body of raw bytes, whose size is
limited before it is read; the answer likewise.
"""

import msgspec

from duckweed.swarm.protocol.blobs import (
    Blob,
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
    GetEntries,
    GetEntryRange,
    GetLeader,
    LedgerEntries,
    RequestVote,
    VoteReply,
)
from duckweed.swarm.protocol.message import (
    HEAD_LIMIT,
    PROTOCOL,
    Ack,
    Answer,
    Leader,
    Message,
    PeerAddress,
    Question,
    Refused,
    encode,
)
from duckweed.swarm.protocol.peer import (
    Ahead,
    Apply,
    Contribute,
    Join,
    Leave,
    Next,
    Progress,
    Stop,
    Timings,
    Train,
    Wait,
    Welcome,
    signed_part,
)
from duckweed.swarm.protocol.status import (
    PROBE_LIMIT,
    GetRunInfo,
    GetStatus,
    PeerStatus,
    Probe,
    RunInfo,
    Status,
)

AnyQuestion = (
    Join
    | GetRunInfo
    | Probe
    | GetStatus
    | Next
    | Ahead
    | Progress
    | Contribute
    | Fetch
    | GetBlobPiece
    | GetDonors
    | IsMember
    | Leave
    | GetSavedState
    | GetStatePiece
    | GetEntries
    | GetEntryRange
    | RequestVote
    | GetLeader
)

AnyAnswer = (
    Welcome
    | RunInfo
    | Status
    | Train
    | Apply
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

__all__ = [
    "HEAD_LIMIT",
    "PROBE_LIMIT",
    "PROTOCOL",
    "Ack",
    "Ahead",
    "Answer",
    "AnyAnswer",
    "AnyQuestion",
    "Apply",
    "Blob",
    "BlobManifest",
    "Contribute",
    "DonorList",
    "Fetch",
    "GetBlobPiece",
    "GetDonors",
    "GetEntries",
    "GetEntryRange",
    "GetLeader",
    "GetRunInfo",
    "GetSavedState",
    "GetStatePiece",
    "GetStatus",
    "IsMember",
    "Join",
    "Leader",
    "Leave",
    "LedgerEntries",
    "Message",
    "Next",
    "PeerAddress",
    "PeerStatus",
    "Probe",
    "Progress",
    "Question",
    "Refused",
    "RequestVote",
    "RunInfo",
    "SavedState",
    "Status",
    "Stop",
    "Timings",
    "Train",
    "VoteReply",
    "Wait",
    "Welcome",
    "answer",
    "encode",
    "question",
    "signed_part",
]

_questions = msgspec.msgpack.Decoder(AnyQuestion)
_answers = msgspec.msgpack.Decoder(AnyAnswer)


def question(head: bytes) -> AnyQuestion:
    """Raises msgspec.ValidationError or msgspec.DecodeError on anything that is not a question."""
    return _questions.decode(head)


def answer(head: bytes) -> AnyAnswer:
    """Raises msgspec.ValidationError or msgspec.DecodeError on anything that is not an answer."""
    return _answers.decode(head)
