"""What the entries of a run's ledger say: one struct for each kind of entry.

The kind stands in a column of its own, so that it is no part of the body. A body is stored as JSON with
sorted keys; its bytes are hashed and signed, so that fields of a struct here can be added with a default
that is left out, but never renamed.
"""

import json
from typing import ClassVar, Literal, TypeVar

import msgspec

from duckweed.run.checked import Count, Hash, Nats, Number


class Body(msgspec.Struct, frozen=True):
    """What an entry says. Fields that a newer version adds are passed over when an entry is read."""

    kind: ClassVar[str]
    """The entry's kind in the table of the ledger."""


B = TypeVar("B", bound=Body)


class GenesisEntry(Body, frozen=True):
    """The first entry: which run it is."""

    kind: ClassVar[str] = "genesis"

    run: str
    """Identity of the run: blake3 of its specification, hex."""
    coordinator: str
    """Public key of the first coordinator, hex."""
    spec: str
    """The specification as TOML."""
    layout: str
    """blake3 of the layout of the model's vector, hex."""
    tokens: str
    """blake3 of the tokens that the data gives, hex."""
    windows: int
    """Sequences in the data."""
    state: str
    """Hash of the state before round 0, hex."""
    scales: list[float]
    """Common scale of each tensor for round 0."""
    parameters: int
    """Parameters of the model."""
    data: str
    """blake3 of the text, hex."""
    start: str | msgspec.UnsetType = msgspec.UNSET
    """blake3 of the first weights, hex, where the loss asks what they say, so that peers need them; unset: it does
    not."""


class PeerEntry(Body, frozen=True):
    """A peer was admitted."""

    kind: ClassVar[str] = "peer"

    index: int
    """Its number in the run, which no other peer ever gets."""
    key: str
    """Its public key, hex."""


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of a peer after a round (duckweed.merge.trust)."""

    work: int = 0
    """Tokens of its contributions that counted."""
    lack: int = 0
    """By how much its contributions agreed less than usual with the others, of 65536."""
    last: int = -1
    """The last round in which one counted; -1: none has."""


class OfPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a path gives to what all paths of its family have in common."""

    update: str | None
    """Hash of the sum of its contributions over those tensors, hex; None where none counted."""
    weights: list[int]
    """Of these contributions, within the path."""
    tokens: int
    """That they were trained on."""


class Trunk(msgspec.Struct, forbid_unknown_fields=True):
    """What became of the tensors that all paths of a family hold in common."""

    update: str | None
    """Hash of the sum over all paths, hex; None where none gave anything, or they have not been added yet."""
    paths: dict[int, OfPath]
    """Path -> what it gave."""


class Closed(msgspec.Struct, forbid_unknown_fields=True, rename={"shared": "scales"}):
    """What a round closed with: all that leads from its state to the next one."""

    round: int
    """Number of the round, from 0."""
    accepted: list[int]
    """Indices of the peers whose contributions counted, ascending."""
    blobs: list[str]
    """Hash of each accepted peer's contribution, hex."""
    weights: list[int]
    """Weight of each accepted peer's contribution."""
    rejected: dict[int, str]
    """Peer -> why its work did not count."""
    update: str | None
    """Hash of the merged update, hex; None where peers fetch the contributions themselves."""
    shared: list[float]
    """What peers share in the next round (`wire.codec.Codec.next_shared`), [K]."""
    standing: dict[int, Standing] | msgspec.UnsetType = msgspec.UNSET
    """Peer that handed in -> what is remembered of it; unset where the merge rule remembers nothing."""
    trunk: Trunk | msgspec.UnsetType = msgspec.UNSET
    """Where paths have tensors in common: what became of these. `update` is of the other tensors then."""

    def carrying(self) -> list[int]:
        """The peers that carry on what their contribution left (residual, moments), ascending: whose counted,
        and whose was left out by a rule that remembers peers. A newcomer has no momenta, and a peer that was away
        has old ones: neither agrees with the others before its own have grown, and nobody grows who begins
        each round with the same."""
        remembered = () if self.standing is msgspec.UNSET else self.standing
        return sorted({*self.accepted, *remembered})

    def needed(self) -> list[str]:
        """Hashes of the blobs that lead to the next state."""
        return self.updates() or list(self.blobs)

    def updates(self) -> list[str]:
        """Those of them that the coordinator has made."""
        common = None if self.trunk is msgspec.UNSET else self.trunk.update
        return [one for one in (self.update, common) if one]


