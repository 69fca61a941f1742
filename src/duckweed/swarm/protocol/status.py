"""Messages for those who are not in the run: what would it ask of me, how is it doing?"""

import msgspec

from duckweed.swarm.protocol.message import Answer, Blob, Question

PROBE_LIMIT = 512 << 10  # bytes of body, each way, of one question that measures a connection

# --- answers


class RunInfo(Answer, tag="terms"):
    """What a newcomer would take part in."""

    spec: str  # the run's specification, as TOML
    layout: str  # hash of the model's layout
    tokens: str  # hash of the training data
    round: int  # how many have closed
    peers: int  # how many are here
    up: int = 0  # bytes that a peer sent in the last round; 0: not known yet
    down: int = 0  # bytes that it fetched
    seconds: float = 0.0  # how long that round took


class PeerStatus(msgspec.Struct, forbid_unknown_fields=True):
    """What one peer is doing."""

    peer: int  # its index
    key: str
    here: bool
    doing: str
    step: int
    loss: float  # nats per token
    heard: float  # seconds since its last sign of life
    counted: int  # rounds in which its work counted


class Status(Answer, tag="standing"):
    """How a run is doing."""

    run: str  # identity of its specification
    round: int  # how many have closed
    rounds: int  # how many there will be
    members: int  # peers that were ever admitted
    peers: list[PeerStatus]
    loss: float | None  # training loss of the last round, nats per token
    held_out: float | None  # of the last round that measured it, nats per token
    seconds: float  # how long the last round took
    waiting: str  # what the open round waits for
    traffic: dict[str, list[int]]  # purpose -> bytes received and sent by the coordinator
    refused: dict[str, int]  # reason -> messages
    # the leader's name, where the specification names successors
    leader: str = msgspec.field(default="", name="in_charge")


# --- questions


class GetRunInfo(Question[RunInfo], tag="enquire"):
    """What would I take part in? Admits nobody and leaves no trace."""

    protocol: int
    secret: str = ""  # of the invitation to a private run


class GetStatus(Question[Status], tag="look"):
    """How is the run doing?"""

    protocol: int
    secret: str = ""


class Probe(Question[Blob], tag="probe"):
    """Measures the connection: a body of up to PROBE_LIMIT bytes, answered with one of noise."""

    size: int  # bytes of the answer's body
    secret: str = ""
