"""Messages for those who are not in the run: what would it ask of me, how is it doing?"""

import msgspec

from duckweed.run.checked import Count, Hash, Nats, Number, Seconds, Text, Total
from duckweed.swarm.protocol.message import (
    Addresses,
    Answer,
    Blob,
    Digest,
    PeerAddress,
    Question,
    Secret,
)

PROBE_LIMIT = 512 << 10  # bytes of body, each way, of one question that measures a connection

# --- answers


class RunInfo(Answer, tag="terms"):
    """What a newcomer would take part in."""

    spec: str  # the run's specification, as TOML
    layout: Digest  # hash of the model's layout
    tokens: Digest  # hash of the training data
    round: Number  # how many have closed
    peers: Number  # how many are here
    up: Count = 0  # bytes that a peer sent in the last round; 0: not known yet
    down: Count = 0  # bytes that it fetched
    seconds: Seconds = 0.0  # how long that round took
    # hash of the first weights, where peers need them
    start: Digest | msgspec.UnsetType = msgspec.UNSET


class PeerStatus(msgspec.Struct, forbid_unknown_fields=True):
    """What one peer is doing."""

    peer: Number  # its index
    key: Hash
    here: bool
    doing: Text
    step: Number
    loss: Nats  # nats per token
    heard: Seconds  # seconds since its last sign of life
    counted: Number  # rounds in which its work counted
    wrote: Count = 0  # tokens of the answers that it wrote for others to learn from


class Status(Answer, tag="standing"):
    """How a run is doing."""

    run: Hash  # identity of its specification
    round: Number  # how many have closed
    rounds: Number  # how many there will be
    members: Number  # peers that were ever admitted
    peers: list[PeerStatus]
    loss: Nats | None  # training loss of the last round, nats per token
    held_out: Nats | None  # of the last round that measured it, nats per token
    seconds: Seconds  # how long the last round took
    waiting: Text  # what the open round waits for
    traffic: dict[str, list[Total]]  # purpose -> bytes received and sent by the coordinator
    refused: dict[str, Total]  # reason -> messages
    # the leader's name, where the specification names successors
    leader: Text = msgspec.field(default="", name="in_charge")


class PathOffer(msgspec.Struct, forbid_unknown_fields=True):
    """A path of a family, and how to get in."""

    run: Hash  # identity of its specification
    coordinator: Hash  # its public key
    addresses: Addresses  # none: nobody leads it yet
    secret: Secret  # of its invitation
    wanted: Number  # peers that it begins with
    here: Number = 0  # peers at the moment
    rounds: Number = 0  # closed
    tokens: Total = 0  # accepted
    over: bool = False
    # Where machines listen that vote in it, for those of them that look for each other; unset: not known.
    voters: list[PeerAddress] | msgspec.UnsetType = msgspec.UNSET


class Paths(Answer, tag="paths"):
    """The paths of a family; none while its common start goes on."""

    paths: list[PathOffer]


# --- questions


class GetRunInfo(Question[RunInfo], tag="enquire"):
    """What would I take part in? Admits nobody and leaves no trace."""

    protocol: Number
    secret: Secret = ""  # of the invitation to a private run


class GetStatus(Question[Status], tag="look"):
    """How is the run doing?"""

    protocol: Number
    secret: Secret = ""


class GetPaths(Question[Paths], tag="paths_of"):
    """Of the coordinator of a common start, and between the machines that vote in it: which paths are there?"""

    protocol: Number
    secret: Secret = ""


class GetRouter(Question[Blob], tag="router_of"):
    """Of the coordinator of a path, or of a common start with successors: give the router, without which a newcomer
    cannot prepare the text of a path."""

    protocol: Number
    secret: Secret = ""


class Probe(Question[Blob], tag="probe"):
    """Measures the connection: a body of up to PROBE_LIMIT bytes, answered with one of noise that is no
    longer."""

    size: Count  # bytes of the answer's body
    secret: Secret = ""
