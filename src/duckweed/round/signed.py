"""Announcements as their peers sign them, and as anybody can check them from the ledger alone.

A peer signs all that it says of its contribution, together with the hash of the run's first entry, so that
its words cannot be shown in another run. The sizes of the tensors are signed by their hash: the ledger
keeps that in place of some hundred numbers.
"""

import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from duckweed.ledger.entries import (
    AuditEntry,
    Contributed,
    GenesisEntry,
    PeerEntry,
    RoundEntry,
    Writing,
)
from duckweed.ledger.leadership import unhex
from duckweed.ledger.ledger import Ledger, Row, entry_hash
from duckweed.merge.announcement import Announcement, sizes_hash
from duckweed.round.round_record import assignments
from duckweed.run.sections import Inner
from duckweed.run.spec import RunSpec

Verify = Callable[[str, bytes, bytes], bool]
"""(public key, message, signature) -> whether the holder of the key signed the message."""

_DEFAULTS = {
    field.encode_name: field.default
    for field in msgspec.structs.fields(Announcement)
    if field.default is not msgspec.NODEFAULT
}


class ForeignRun(ValueError):
    """A coordinator names the first entry of another run than the one that a peer was invited to."""


class Checked(msgspec.Struct, frozen=True):
    """What the signatures of a ledger's contributions are worth."""

    signed: int
    """Contributions, and answers of peers that only write, whose signature is their peer's."""
    unsigned: int
    """Contributions without a signature, as versions before the ledger kept them wrote them."""
    wrong: list[str]
    """Contributions that their peer did not sign, in words."""


def signed_part(genesis: str, announcement: Announcement) -> bytes:
    """The bytes that a peer signs: every field that is not at its default, by name. genesis: hash of
    the run's first entry."""
    said = msgspec.to_builtins(announcement) | {"sizes": sizes_hash(announcement.rms)}
    return _part(genesis, said)


def _part(genesis: str, said: dict[str, Any]) -> bytes:
    """A field at its default is left out, so that what was signed before a version that adds fields can
    still be checked by it."""
    said = {name: value for name, value in said.items() if value != _DEFAULTS.get(name)}
    words = f"duckweed contribution 2\n{genesis}\n".encode()
    return words + msgspec.msgpack.encode(said, order="sorted")


def verdict_part(genesis: str, round_: int, peer: int, fits: bool, detail: str) -> bytes:
    """The bytes that an auditor signs. genesis: hash of the run's first entry."""
    words = f"duckweed verdict 1\n{genesis}\n".encode()
    return words + msgspec.msgpack.encode([round_, peer, fits, detail])


def writing_part(genesis: str, said: Writing) -> bytes:
    """The bytes that a peer signs that only writes. genesis: hash of the run's first entry."""
    facts = msgspec.to_builtins(said)
    facts.pop("signature")
    return f"duckweed writing 1\n{genesis}\n".encode() + msgspec.msgpack.encode(
        facts, order="sorted"
    )


def genesis_hash(row: Row | None, spec: RunSpec, invited_by: str, verify: Verify) -> str:
    """Hash of the first entry of a run's ledger, as a coordinator shows it to a peer. invited_by: public
    key of the coordinator or successor that the peer was referred to. Raises ForeignRun."""
    if row is None or (row.number, row.kind) != (0, GenesisEntry.kind):
        raise ForeignRun("the coordinator does not show the first entry of the run's ledger")
    try:
        genesis = msgspec.json.decode(row.body, type=GenesisEntry)
    except msgspec.DecodeError as error:
        raise ForeignRun(f"the first entry of the run's ledger is not readable: {error}") from error
    digest = entry_hash("", row.number, row.kind, row.round, row.body)
    founders = {genesis.coordinator, *dict(spec.members.heirs)}
    if genesis.run != spec.identity or invited_by not in founders:
        raise ForeignRun(
            "the coordinator shows the first entry of another run, in which this peer's words could be "
            "misused; ask the organiser for a new invitation"
        )
    signers = founders if spec.path is not None else {genesis.coordinator}
    if not any(verify(key, digest.encode(), unhex(row.signature)) for key in signers):
        raise ForeignRun("the first entry of the run's ledger is not signed by its coordinator")
    return digest


def check(ledger: Ledger, verify: Verify, only: int | None = None) -> Checked:
    """Who said what in a run, checked from its ledger. only: the index of one peer, None: all peers. Raises
    LedgerError."""
    genesis = next(entry for entry in ledger.entries(GenesisEntry))
    inner = tomllib.loads(genesis.body.spec).get("inner", {})
    steps = inner.get("steps", Inner().steps)
    keys = {entry.body.index: entry.body.key for entry in ledger.entries(PeerEntry)}
    signed, unsigned, wrong = 0, 0, []
    for entry in ledger.entries(RoundEntry):
        for peer, said, part in _said(genesis.hash, entry.body, steps):
            if only not in (None, peer):
                continue
            if not said.signature:
                unsigned += 1
            elif verify(keys.get(peer, ""), part, unhex(said.signature)):
                signed += 1
            else:
                wrong.append(f"round {entry.body.closed.round}, peer {peer}")
        for peer, answers in entry.body.writings.items():
            if only not in (None, peer):
                continue
            part = writing_part(genesis.hash, answers)
            if answers.peer == peer and verify(keys.get(peer, ""), part, unhex(answers.signature)):
                signed += 1
            else:
                wrong.append(f"round {answers.round}, answers of peer {peer}")
    for audit in ledger.entries(AuditEntry):
        for auditor, one in audit.body.verdicts.items():
            part = verdict_part(genesis.hash, audit.round, audit.body.peer, one.fits, one.detail)
            if not verify(keys.get(auditor, ""), part, unhex(one.signature)):
                wrong.append(f"audit of round {audit.round}, peer {audit.body.peer}, by {auditor}")
    return Checked(signed, unsigned, wrong)


def _said(genesis: str, entry: RoundEntry, steps: int) -> Iterator[tuple[int, Contributed, bytes]]:
    """Each peer of a round, what the ledger says of its contribution, and what it must have signed."""
    spans = assignments(entry, steps)
    for peer, said in entry.contributions.items():
        span = spans.get(peer)
        if span is None:  # nobody was asked for it: no signature can fit
            yield peer, said, b""
            continue
        fields = msgspec.to_builtins(said) | {
            "round": entry.closed.round,
            "peer": peer,
            "block": span.block,
            "first": span.first,
            "steps": span.steps,
        }
        fields.pop("signature", None)
        yield peer, said, _part(genesis, fields)
