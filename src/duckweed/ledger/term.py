"""Who is in charge of a run, as its ledger tells: the genesis names the first coordinator, later entries
of kind "succession" name those that a majority of the voters promised to follow.

Voters are the first coordinator and the successors that the specification names. Terms count up; term t
belongs to voter t modulo their number, so that no two ever hold the same one.
"""

from collections.abc import Callable

import msgspec

from duckweed.ledger.entries import SuccessionEntry
from duckweed.run import spec as specs

Verify = Callable[[str, bytes, bytes], bool]
"""(public key, message, signature) -> whether the holder of the key signed the message."""


class ChargeError(ValueError):
    """An entry that puts somebody in charge who may not be."""


class Charge(msgspec.Struct, frozen=True):
    """run: its identity; voters: their keys, names: what people call them; key: who is in charge in this
    term; since: number of the entry that says so; absence: seconds without a coordinator after which the
    next in line stands for its office."""

    run: str
    voters: tuple[str, ...]
    names: tuple[str, ...]
    term: int
    key: str
    since: int
    absence: float

    def owner(self, term: int) -> str:
        """The one voter that may be in charge in a term."""
        return self.voters[term % len(self.voters)]

    def name(self, key: str) -> str:
        """What people call the holder of a key."""
        return self.names[self.voters.index(key)] if key in self.voters else key[:10]

    @property
    def majority(self) -> int:
        """How many voters any two majorities of which have one in common."""
        return len(self.voters) // 2 + 1

    def in_line(self, key: str) -> int:
        """1 for the voter that is to follow on who is in charge now, 2 for the one after it, ..."""
        places = self.voters.index(key) - self.voters.index(self.key)
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


def first(founder: Founder) -> Charge:
    """As the genesis of a ledger has it. Raises ChargeError."""
    key = founder.coordinator or founder.key
    try:
        members = specs.members(founder.spec, "the genesis")
    except specs.SpecError as error:
        raise ChargeError(str(error)) from error
    if key in dict(members.heirs):
        raise ChargeError("the first coordinator is named as its own successor")
    keys, names = zip((key, "the first coordinator"), *members.heirs, strict=True)
    return Charge(founder.run, keys, names, 0, key, 0, members.absence)


def after(charge: Charge, number: int, entry: SuccessionEntry, verify: Verify | None) -> Charge:
    """After a succession, entry `number`: one of a higher term, by the term's owner, with the signed
    promises of a majority of the voters. verify: None to believe the signatures. Raises ChargeError.
    """
    term, key, promises = entry.term, entry.key, entry.promises
    if term <= charge.term or key != charge.owner(term):
        raise ChargeError(f"term {term} after {charge.term} is not one of {key[:10]}")
    if len(promises.keys() & set(charge.voters)) < len(promises):
        raise ChargeError("the promises of a succession are not those of voters")
    if len(promises) < charge.majority:
        raise ChargeError(f"{len(promises)} of {len(charge.voters)} voters are no majority")
    words = promise(charge.run, term)
    for voter, signature in promises.items() if verify else ():
        assert verify is not None
        if not verify(voter, words, unhex(signature)):
            raise ChargeError(f"the promise of {voter[:10]} is not signed by it")
    return msgspec.structs.replace(charge, term=term, key=key, since=number)


def promise(run: str, term: int) -> bytes:
    """What a voter signs who promises to follow the owner of a term and nobody of a lower one."""
    return f"duckweed promise 1\n{run}\n{term}".encode()


def unhex(text: object) -> bytes:
    """The bytes that stand there in hex; b"", which no key has signed with, for anything else: JSON and
    SQLite let any type into the place of a text."""
    try:
        return bytes.fromhex(text)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return b""
