"""Who leads a run and in which term, as its ledger tells: the genesis names the first coordinator, later
entries of kind "succession" name the leaders that a majority of the voters promised to follow.

Voters are the first coordinator and the successors that the specification names. Terms count up; term t
belongs to voter t modulo their number, so that no term has two leaders.
"""

from collections.abc import Callable

import msgspec

from duckweed.ledger.entries import SuccessionEntry
from duckweed.run import spec as specs

Verify = Callable[[str, bytes, bytes], bool]
"""(public key, message, signature) -> whether the holder of the key signed the message."""


class LeadershipError(ValueError):
    """An entry names a leader that may not lead."""


class Leadership(msgspec.Struct, frozen=True):
    """Who leads a run at some entry of its ledger."""

    run: str  # identity of the run
    voters: tuple[str, ...]  # public keys of the voters
    names: tuple[str, ...]  # what people call the voters
    term: int
    leader: str  # public key of the voter that leads in this term
    since: int  # number of the entry that the term began with
    absence: float  # after so many seconds without a leader, the next voter in line is a candidate
    # Public keys of those who may sign the first entry. That of a path follows from its family's common start, so that
    # it is the same whoever begins the path: any voter may.
    founders: tuple[str, ...] = ()

    def signed(self, number: int, digest: str, signature: object, verify: Verify) -> bool:
        """Whether one who may write it has signed entry `number`, which has this hash."""
        keys = (self.leader,) if number else self.founders
        return any(verify(key, digest.encode(), unhex(signature)) for key in keys)

    def owner(self, term: int) -> str:
        """The one voter that may lead in a term."""
        return self.voters[term % len(self.voters)]

    def name(self, key: str) -> str:
        """What people call the holder of a key."""
        return self.names[self.voters.index(key)] if key in self.voters else key[:10]

    @property
    def majority(self) -> int:
        """How many voters are a majority."""
        return len(self.voters) // 2 + 1

    def in_line(self, key: str) -> int:
        """1 for the voter that is next in line after the leader, 2 for the one after it, ..."""
        places = self.voters.index(key) - self.voters.index(self.leader)
        return places % len(self.voters) or len(self.voters)


class Founder(msgspec.Struct, frozen=True):
    """What the genesis entry of any ledger says of who signs it."""

    run: str = ""
    """Identity of the run; "" in the ledger of a campaign."""
    coordinator: str = ""
    """Public key of a run's first coordinator, hex."""
    key: str = ""
    """Public key of a campaign, hex."""
    spec: str = ""
    """Specification of the run, which names the successors; "" in the ledger of a campaign."""


def founded(founder: Founder) -> Leadership:
    """The leadership that a genesis entry begins. Raises LeadershipError."""
    key = founder.coordinator or founder.key
    try:
        members = specs.members(founder.spec, "the genesis")
        branch = specs.branch(founder.spec, "the genesis")
    except specs.SpecError as error:
        raise LeadershipError(str(error)) from error
    if key in dict(members.heirs):
        raise LeadershipError("the first coordinator is named as its own successor")
    keys, names = zip((key, "the first coordinator"), *members.heirs, strict=True)
    founders = keys if branch.path >= 0 else (key,)
    return Leadership(founder.run, keys, names, 0, key, 0, members.absence, founders)


def succeeded(
    leadership: Leadership, number: int, entry: SuccessionEntry, verify: Verify | None
) -> Leadership:
    """The leadership after a succession, entry `number`. Its term must be higher, its leader the owner of
    the term, and a majority of the voters must have signed a promise to follow. verify: None where the
    signatures were checked before. Raises LeadershipError."""
    term, key, promises = entry.term, entry.key, entry.promises
    if term <= leadership.term or key != leadership.owner(term):
        raise LeadershipError(
            f"{key[:10]} may not lead in term {term}, after term {leadership.term}"
        )
    if len(promises.keys() & set(leadership.voters)) < len(promises):
        raise LeadershipError("a succession holds promises of keys that are not voters")
    if len(promises) < leadership.majority:
        raise LeadershipError(
            f"{len(promises)} of {len(leadership.voters)} voters promised to follow, which is no majority"
        )
    words = promise_bytes(leadership.run, term)
    for voter, signature in promises.items() if verify else ():
        assert verify is not None
        if not verify(voter, words, unhex(signature)):
            raise LeadershipError(f"the promise of {voter[:10]} is not signed by it")
    return msgspec.structs.replace(leadership, term=term, leader=key, since=number)


def promise_bytes(run: str, term: int) -> bytes:
    """What a voter signs who promises to follow the owner of a term and nobody of a lower one."""
    return f"duckweed promise 1\n{run}\n{term}".encode()


def unhex(text: object) -> bytes:
    """The bytes of a hexadecimal text. For anything else b"", which is no valid signature: JSON and
    SQLite may hold any type in the place of a text."""
    try:
        return bytes.fromhex(text)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return b""
