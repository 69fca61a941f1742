"""What a peer says of a contribution that it hands in."""

import msgspec
from blake3 import blake3

from duckweed.run.checked import Count, Hash, HashOrNone, Nats, Number, Size


class Announcement(msgspec.Struct, forbid_unknown_fields=True, rename={"rms": "sizes"}):
    """What a peer says of its contribution."""

    round: Number
    peer: Number
    block: Count
    """The block of training data that it was trained on."""
    blob: Hash
    """blake3 of the contribution, 64 hex digits."""
    size: Count
    """Bytes of the contribution."""
    tokens: Count
    """Tokens that it was trained on: its weight follows from them."""
    steps: Number
    """Inner steps."""
    loss: Nats
    """Mean training loss, nats per token."""
    rms: list[Size]
    """Root mean square of each tensor of what the peer wanted to send, [T] (Codec.announce)."""
    first: Number = 0
    """The first inner step within the block."""
    ahead: Number = 0
    """Steps that were trained from the state one round before (rounds.overlap)."""
    before: HashOrNone = ""
    """blake3 of what the peer carried on from a contribution before (round.carried); "":
    nothing, or the run has no audits."""
    after: HashOrNone = ""
    """The same of what it carries on if this one counts."""
    rollouts: Hash | msgspec.UnsetType = msgspec.UNSET
    """The same of what the model wrote for it (duckweed.run.task.rollouts); unset: it writes nothing."""


def sizes_hash(rms: list[float]) -> str:
    """Stands for the announced sizes in the ledger: 32 hex digits of blake3."""
    return blake3(msgspec.msgpack.encode(rms)).hexdigest(16)
