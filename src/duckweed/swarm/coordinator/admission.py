"""Who takes part: peers are admitted, heard, and missed."""

import hmac
from collections import defaultdict
from collections.abc import Collection, Mapping

from duckweed.ledger.entries import AuditEntry
from duckweed.net import clock
from duckweed.net.rate_limits import HERE, RELAYED, Buckets, RateLimits
from duckweed.net.timeouts import (
    AWAY,
    BEAT,
    FORGET,
    GATHER,
    GUESTS_CHECK,
    SILENCE_CHECK,
    beat,
    silence,
)
from duckweed.net.token_bucket import Bucket
from duckweed.round.history import RunHistory
from duckweed.round.open_round import Member
from duckweed.run.sections import Members
from duckweed.swarm.coordinator.guest_book import EXPELLED, PUT_OUT, GuestBook
from duckweed.swarm.protocol import messages as m

NEWCOMERS = 0.1, 1024.0  # keys that may become members: per second, and at once
FROM_ONE = 1 / 60, 64.0  # the same from one address


class Admission:
    """The members of a run: the peers of its history, and those admitted since. secret: that of the
    organiser's own machine, which is always admitted."""

    def __init__(
        self,
        history: RunHistory,
        guests: GuestBook,
        secret: str,
        rules: Members,
        rate_limits: RateLimits,
    ) -> None:
        self.history, self.guests, self.secret, self.rules = history, guests, secret, rules
        self.members: dict[str, Member] = {}
        self.by_index: dict[int, Member] = {}  # the same; who is forgotten is in neither
        self.expelled = guests.expelled()
        self.rate_limits = rate_limits
        self.beat = BEAT
        rate, burst = NEWCOMERS
        self._newcomers = Bucket(rate, max(burst, 2.0 * history.wanted))
        self._from_one = Buckets(*FROM_ONE)
        self._version = guests.version()
        self._looked = self._read = clock.now()
        for index, key in enumerate(history.peers):
            self._add(Member(index, key))
        for closed in history.closed.values():
            self.counted(closed.accepted)
        for _, audit in history.audits():
            self.audited(audit)

    def _add(self, member: Member) -> None:
        self.members[member.key] = member
        self.by_index[member.index] = member

    # --- the door

    def objection(self, key: str, protocol: int, secret: str) -> str | None:
        """Why a peer may not come in; None if it may."""
        if protocol != m.PROTOCOL:
            return (
                f"this run speaks protocol {m.PROTOCOL}, the peer {protocol}: "
                "install the same version of duckweed on both sides"
            )
        if reason := self.put_out(key):
            return reason
        if hmac.compare_digest(secret.encode(), self.secret.encode()) or key in self.rules.keys:
            return None
        # A successor has no copy of the guest book.
        if self.rules.successors and (
            key in self.history.index_of or key in dict(self.rules.heirs)
        ):
            return None
        if self.rules.join == "invited":
            return self.guests.objection(key, secret)
        if key in self.members:
            return None
        origin = self.rate_limits.origin_of(key)
        there = sum(x.origin == origin for x in self.by_index.values() if x.here)
        if origin not in (HERE, RELAYED) and there >= self.rules.per_address:
            return f"{there} peers of your address take part already, as many as this run allows"
        return None

    def put_out(self, key: str) -> str | None:
        """Why the holder of a key must not take part any more; None if it may."""
        if key in self.expelled:
            return EXPELLED
        return PUT_OUT if self.history.index_of.get(key) in self.history.out else None

    def crowd(self, key: str) -> str | None:
        """Why a new key may not become a member at this moment; None if it may, and is counted. Each costs
        an entry of the ledger for good, and keys cost nothing."""
        if key in self.history.index_of:
            return None
        origin = self.rate_limits.origin_of(key)
        few = origin in (HERE, RELAYED) or self._from_one.take(origin)
        if few and self._newcomers.take():
            return None
        return "too many new peers came to this run in the last minutes; try again in a minute"

    def admit(self, key: str, secret: str, round_: int) -> Member:
        """The member with this key, new or known; its index is its own for good."""
        member = self.members.get(key)
        if member is None:
            index = self.history.index_of.get(key)
            member = Member(self.history.admit(key, round_) if index is None else index, key)
            self._add(member)
        if self.rules.join == "invited" and secret and secret != self.secret:
            self.guests.note(key, secret)
        member.origin = self.rate_limits.origin_of(key)
        self.hear(member)
        member.doing = "starting"
        return member

    # --- signs of life

    def hear(self, member: Member) -> None:
        """A sign of life."""
        now = clock.now()
        if member.here:
            member.gap = max(now - member.heard, 0.9 * member.gap)
        member.heard, member.here = now, True

    def missed(self) -> list[tuple[Member, str]]:
        """Members that are no longer waited for, and why: too long silent, or put out."""
        now = clock.now()
        if now - self._looked > AWAY:  # this machine did not run: not the peers' fault
            for member in self.members.values():
                member.heard += now - self._looked
        elif now - self._looked < SILENCE_CHECK:
            return []
        self._looked = now
        gone, here = self._failed(), self.here()
        self.beat = max(beat(len(here)), 0.5 * self.beat)  # peers may still beat at the slower rate
        for member in here:
            if now - member.heard > silence(member.gap, self.beat):
                gone.append((member, "no sign of life"))
                member.here, member.doing = False, "silent"
        return gone + self._put_out(now)

    def _failed(self) -> list[tuple[Member, str]]:
        """Those who are here and whose audit has failed."""
        gone = [x for x in self.here() if x.index in self.history.out]
        for member in gone:
            member.here, member.doing = False, "put out"
        return [(member, PUT_OUT) for member in gone]

    def _put_out(self, now: float) -> list[tuple[Member, str]]:
        if now - self._read < GUESTS_CHECK:
            return []
        self._read = now
        if self._version == (version := self.guests.version()):
            return []
        self._version, self.expelled = version, self.guests.expelled()
        gone = [x for x in self.here() if x.key in self.expelled]
        for member in gone:
            member.here, member.doing = False, "put out"
        return [(member, EXPELLED) for member in gone]

    def untold(self) -> bool:
        """Whether a member that was put out a moment ago does not know it yet."""
        since = clock.now() - GATHER
        return any(x.doing == "put out" and x.heard > since for x in self.by_index.values())

    def here(self) -> list[Member]:
        """The members that take part at this moment, in the order of their indices."""
        return [x for _, x in sorted(self.by_index.items()) if x.here]

    # --- what counts

    def counted(self, accepted: list[int]) -> None:
        """Note whose work counted in a round."""
        for index in accepted:
            self.by_index[index].counted += 1

    def audited(self, audit: AuditEntry) -> None:
        """An audit counts for those who did it as a contribution does: they did it in place of one."""
        for index in audit.verdicts:
            if member := self.by_index.get(index):
                member.counted += 1

    def forget(self, needed: Collection[int]) -> None:
        """Forget peers that are gone and whose work never counted. needed: those that have work. Their keys
        keep their indices: the ledger has them."""
        since = clock.now() - FORGET
        for member in list(self.by_index.values()):
            gone = not member.here and not member.counted and member.heard < since
            if gone and member.index not in needed:
                del self.by_index[member.index], self.members[member.key]

    def crowded(self, tokens: Mapping[int, int]) -> dict[int, str]:
        """peer -> why its work must not count in this round. tokens: peer -> tokens of its contribution.
        In an open run nobody gains weight by coming under many names."""
        if self.rules.join == "invited" or self.rules.share >= 1:
            return {}
        new = {x for x in tokens if self.by_index[x].counted < self.rules.probation}
        origins = {x: self.by_index[x].origin for x in tokens}
        return crowded(tokens, origins, new, self.rules.share)


def crowded(
    tokens: Mapping[int, int], origins: Mapping[int, str], new: set[int], share: float
) -> dict[int, str]:
    """peer -> reason: newcomers, and the peers of one address, weigh at most `share` of what they and
    all others have handed in together; of each such group those who joined last are left out,
    but never all. A group that nobody else has joined is not limited, nor is the organiser's machine.

    tokens: peer -> tokens of its contribution; origins: peer -> its address.
    """
    groups: dict[str, set[int]] = defaultdict(set)
    for peer in tokens:
        groups[origins[peer]].add(peer)
    groups.pop(HERE, None)
    reasons = [(members, "from one address") for members in groups.values()]
    reasons.append((new, "from newcomers"))
    total = sum(tokens.values())
    out: dict[int, str] = {}
    for group, what in reasons:
        weight = sum(tokens[peer] for peer in group)
        allowed = (total - weight) * share / (1 - share)
        if weight == total:
            continue
        for peer in sorted(group, reverse=True)[:-1]:
            if weight <= allowed:
                break
            weight -= tokens[peer]
            out[peer] = f"more than {share:.0%} of the round came {what}"
    return out
