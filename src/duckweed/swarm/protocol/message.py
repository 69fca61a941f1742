"""What every message is: a struct with a tag, in msgpack, whose schema is checked on arrival.

A question names the answers that it may get, here and nowhere else: `Question[Train | Wait]`. The type
checker sees it, and `duckweed.swarm.protocol.client` decodes by it. Two more answers may come to any
question: Refused, and Leader (ask that machine instead).
"""

from typing import Annotated, Generic, TypeVar

import msgspec

from duckweed.net.framing import ADDRESS, ADDRESSES

PROTOCOL = 5
HEAD_LIMIT = (
    1 << 20
)  # bytes of an encoded message: an RMS and a scale for each of some thousand tensors

Address = Annotated[str, msgspec.Meta(max_length=ADDRESS)]
"""ip:port, or the URL of a relay."""

Addresses = Annotated[list[Address], msgspec.Meta(max_length=ADDRESSES)]

Hash = Annotated[str, msgspec.Meta(max_length=64)]

Key = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
"""A public key, 64 hex digits."""

A_co = TypeVar("A_co", covariant=True)


class Message(msgspec.Struct, tag_field="is", forbid_unknown_fields=True):
    """Base of all messages."""


class Question(Message, Generic[A_co]):
    """Base of what a client asks. A_co: the answers that it may get."""


class Answer(Message):
    """Base of what a server answers."""


class Ack(Answer, tag="noted"):
    """The question was taken note of."""

    beat: float = 0.0  # seconds until the next sign of life is wanted; 0: as before


class Blob(Answer, tag="blob"):
    """The body is what was asked for."""


class Wait(Answer, tag="wait"):
    """Not yet; ask again."""

    reason: str  # what the other side waits for


class Refused(Answer, tag="refused"):
    """The question was not accepted."""

    reason: str


class PeerAddress(msgspec.Struct, forbid_unknown_fields=True):
    """A machine of the run, and where it listens."""

    key: str
    addresses: Addresses


class Leader(Answer, tag="in_charge"):
    """Which machine leads the run, as far as the one that was asked knows."""

    term: int
    key: Hash
    at: list[PeerAddress] = []  # the voters


_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    return _encoder.encode(message)
