"""What peer and coordinator say to each other: msgpack with a schema, checked on arrival.

A peer asks, the coordinator answers; each question is one stream: a head (one of these messages)
and, for two of them, a body of raw bytes whose size is limited before it is read.
"""

from typing import Literal

import msgspec

from duckweed.merge.round import Announcement, Closed

PROTOCOL = 3
PIECE_LIMIT = 4 << 20  # bytes of a state per answer
PROBE_LIMIT = 512 << 10  # bytes each way of one question that measures a link
HEAD_LIMIT = 1 << 20  # bytes; sizes and scales per tensor of a model of some thousand tensors


class Message(msgspec.Struct, tag_field="is", forbid_unknown_fields=True):
    """Base of all messages."""


class Join(Message, tag="join"):
    """First words of a peer: version of the protocol, and the secret of a private run."""

    protocol: int
    secret: str = ""


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
    the work of this round has been handed in. Answered when there is something to do."""

    round: int
    hash: str
    contributed: bool


class Progress(Message, tag="progress"):
    """A sign of life, with what the peer is doing."""

    doing: Literal["starting", "training", "sending", "waiting", "applying"]
    round: int
    step: int = 0
    loss: float = 0.0


class Timings(msgspec.Struct, forbid_unknown_fields=True):
    """Seconds that one peer spent on one round, by phase."""

    train: float = 0.0
    evaluate: float = 0.0
    compress: float = 0.0
    send: float = 0.0
    wait: float = 0.0
    fetch: float = 0.0
    apply: float = 0.0


class Contribute(Message, tag="contribute"):
    """A contribution; its body is the blob. signature: by the peer's key over the announcement.
    nats, tokens: this peer's share of the evaluation of the state it started from, if asked."""

    announcement: Announcement
    signature: bytes
    timings: Timings
    nats: float = 0.0
    tokens: int = 0


class Fetch(Message, tag="fetch"):
    """Ask for a blob by its hash."""

    blob: str


class Leave(Message, tag="leave"):
    """The peer goes, and says why."""

    reason: str


class Snapshot(Message, tag="snapshot"):
    """Ask which state the coordinator can give to a newcomer."""


class Piece(Message, tag="piece"):
    """Ask for the bytes of the state after `round` rounds from `start` on."""

    round: int
    start: int


Question = (
    Join | Enquire | Probe | Look | Next | Progress | Contribute | Fetch | Leave | Snapshot | Piece
)


class Welcome(Message, tag="welcome"):
    """Index of the peer in the run, the run's specification, and the last round in which a
    contribution of this peer counted (-1: none): the round that its residual must be of.
    layout, tokens: hashes of the model's layout and of the training data, to compare with."""

    index: int
    spec: str
    last_accepted: int
    layout: str
    tokens: str


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
    seconds: how long the last round took; waiting: what the open round waits for."""

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


class Train(Message, tag="train"):
    """Train `steps` inner steps of block `block`, from step `first` on (steps 0: the whole block),
    starting from the state after `round` rounds. The peer is number `share` of
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
    """The state after `round` rounds is there, in a file of `size` bytes."""

    round: int
    size: int


class Noted(Message, tag="noted"):
    """Heard; nothing else to say."""


class Refused(Message, tag="refused"):
    """The question was not accepted, and why."""

    reason: str


Answer = Welcome | Terms | Standing | Train | Apply | Wait | Stop | Blob | Saved | Noted | Refused

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
