"""What peer and coordinator say to each other: msgpack with a schema, checked on arrival.

A peer asks, the coordinator answers; each question is one stream: a head (one of these messages)
and, for two of them, a body of raw bytes whose size is limited before it is read.
"""

from typing import Annotated, Literal

import msgspec

from duckweed.ledger.entries import Closed
from duckweed.ledger.succession import Vote
from duckweed.merge.round import Announcement
from duckweed.net.framing import ADDRESS, ADDRESSES

PROTOCOL = 4
PROBE_LIMIT = 512 << 10  # bytes each way of one question that measures a link
HEAD_LIMIT = 1 << 20  # bytes; sizes and scales per tensor of a model of some thousand tensors


class Message(msgspec.Struct, tag_field="is", forbid_unknown_fields=True):
    """Base of all messages."""


Address = Annotated[str, msgspec.Meta(max_length=ADDRESS)]  # ip:port, or the URL of a relay
Addresses = Annotated[list[Address], msgspec.Meta(max_length=ADDRESSES)]
Hashes = Annotated[
    list[Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]],
    msgspec.Meta(max_length=8192),
]


Hash = Annotated[str, msgspec.Meta(max_length=64)]


class Join(Message, tag="join"):
    """First words of a peer: version of the protocol, the secret of a private run, and where other
    peers may reach it, to fetch from it what it has."""

    protocol: int
    secret: str = ""
    addresses: Addresses = []


class Enquire(Message, tag="enquire"):
    """What would I take part in? Admits nobody and leaves no trace. Answered with Terms."""

    protocol: int
    secret: str = ""


class Probe(Message, tag="probe"):
    """Measures the link: up to PROBE_LIMIT bytes of body, answered with `size` bytes of noise."""

    size: int
    secret: str = ""


class Look(Message, tag="look"):
    """How does the run stand? Answered with Standing, to whoever might take part."""

    protocol: int
    secret: str = ""


class Next(Message, tag="next"):
    """'I hold the state after `round` rounds, with this hash. What now?' `contributed`: whether
    the work of this round has been handed in. given, fetched: bytes to and from other peers so far.
    Answered when there is something to do."""

    round: int
    hash: str
    contributed: bool
    given: int = 0
    fetched: int = 0


class Ahead(Message, tag="ahead"):
    """'I hold the state after `round` rounds, and my work for that round is done. What shall I train
    for the one after it, while this one is exchanged?' Answered with Train or Wait, at once."""

    round: int


class Progress(Message, tag="progress"):
    """A sign of life, with what the peer is doing; training: for which round."""

    doing: Literal["starting", "training", "sending", "waiting", "applying"]
    round: int
    step: int = 0
    loss: float = 0.0


class Timings(msgspec.Struct, forbid_unknown_fields=True):
    """Seconds that one peer spent on one round, by phase; with overlap some pass at the same time.
    wall: seconds since its work for the round before was done."""

    train: float = 0.0
    evaluate: float = 0.0
    compress: float = 0.0
    send: float = 0.0
    wait: float = 0.0
    fetch: float = 0.0
    apply: float = 0.0
    wall: float = 0.0


class Contribute(Message, tag="contribute"):
    """A contribution; its body is the blob. signature: by the peer's key over the announcement.
    nats, tokens: this peer's share of the evaluation of the state it started from, if asked."""

    announcement: Announcement
    signature: bytes
    timings: Timings
    nats: float = 0.0
    tokens: int = 0


class Fetch(Message, tag="fetch"):
    """Ask for a blob by its hash. Unless `whole`, the answer to a large one may be Held: fetch it in
    pieces, also from other peers."""

    blob: str
    whole: bool = False


class Part(Message, tag="part"):
    """Ask coordinator or peer for one piece of a blob. Answered with Blob, or Wait: not here yet."""

    blob: str
    number: int


class Donors(Message, tag="donors"):
    """Ask the coordinator who may have a saved state, and which states were agreed on."""


class Known(Message, tag="known"):
    """Ask the coordinator whether the holder of a key takes part. Answered with Noted or Refused."""

    key: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]


class Leave(Message, tag="leave"):
    """The peer goes, and says why."""

    reason: str


class Snapshot(Message, tag="snapshot"):
    """Ask coordinator or peer which state it can give to a newcomer. Answered with Saved."""


class Piece(Message, tag="piece"):
    """Ask for one piece of the saved state after `round` rounds."""

    round: int
    number: int


class Entries(Message, tag="entries"):
    """'My copy of the ledger ends with entry `number`, whose hash is `head`, and I follow nobody of a
    term below `term`. What comes after?' From a voter this acknowledges all up to that entry.
    Answered with Copied, its body the entries, or InCharge."""

    term: int
    number: int
    head: Hash


class Extract(Message, tag="extract"):
    """A candidate asks a voter for entries `start` to `number` of its copy, in which the last has the
    hash `head`. Answered with Copied."""

    start: int
    number: int
    head: Hash


class Promise(Message, tag="promise"):
    """Will you follow me in this term, and nobody of a lower one? Not `binding`: would you? Answered
    with Promised."""

    term: int
    binding: bool


class Who(Message, tag="who"):
    """Who is in charge? addresses: where the asker listens. Answered with InCharge."""

    addresses: Addresses = []


Question = (
    Join
    | Enquire
    | Probe
    | Look
    | Next
    | Ahead
    | Progress
    | Contribute
    | Fetch
    | Part
    | Donors
    | Known
    | Leave
    | Snapshot
    | Piece
    | Entries
    | Extract
    | Promise
    | Who
)