class Contributed(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a peer handed in for a round."""

    tokens: int
    """Tokens that it was trained on."""
    loss: float
    """Mean training loss, nats per token."""
    blob: str
    """Hash of the contribution, hex."""
    size: int
    """Bytes of the contribution."""
    ahead: int = 0
    """Inner steps that began from the state one round before (rounds.overlap)."""
    sizes: str = ""
    """Hash of the announced sizes of the tensors (merge.announcement.sizes_hash)."""
    before: str = ""
    """Hash of what its peer carried on from one before (Closed.carrying), hex; "": nothing, or the
    run has no audits."""
    after: str = ""
    """Hash of what its peer carries on if this one counts."""
    rollouts: str | msgspec.UnsetType = msgspec.UNSET
    """Hash of what its model wrote, hex; unset: the task of the run writes nothing."""
    signature: str = ""
    """Its peer's, of all that it said (round.signed.signed_part), hex; "": a version before wrote it."""


class Writing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a peer that only writes says of its answers, and what the ledger keeps of it."""

    round: Number
    """They were written by the weights that this round begins from."""
    peer: Number
    block: Count
    """Whose problems they answer."""
    first: Number
    """The first inner step within the block."""
    steps: Number
    tokens: Count
    """Of the answers."""
    loss: Nats
    """Mean of the reward that was missed."""
    rollouts: Hash
    """blake3 of the blob (duckweed.run.task.rollouts), hex."""
    signature: str = ""
    """The peer's, of all the rest (round.signed.writing_part), hex."""


class RoundEntry(Body, frozen=True, omit_defaults=True):
    """A round was closed."""

    kind: ClassVar[str] = "round"

    closed: Closed
    """How it closed."""
    blocks: dict[int, int]
    """Peer -> block of data that it was given."""
    contributions: dict[int, Contributed]
    """Peer -> what it handed in, counted or not."""
    parts: dict[int, tuple[int, int]] = {}
    """Peer -> first inner step and number of steps, where it was given a part of a block."""
    writings: dict[int, Writing] = {}
    """Peer that only writes -> its answers, which are learnt from in the round after this one."""


class StateEntry(Body, frozen=True):
    """The peers agreed on the state that the entry's round begins from."""

    kind: ClassVar[str] = "state"

    hash: str
    """Hash of the state, hex."""
    peers: int
    """How many peers hold it."""


Outcome = Literal["passed", "failed", "unshown", "absent", "disputed", "undone"]
"""How the audit of a contribution ended (duckweed.audit.outcomes):

passed: it is what its announcement says.
failed: it is not. Its peer is put out.
unshown: its peer was there, and has not shown in time what auditors need.
absent: its peer was not there to show it.
disputed: the auditors do not agree.
undone: no auditor could do it.
"""


class Verdict(msgspec.Struct, frozen=True):
    """What an auditor has found."""

    fits: bool
    """Whether the contribution is what its announcement says."""
    detail: str
    """What was compared, and what differs."""
    signature: str
    """The auditor's, of both (round.signed.verdict_part), hex."""


class AuditEntry(Body, frozen=True, omit_defaults=True):
    """A contribution was done again by other peers of the run, or could not be."""

    kind: ClassVar[str] = "audit"

    peer: int
    """Whose contribution; its round is that of the entry."""
    outcome: Outcome
    """How it ended."""
    tokens: int
    """That each auditor is paid, as if it had trained them."""
    at: int
    """Rounds that were closed when it ended."""
    verdicts: dict[int, Verdict] = {}
    """Auditor -> what it found."""
    out: list[int] = []
    """Peers that are put out by it (duckweed.audit.outcomes.put_out)."""


class SuccessionEntry(Body, frozen=True):
    """A successor leads the run from here on (duckweed.ledger.succession)."""

    kind: ClassVar[str] = "succession"

    term: int
    """The term that begins."""
    key: str
    """Public key of the new leader, hex."""
    promises: dict[str, str]
    """Voter's public key -> its signature of the promise to follow in this term; both hex."""


RUN = (GenesisEntry, PeerEntry, RoundEntry, StateEntry, AuditEntry, SuccessionEntry)
"""All kinds of entries in a run's ledger."""


def encode(body: Body) -> str:
    """The body as canonical JSON. Raises ValueError if a number is not finite."""
    return json.dumps(
        msgspec.to_builtins(body, str_keys=True),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
