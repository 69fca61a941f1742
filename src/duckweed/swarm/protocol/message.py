"""What every message is: a struct with a tag, in msgpack, whose schema is checked on arrival.

A question names the answers that it may get, here and nowhere else: `Question[Train | Wait]`. The type
checker sees it, and `duckweed.swarm.protocol.client` decodes by it. Two more answers may come to any
question: Refused, and Leader (ask that machine instead).
"""

import functools
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

import msgspec

from duckweed.net.framing import ADDRESS, ADDRESSES
from duckweed.run.checked import TEXT, Hash, Number, Seconds, Text, plain

PROTOCOL = 8
HEAD_LIMIT = (
    1 << 20
)  # bytes of an encoded message: an RMS and a scale for each of some thousand tensors

Address = Annotated[str, msgspec.Meta(max_length=ADDRESS, pattern=r"^[!-~]*\Z")]
"""ip:port, or the URL of a relay: no spaces, no control characters."""

Addresses = Annotated[list[Address], msgspec.Meta(max_length=ADDRESSES)]

Digest = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[!-~]*\Z")]
"""What stands for the layout or the data of a run: it is only compared."""

Secret = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[!-~]*\Z")]
"""The secret of an invitation; "": none."""

A_co = TypeVar("A_co", covariant=True)


class Message(msgspec.Struct, tag_field="is", forbid_unknown_fields=True):
    """Base of all messages. What is a Text in them is plain, whoever made them."""

    def __post_init__(self) -> None:
        for name in _texts(type(self)):
            setattr(self, name, plain(getattr(self, name), TEXT))


@functools.cache
def _texts(kind: type) -> tuple[str, ...]:
    """Names of the fields that are a Text."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(name for name in kind.__struct_fields__ if _is_text(hints[name]))  # type: ignore[attr-defined]


def _is_text(hint: Any) -> bool:
    return any(
        (getattr(x, "extra", None) or {}).get("plain") for x in getattr(hint, "__metadata__", ())
    )


class Question(Message, Generic[A_co]):
    """Base of what a client asks. A_co: the answers that it may get."""


class Answer(Message):
    """Base of what a server answers."""


class Ack(Answer, tag="noted"):
    """The question was taken note of."""

    beat: Seconds = 0.0  # seconds until the next sign of life is wanted; 0: as before


class Blob(Answer, tag="blob"):
    """The body is what was asked for."""


class Wait(Answer, tag="wait"):
    """Not yet; ask again."""

    reason: Text  # what the other side waits for


class Refused(Answer, tag="refused"):
    """The question was not accepted."""

    reason: Text


class PeerAddress(msgspec.Struct, forbid_unknown_fields=True):
    """A machine of the run, and where it listens."""

    key: Hash
    addresses: Addresses


class Leader(Answer, tag="in_charge"):
    """Which machine leads the run, as far as the one that was asked knows."""

    term: Number
    key: Hash
    at: list[PeerAddress] = []  # the voters


_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    return _encoder.encode(message)
