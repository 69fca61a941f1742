"""What an audit has found: one finding for each thing that was to be compared."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from duckweed.audit.difference import Difference


class AuditError(ValueError):
    """Nothing can be audited here; the message says what is missing."""


class NotHere(Exception):
    """Something that a comparison needs is missing; the message says what."""


class Outcome(StrEnum):
    """How a comparison has ended."""

    SAME = "same"  # to the last bit
    NEAR = "near"  # as near as honest machines of different kinds come (duckweed.audit.verdict)
    DIFFERS = "differs"
    MISSING = "not compared"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of one comparison."""

    what: str
    """"ledger", "merge", "state" or "contribution"."""
    outcome: Outcome
    round: int | None = None
    peer: int | None = None
    detail: str = ""
    """In words: what was compared and how many of it, what differs, or what is missing."""
    claimed: str = ""
    """Hash of what the ledger names, hex."""
    recomputed: str = ""
    """Hash of what was computed here, hex."""
    difference: Difference | None = None
    """Of a contribution whose bytes are not the same."""


class Tally(msgspec.Struct):
    """How many findings of each outcome."""

    same: int = 0
    near: int = 0
    differs: int = 0
    not_compared: int = 0

    @property
    def code(self) -> int:
        """The exit code: 0 all same or near, 1 something differs, 2 something could not be compared."""
        return 1 if self.differs else 2 if self.not_compared or not self.same + self.near else 0


def tally(findings: Iterable[Finding]) -> Tally:
    """Count findings by their outcome."""
    outcomes = [one.outcome for one in findings]
    return Tally(*(outcomes.count(one) for one in Outcome))
