"""Messages of a peer that takes part: it joins, asks what to do, contributes, and leaves."""

from typing import Literal

import msgspec

from duckweed.merge.round import Announcement, Closed
from duckweed.round.open_round import Timings
from duckweed.swarm.protocol.message import Ack, Addresses, Answer, Question, Wait, encode

# --- answers


class Welcome(Answer, tag="welcome"):
    """The peer is admitted."""

    index: int  # of the peer, in this run, for good
    spec: str  # the run's specification, as TOML
    last_accepted: (
        int  # last round in which its contribution counted, -1: none; its residual is of it
    )
    layout: str  # hash of the model's layout, to compare with
    tokens: str  # hash of the training data, to compare with
    handed: int = -1  # the open round, if the coordinator has this peer's contribution for it


class Train(Answer, tag="train"):
    """Train a span of a block."""

    round: (
        int  # from the state after so many rounds; as an answer to Ahead, from the peer's own state
    )
    block: int
    share: int  # of the held-out text, and the peer's place in the round: 0 to shares - 1
    shares: int
    evaluate: bool  # measure that share of the held-out text first
    first: int = 0  # inner step to begin with
    steps: int = 0  # inner steps; 0: the whole block


class Apply(Answer, tag="apply"):
    """The round that follows the peer's state has closed: apply it."""

    closed: Closed


ALL_DONE = "all rounds are done"
"""The reason of a Stop at the end of a run."""


class Stop(Answer, tag="stop"):
    """The run is over for this peer."""

    reason: str
    fault: bool = False  # the peer cannot go on: its state differs


# --- questions


class Join(Question[Welcome], tag="join"):
    """Admit this peer, or know it again."""

    protocol: int
    secret: str = ""  # of the invitation to a private run
    # where other peers may reach it, to fetch what it has
    addresses: Addresses = msgspec.field(default_factory=list)


class Next(Question[Train | Apply | Wait | Stop], tag="next"):
    """What now? Answered when there is something to do, or with Wait after a few seconds."""

    round: int  # the peer holds the state after so many rounds
    hash: str  # of that state
    contributed: bool  # whether it has handed in its work for this round
    given: int = 0  # bytes sent to other peers so far
    fetched: int = 0  # bytes fetched from other peers so far


class Ahead(Question[Train | Wait], tag="ahead"):
    """The work for the round after `round` rounds is done. What is to be trained for the one after it,
    while this one is exchanged? Answered at once."""

    round: int


class Progress(Question[Ack], tag="progress"):
    """A sign of life."""

    doing: Literal["starting", "training", "sending", "waiting", "applying"]
    round: int  # for which it trains
    step: int = 0
    loss: float = 0.0  # nats per token, of the last step


class Contribute(Question[Ack], tag="contribute"):
    """A contribution; the body is the blob."""

    announcement: Announcement
    signature: bytes  # by the peer's key, over signed_part(announcement)
    timings: Timings
    nats: float = 0.0  # sum over this peer's share of the held-out text, if it was asked for
    tokens: int = 0  # in that share


class Leave(Question[Ack], tag="leave"):
    """The peer leaves the run."""

    reason: str


def signed_part(announcement: Announcement) -> bytes:
    """The bytes that a peer signs."""
    return b"duckweed contribution 1" + encode(announcement)  # type: ignore[arg-type]
