"""Messages of a peer that takes part: it joins, asks what to do, contributes, and leaves."""

import math
from typing import Annotated, Literal

import msgspec

from duckweed.ledger.entries import Writing
from duckweed.ledger.ledger import Row
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import Closed
from duckweed.round.open_round import Timings
from duckweed.run.checked import (
    Count,
    Hash,
    HashOrNone,
    Nats,
    Number,
    NumberOrNone,
    Seconds,
    Signature,
    SumOfNats,
    Text,
)
from duckweed.run.task.written import Written
from duckweed.swarm.protocol.message import (
    Ack,
    Addresses,
    Answer,
    Digest,
    Question,
    Secret,
    Wait,
)

# --- answers


class Welcome(Answer, tag="welcome"):
    """The peer is admitted."""

    index: Number  # of the peer, in this run, for good
    spec: str  # the run's specification, as TOML
    last_accepted: NumberOrNone  # the round whose contribution left what it carries, -1: nothing
    layout: Digest  # hash of the model's layout, to compare with
    tokens: Digest  # hash of the training data, to compare with
    handed: NumberOrNone = (
        -1
    )  # the open round, if the coordinator has this peer's contribution for it
    genesis: Row | None = None  # first entry of the ledger; its hash is part of what peers sign


class Train(Answer, tag="train"):
    """Train a span of a block."""

    round: Number  # from the state after so many rounds; as an answer to Ahead, from the peer's own state
    block: Count
    share: Number  # of the held-out text, and the peer's place in the round: 0 to shares - 1
    shares: Number
    evaluate: bool  # measure that share of the held-out text first
    first: Number = 0  # inner step to begin with
    steps: Number = 0  # inner steps; 0: the whole block
    # Answers of others for steps of this span, which the peer learns from instead of writing own ones.
    answers: Annotated[tuple[Writing, ...], msgspec.Meta(max_length=4096)] = ()


class Write(Answer, tag="write"):
    """Write the answers of a span of a block, and train nothing."""

    round: Number  # by the weights that it begins from
    block: Count
    first: Number  # inner step to begin with
    steps: Number


class Apply(Answer, tag="apply"):
    """The round that follows the peer's state has closed: apply it."""

    closed: Closed
    # Rounds, this one among them or not, whose state this peer must keep: it may have to audit a contribution.
    keep: Annotated[tuple[Number, ...], msgspec.Meta(max_length=64)] = ()
    # Hashes of what this peer must show, since contributions of its own are audited: see Shown.
    show: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=64)] = ()


class Audit(Answer, tag="audit"):
    """In place of training for the open round, do the contribution of another peer again."""

    round: Number  # of the contribution
    peer: Number
    block: Count
    first: Number  # inner step that it begins with
    steps: Number
    tokens: Count  # and loss: as announced
    loss: Nats
    blob: Hash  # the contribution
    before: HashOrNone  # what its peer carried before, as a blob; "": nothing
    after: Hash  # and after


ALL_DONE = "all rounds are done"
"""The reason of a Stop at the end of a run."""


class Stop(Answer, tag="stop"):
    """The run is over for this peer."""

    reason: Text
    fault: bool = False  # the peer cannot go on: its state differs


# --- questions


class Join(Question[Welcome], tag="join"):
    """Admit this peer, or know it again."""

    protocol: Number
    secret: Secret = ""  # of the invitation to a private run
    # where other peers may reach it, to fetch what it has
    addresses: Addresses = msgspec.field(default_factory=list)
    pace: Seconds = 0.0  # of an inner step on this machine, as measured; 0: it was not
    writes: bool = False  # whether it only writes answers, for others to learn from


class Next(Question[Train | Write | Audit | Apply | Wait | Stop], tag="next"):
    """What now? Answered when there is something to do, or with Wait after a few seconds."""

    round: Number  # the peer holds the state after so many rounds
    hash: Hash  # of that state
    contributed: bool  # whether it has handed in its work for this round
    given: Count = 0  # bytes sent to other peers so far
    fetched: Count = 0  # bytes fetched from other peers so far


class Ahead(Question[Train | Wait], tag="ahead"):
    """The work for the round after `round` rounds is done. What is to be trained for the one after it,
    while this one is exchanged? Answered at once."""

    round: Number


class Progress(Question[Ack], tag="progress"):
    """A sign of life."""

    doing: Literal["starting", "training", "writing", "sending", "waiting", "applying"]
    round: Number  # for which it trains
    step: Number = 0
    loss: Nats = 0.0  # nats per token, of the last step; 0 where it is not finite

    def __post_init__(self) -> None:
        if not math.isfinite(self.loss):  # the work ends with an error that says so
            self.loss = 0.0


class Contribute(Question[Ack], tag="contribute"):
    """A contribution; the body is the blob, and behind it the rollouts that it was made from, if any were."""

    announcement: Announcement
    signature: Signature  # by the peer's key, over round.signed.signed_part
    timings: Timings
    nats: SumOfNats = 0.0  # sum over this peer's share of the held-out text, if it was asked for
    tokens: Count = 0  # in that share
    written: Written | msgspec.UnsetType = msgspec.UNSET  # by its model, in reinforcement learning


class Wrote(Question[Ack], tag="wrote"):
    """Answers that a peer wrote that trains nothing; the body is the blob."""

    writing: Writing
    signature: Signature  # by the peer's key, over round.signed.writing_part
    written: Written  # the same as sums


class Shown(Question[Ack], tag="shown"):
    """What an audit of the peer's own work needs, the contribution or what it carried; the body is the blob."""

    blob: Hash  # its hash


class Audited(Question[Ack], tag="audited"):
    """What an audit has found."""

    round: Number
    peer: Number
    done: bool  # whether it could be done
    fits: bool  # whether the contribution is what its announcement says
    detail: Text
    signature: Signature  # by the auditor's key, over round.signed.verdict_part


class Leave(Question[Ack], tag="leave"):
    """The peer leaves the run."""

    reason: Text
