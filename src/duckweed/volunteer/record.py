"""A signed record of what a peer has given to a run: a small file, which anybody can check against any copy of
the run's ledger.

The record names the end of the ledger that its figures are taken from; since entries are chained, that end
stands for all before it. What it proves is that the holder of a key did this work. Who holds the key, the
record says in its note, which the key has signed too.
"""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from duckweed.ledger.entries import GenesisEntry, PeerEntry, RoundEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import Identity, verify
from duckweed.round import signed
from duckweed.run.checked import Hash, Number, Total, plain
from duckweed.run.units import show_count

NOTE = 200  # characters
LARGEST = 1 << 14  # bytes of a record
FORMAT: Literal["duckweed record 1"] = "duckweed record 1"


class RecordError(ValueError):
    """There is nothing to record, or a record does not hold; the message says which and why."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one peer has given to one run, up to one entry of its ledger."""

    format: Literal["duckweed record 1"]
    """Which fields there are, and how they are signed."""
    run: Hash
    """Identity of the run."""
    genesis: Hash
    """Hash of the first entry of its ledger."""
    key: Hash
    """Public key of the peer."""
    rounds: Number
    """In which its work counted."""
    tokens: Total
    """Of its contributions that counted."""
    entry: Number
    """The last entry of the ledger that is counted."""
    head: Hash
    """Hash of that entry."""
    note: Annotated[str, msgspec.Meta(max_length=NOTE)]
    """The peer's own words, such as its holder's name."""
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]
    """The peer's, of all other fields, hex."""

    def signed_part(self) -> bytes:
        """The bytes that the peer signs: all other fields as JSON with sorted keys."""
        said = msgspec.to_builtins(self)
        del said["signature"]
        return msgspec.json.encode(said, order="sorted")


class Held(msgspec.Struct, frozen=True):
    """A record that holds."""

    record: Record
    share: float
    """Of the tokens of all peers, up to the record's entry."""
    coordinator: str
    """Public key of the run's first coordinator."""
    entries: int
    """Of the ledger that it was checked against."""
    unsigned: int
    """Of its contributions: those without its signature, as earlier versions wrote them."""

    def sentence(self) -> str:
        """In words."""
        one = self.record
        rounds = f"{one.rounds:,} {'round' if one.rounds == 1 else 'rounds'}"
        said = f", which says of itself: {one.note}" if one.note else ""
        return (
            f"true: the holder of key {one.key[:16]}{said}, gave {show_count(one.tokens)} tokens in {rounds} to "
            f"run {one.run[:12]}, {self.share:.1%} of all up to entry {one.entry}"
        )


class _Figures(msgspec.Struct):
    index: int = -1
    rounds: int = 0
    tokens: int = 0
    of_all: int = 0


def make(ledger_path: Path, identity: Identity, note: str = "") -> Record:
    """What a peer has given, by its copy of the ledger, signed. Raises RecordError, LedgerError."""
    if len(note) > NOTE or plain(note) != note:
        raise RecordError(
            f"the note must be one line of at most {NOTE} characters that can be seen"
        )
    with closing(Ledger(ledger_path)) as ledger:
        ledger.verify(verify)
        found = _figures(ledger, identity.id, ledger.number)
        if found.index < 0:
            raise RecordError(
                f"{ledger_path}: the peer of this folder (key {identity.id[:16]}) was never admitted to the run"
            )
        genesis = next(ledger.entries(GenesisEntry))
        made = Record(
            FORMAT, genesis.body.run, genesis.hash, identity.id, found.rounds, found.tokens,
            ledger.number, ledger.head, note, "",
        )  # fmt: skip
    return msgspec.structs.replace(made, signature=identity.sign(made.signed_part()).hex())


def write(record: Record) -> bytes:
    """The record as a file that a person can read."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def read(path: Path) -> Record:
    """Raises RecordError, OSError."""
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise RecordError(f"{path}: too large for a record")
    try:
        return msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not a record that this version can read: {error}") from error


def check(record: Record, ledger_path: Path) -> Held:
    """Whether a record is true, by a copy of the run's ledger. Raises RecordError with what is false, and
    LedgerError if it is the ledger that does not hold."""
    if not verify(record.key, record.signed_part(), bytes.fromhex(record.signature)):
        raise RecordError(
            f"false: the record is not signed by the key that it names ({record.key[:16]}); it was changed, or "
            "somebody else made it"
        )
    with closing(Ledger(ledger_path)) as ledger:
        entries = ledger.verify(verify)
        genesis = next(ledger.entries(GenesisEntry))
        if (genesis.body.run, genesis.hash) != (record.run, record.genesis):
            raise RecordError(
                f"not checked: the record is of run {record.run[:12]} and the ledger of run "
                f"{genesis.body.run[:12]}"
                + (", begun another time" if genesis.body.run == record.run else "")
            )
        if record.entry > ledger.number:
            raise RecordError(
                f"not checked: the record counts up to entry {record.entry}, and this copy of the ledger ends "
                f"with entry {ledger.number}; get a newer copy"
            )
        if ledger.hash_at(record.entry) != record.head:
            raise RecordError(
                f"false: the record was made from another ledger: entry {record.entry} is another one here"
            )
        found = _figures(ledger, record.key, record.entry)
        if found.index < 0:
            raise RecordError(f"false: key {record.key[:16]} was never admitted to the run")
        if (found.rounds, found.tokens) != (record.rounds, record.tokens):
            raise RecordError(
                f"false: the record says {record.tokens:,} tokens in {record.rounds:,} rounds, and the ledger "
                f"says {found.tokens:,} in {found.rounds:,}"
            )
        told = signed.check(ledger, verify, found.index)
        if told.wrong:
            raise RecordError(
                f"false: the ledger has work of this peer that the peer did not sign: {'; '.join(told.wrong[:3])}"
            )
    share = found.tokens / max(1, found.of_all)
    return Held(record, share, genesis.body.coordinator, entries, told.unsigned)


def _figures(ledger: Ledger, key: str, last: int) -> _Figures:
    """What the ledger says of the holder of a key, up to entry `last`."""
    found = _Figures()
    for entry in ledger.entries(PeerEntry):
        if entry.body.key == key and entry.number <= last:
            found.index = entry.body.index
    for counted in ledger.entries(RoundEntry):
        if counted.number > last:
            break
        for index in counted.body.closed.accepted:
            tokens = counted.body.contributions[index].tokens
            found.of_all += tokens
            if index == found.index:
                found.rounds, found.tokens = found.rounds + 1, found.tokens + tokens
    return found
