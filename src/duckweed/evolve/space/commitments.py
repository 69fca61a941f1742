"""Commitments to what a proposal is: some are planted, known to do nothing or to harm, under a seal.

The campaign's secret decides which proposals are planted. The loop sees a commitment, the keyed
hash of number, kind and difference, which is in the ledger before any run of the proposal; kinds
are opened at the end, when everyone can check them against the commitments.
"""

import os
from pathlib import Path
from typing import Literal

import msgspec
from blake3 import blake3

from duckweed.evolve.trial_spec import Recipe

ProposalKind = Literal["real", "null", "harmful", "same"]
"""real: from a proposer; null, harmful: planted; same: the parent against itself."""


class CampaignSecret(msgspec.Struct, frozen=True):
    """A campaign's secret, 32 bytes, in a file of its own that no worker is given."""

    key: bytes

    @classmethod
    def open(cls, path: Path) -> "CampaignSecret":
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
                f.write(os.urandom(32))
        return cls(path.read_bytes())

    def salt(self, number: int) -> str:
        """Of one proposal, opened alone without giving away the others."""
        return blake3(f"salt {number}".encode(), key=self.key).hexdigest(16)

    def draw(self, number: int) -> float:
        """In [0, 1): whether and what to plant as proposal `number`."""
        return int.from_bytes(blake3(f"draw {number}".encode(), key=self.key).digest(7)) / 2**56

    def commit(self, number: int, kind: ProposalKind, difference: Recipe) -> str:
        return commitment(self.salt(number), number, kind, difference)


def commitment(salt: str, number: int, kind: ProposalKind, difference: Recipe) -> str:
    """What anyone computes from an opened salt to check a kind."""
    return blake3(
        msgspec.json.encode([salt, number, kind, difference], order="deterministic")
    ).hexdigest()