class Welcome(Message, tag="welcome"):
    """Index of the peer in the run, the run's specification, and the last round in which a
    contribution of this peer counted (-1: none): the round that its residual must be of. handed: the
    open round, if work of this peer is in hand there; -1: it is not.
    layout, tokens: hashes of the model's layout and of the training data, to compare with."""

    index: int
    spec: str
    last_accepted: int
    layout: str
    tokens: str
    handed: int = -1


class Terms(Message, tag="terms"):
    """What a newcomer would take part in: the specification; hashes of the model's layout and of the
    training data; round: how many have closed; peers: how many are here; up, down: bytes that a
    peer sends and fetches in a round, as in the last one (0: not known yet);
    seconds: how long that took."""

    spec: str
    layout: str
    tokens: str
    round: int
    peers: int
    up: int = 0
    down: int = 0
    seconds: float = 0.0


class PeerStanding(msgspec.Struct, forbid_unknown_fields=True):
    """What one peer does. heard: seconds since its last sign of life; counted: rounds."""

    peer: int
    key: str
    here: bool
    doing: str
    step: int
    loss: float
    heard: float
    counted: int


class Standing(Message, tag="standing"):
    """How a run stands. held_out, loss: of the last round that measured them, nats per token;
    traffic: purpose -> bytes received and sent by the coordinator; refused: reason -> messages;
    seconds: how long the last round took; waiting: what the open round waits for; in_charge: who
    coordinates, where the specification names successors."""

    run: str
    round: int
    rounds: int
    members: int
    peers: list[PeerStanding]
    loss: float | None
    held_out: float | None
    seconds: float
    waiting: str
    traffic: dict[str, list[int]]
    refused: dict[str, int]
    in_charge: str = ""


class Train(Message, tag="train"):
    """Train `steps` inner steps of block `block`, from step `first` on (steps 0: the whole block),
    for round `round`: from the state after so many rounds or, as an answer to Ahead, from the one
    that the peer holds. The peer is number `share` of
    `shares` in the round; evaluate: also measure that share of the held-out text first."""

    round: int
    block: int
    share: int
    shares: int
    evaluate: bool
    first: int = 0
    steps: int = 0


class Apply(Message, tag="apply"):
    """The round that follows on the peer's state has closed like this."""

    closed: Closed


class Wait(Message, tag="wait"):
    """Nothing to do yet; ask again. `reason` says what the coordinator waits for."""

    reason: str


class Stop(Message, tag="stop"):
    """The run is over for this peer. fault: the peer cannot go on (its state differs)."""

    reason: str
    fault: bool = False


class Blob(Message, tag="blob"):
    """The body is the blob asked for."""


class Saved(Message, tag="saved"):
    """The state after `round` rounds is here, in a file of `size` bytes whose pieces have these
    hashes."""

    round: int
    size: int
    pieces: Hashes


class Holder(msgspec.Struct, forbid_unknown_fields=True):
    """A peer that may have something, and where it listens."""

    key: str
    addresses: Addresses


class Held(Message, tag="held"):
    """The blob has `size` bytes and pieces with these hashes. at: peers that fetch it as well, the
    asker among them: piece n is to be fetched from the coordinator by number n modulo their count,
    and from it by the others."""

    size: int
    pieces: Hashes
    at: list[Holder]


class Donated(Message, tag="donated"):
    """agreed: round -> hash of the state after it, of the newest rounds; at: peers that may have one."""

    agreed: dict[int, str]
    at: list[Holder]


class Copied(Message, tag="copied"):
    """Entries of the ledger are in the body. same: the asker's last entry, `number`, is in this copy;
    if not, it must ask again from an earlier one. term: the one that the coordinator holds office in;
    committed: the last entry that a majority of the voters is known to hold; at: the voters."""

    term: int
    number: int
    head: Hash
    same: bool
    committed: int
    at: list[Holder] = []


class Promised(Message, tag="promised"):
    """vote: the promise, if it was asked for and given. reason: why not; "" if it would be. seen: the
    highest term heard of."""

    seen: int
    vote: Vote | None = None
    reason: str = ""


class InCharge(Message, tag="in_charge"):
    """Not this machine (or: this one), as far as it knows. at: the voters, and where they listen."""

    term: int
    key: Hash
    at: list[Holder] = []


class Noted(Message, tag="noted"):
    """Heard. beat: seconds after which the next sign of life is wanted; 0: as before."""

    beat: float = 0.0


class Refused(Message, tag="refused"):
    """The question was not accepted, and why."""

    reason: str


Answer = (
    Welcome
    | Terms
    | Standing
    | Train
    | Apply
    | Wait
    | Stop
    | Blob
    | Saved
    | Held
    | Donated
    | Copied
    | Promised
    | InCharge
    | Noted
    | Refused
)

_questions = msgspec.msgpack.Decoder(Question)
_answers = msgspec.msgpack.Decoder(Answer)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def question(head: bytes) -> Question:
    """Raises msgspec.ValidationError or msgspec.DecodeError on anything that is not a Question."""
    return _questions.decode(head)


def answer(head: bytes) -> Answer:
    """Raises msgspec.ValidationError or msgspec.DecodeError on anything that is not an Answer."""
    return _answers.decode(head)


def signed_part(announcement: Announcement) -> bytes:
    """The bytes that a peer signs."""
    return b"duckweed contribution 1" + _encoder.encode(announcement)
