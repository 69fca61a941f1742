"""Messages between the machines that copy the ledger and vote for its leader."""

from collections.abc import Sequence

import msgspec
import zstandard

from duckweed.ledger.ledger import Row
from duckweed.ledger.succession import Vote
from duckweed.net.framing import LinkError
from duckweed.run.checked import HashOrNone, Number, NumberOrNone, Text
from duckweed.swarm.protocol.message import Addresses, Answer, Leader, PeerAddress, Question, Wait

PAGE_LIMIT = 64 << 20  # bytes of entries in one answer, at most
LEVEL = 3  # of zstd: 9 saves a tenth more of a round of 1,000 peers, and takes six times as long

_rows = msgspec.msgpack.Decoder(list[Row])

# --- answers


class LedgerEntries(Answer, tag="copied"):
    """The body holds entries of the ledger, or is empty where another peer is named that gives them."""

    term: Number  # of the leader that answers
    number: NumberOrNone  # the asker's last entry
    head: HashOrNone  # of that entry
    same: bool  # whether that entry is in this copy; if not, ask again from an earlier one
    committed: NumberOrNone  # last entry that a majority of the voters is known to hold
    at: list[PeerAddress] = msgspec.field(default_factory=list)  # the voters
    source: PeerAddress | None = (
        None  # a peer that has the entries, or is getting them: ask it first
    )


class VoteReply(Answer, tag="promised"):
    """A voter's answer to a candidate."""

    seen: Number  # highest term that it has heard of
    vote: Vote | None = None  # the promise, if it was asked for and given
    reason: Text = ""  # why it is not given; "": it is, or would be


# --- questions


class GetEntries(Question[LedgerEntries | Leader], tag="entries"):
    """What follows on the end of my copy? From a voter this acknowledges all entries up to it."""

    term: Number  # the asker follows no leader of a lower term
    number: NumberOrNone  # its last entry
    head: HashOrNone  # of that entry


class GetCopiedEntries(Question[LedgerEntries | Wait], tag="copy"):
    """A peer asks another that does not lead the run: what follows in your copy? Answered with Wait by one
    that has no more yet."""

    number: NumberOrNone  # the asker's last entry
    head: HashOrNone  # of that entry


class GetEntryRange(Question[LedgerEntries], tag="extract"):
    """A candidate asks a voter for entries that it lacks."""

    start: Number
    number: NumberOrNone  # the last one
    head: HashOrNone  # of the last one, in the voter's copy


class RequestVote(Question[VoteReply], tag="promise"):
    """Will you follow me in this term, and nobody of a lower one?"""

    term: Number
    binding: bool  # False: would you? Nothing is promised yet


class GetLeader(Question[Leader], tag="who"):
    """Which machine leads the run?"""

    addresses: Addresses = msgspec.field(default_factory=list)  # where the asker listens


def encoded(rows: Sequence[Row]) -> bytes:
    """Entries as they travel: msgpack in one frame of zstd. A round of 1,000 peers takes two fifths of its
    bytes: hashes and signatures stand in it as hexadecimal text, and the hash of each contribution twice."""
    return zstandard.compress(msgspec.msgpack.encode(rows), LEVEL) if rows else b""


def decoded(body: bytes) -> list[Row]:
    """Entries as they came. Raises LinkError."""
    try:
        return _rows.decode(_unpacked(body)) if body else []
    except (msgspec.DecodeError, zstandard.ZstdError, ValueError) as error:
        raise LinkError(
            f"the entries that came cannot be read ({error}); the other side breaks the protocol"
        ) from error


def _unpacked(body: bytes) -> bytes:
    """Raises ValueError where the frame does not say a size that is allowed, before anything is unpacked."""
    size = zstandard.frame_content_size(body)
    if not 0 <= size <= PAGE_LIMIT:
        raise ValueError(f"{size} bytes of entries, and {PAGE_LIMIT} are allowed")
    return zstandard.decompress(body)
