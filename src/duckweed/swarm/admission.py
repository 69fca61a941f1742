"""Who takes part: peers are admitted, heard, and missed."""

import hmac
import time
from typing import Any

from duckweed.run.ledger import Ledger
from duckweed.swarm import messages as m
from duckweed.swarm.rounds import Member
from duckweed.swarm.timing import AWAY, silence


class Admission:
    """The members of a run, by key. Whoever is admitted is written into the ledger."""

    def __init__(self, ledger: Ledger, secret: str) -> None:
        self.ledger, self.secret = ledger, secret
        self.members: dict[str, Member] = {}
        self._looked = time.monotonic()

    def replay(self, body: dict[str, Any]) -> None:
        """Take up a peer of the past, as the ledger tells it."""
        self.members[body["key"]] = Member(body["index"], body["key"])

    def objection(self, join: m.Join) -> str | None:
        """Why a peer may not come in; None if it may."""
        if join.protocol != m.PROTOCOL:
            return (
                f"this run speaks protocol {m.PROTOCOL}, the peer {join.protocol}: "
                "install the same version of duckweed on both sides"
            )
        if not hmac.compare_digest(join.secret.encode(), self.secret.encode()):
            return "this run is private, and the secret is not its own"
        return None

    def admit(self, key: str, round_: int) -> Member:
        """The member with this key, new or known; its index is its own for good."""
        member = self.members.get(key)
        if member is None:
            member = Member(len(self.members), key)
            self.ledger.append("peer", round_, {"index": member.index, "key": key})
            self.members[key] = member
        self.hear(member)
        member.doing = "starting"
        return member

    def hear(self, member: Member) -> None:
        """A sign of life."""
        now = time.monotonic()
        if member.here:
            member.gap = max(now - member.heard, 0.9 * member.gap)
        member.heard, member.here = now, True

    def missed(self) -> list[Member]:
        """Members that have just been silent for too long; they are no longer waited for."""
        now = time.monotonic()
        if now - self._looked > AWAY:  # nobody was listening: not the peers' fault
            for member in self.members.values():
                member.heard += now - self._looked
        self._looked = now
        here = [x for x in self.members.values() if x.here]
        gone = [x for x in here if now - x.heard > silence(x.gap)]
        for member in gone:
            member.here, member.doing = False, "silent"
        return gone

    def here(self) -> list[Member]:
        """The members that take part at this moment, in the order of their indices."""
        return sorted((x for x in self.members.values() if x.here), key=lambda x: x.index)
