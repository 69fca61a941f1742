"""Who takes part, and the round that is open: when it closes and with what. No clock and no network."""

import math
from collections.abc import Collection, Iterable

import msgspec

from duckweed.merge.round import Announcement
from duckweed.round.blocks import Span
from duckweed.run.sections import Rounds
from duckweed.wire.exact import median

SLACK = 6.0  # median absolute deviations beyond the median that a peer may take
NAMED = 10  # at most this many peers are named as missing


def deadline(durations: list[float], patience: float) -> float | None:
    """Seconds after its opening at which a round closes without its stragglers: median + 6 MAD of
    what peers have needed, and `patience` on top. None while nothing is known."""
    if not durations:
        return None
    middle = median(durations)
    return middle + SLACK * median([abs(d - middle) for d in durations]) + patience


class Timings(msgspec.Struct, forbid_unknown_fields=True):
    """Seconds that one peer spent on one round, by phase. With overlap phases run at the same time."""

    train: float = 0.0
    evaluate: float = 0.0
    compress: float = 0.0
    send: float = 0.0
    wait: float = 0.0
    fetch: float = 0.0
    apply: float = 0.0
    wall: float = 0.0  # since its work for the round before was done


class Member(msgspec.Struct):
    """A peer as the coordinator sees it."""

    index: int
    key: str
    heard: float = 0.0  # time of its last sign of life
    here: bool = False  # whether it takes part at this moment
    doing: str = "starting"
    at: int = 0  # the round that it trains for
    step: int = 0  # its last inner step in that round
    loss: float = 0.0  # of that step, nats per token
    pace: float = 0.0  # seconds per inner step, 0 while unknown
    gap: float = 0.0  # its longest recent silence, in seconds
    origin: str = ""  # the address that it comes from (RateLimits.origin_of)
    counted: int = 0  # contributions that have counted
    last: int = -1  # the last round in which one counted
    addresses: list[str] = []  # where other peers may reach it
    shared: tuple[int, int] = (0, 0)  # bytes given to and fetched from other peers


class OpenRound(msgspec.Struct):
    """The round that is being worked on. Times are those of the coordinator's clock."""

    number: int
    opened: float  # when it opened
    assigned: dict[int, Span] = {}  # peer -> span, in the order of their shares
    begun: dict[int, float] = {}  # peer -> when it was told to train
    contributions: dict[int, Announcement] = {}  # peer -> its contribution, whose blob is on disk
    signatures: dict[int, bytes] = {}  # peer -> its signature of what it said
    seconds: dict[int, float] = {}  # peer -> time from the opening to its contribution
    timings: dict[int, Timings] = {}
    nats: dict[int, tuple[float, int]] = {}  # peer -> held-out loss: sum in nats, tokens
    refused: set[int] = set()  # peers whose contribution cannot count
    closing: bool = False  # whether it is too late for contributions

    def wants(self, peer: int, round_: int, contributed: bool) -> bool:
        """Whether a peer with the state before `round_` should train for this round. It should train
        again if it has contributed, but a restart has lost that."""
        if round_ != self.number or self.closing:
            return False
        return not contributed or self.lacks(peer)

    def lacks(self, peer: int) -> bool:
        """Whether a contribution of the peer may still come in."""
        return not self.closing and peer not in self.contributions.keys() | self.refused

    def share(self, peer: int) -> int:
        """The peer's place in the round, from 0: which part of the held-out text it measures."""
        return list(self.assigned).index(peer)

    def take(
        self,
        member: Member,
        announcement: Announcement,
        signature: bytes,
        timings: Timings,
        nats: tuple[float, int],
        now: float,
    ) -> None:
        """Note a contribution, whose blob is on disk. nats: of its share of the held-out text, sum and
        tokens, (0, 0) if it was not measured."""
        peer = member.index
        self.contributions[peer], self.signatures[peer] = announcement, signature
        self.seconds[peer] = now - self.opened
        self.timings[peer] = timings
        if 0 < timings.train < math.inf:
            member.pace = timings.train / announcement.steps
        if nats[1] > 0:
            self.nats[peer] = nats

    def complete(
        self, here: Collection[int], durations: Iterable[float], rules: Rounds, now: float
    ) -> bool:
        """Whether the round can close: all peers that are here have answered, or the time of the others
        is over. durations: seconds that peers needed in the rounds before."""
        if not self.contributions:
            return False
        answered = self.contributions.keys() | self.refused
        if all(peer in answered for peer in self.assigned if peer in here):
            return True
        limit = deadline([*durations, *self.seconds.values()], rules.patience)
        enough = len(self.contributions) >= rules.quorum * len(self.assigned)
        return enough and limit is not None and now - self.opened > limit

    def go_on(self, rejected: Iterable[int], now: float) -> None:
        """Stay open without the contributions of these peers, which do not count. The deadline of the
        others starts anew."""
        for peer in rejected:
            for of_peers in (
                self.contributions,
                self.signatures,
                self.seconds,
                self.timings,
                self.nats,
            ):
                of_peers.pop(peer, None)
            self.refused.add(peer)
        self.opened, self.closing = now, False

    def overdue(self, member: Member, now: float) -> None:
        """Measure the pace of a peer that was too slow for its steps, by how far it came."""
        begun = self.begun.get(member.index)
        at_it = member.doing == "training" and member.at == self.number
        if member.here and at_it and begun is not None:
            member.pace = max(member.pace, (now - begun) / max(1, member.step))

    def waiting_for(self) -> str:
        """Whose work is missing, in words."""
        missing = [
            str(x) for x in self.assigned if x not in self.contributions.keys() | self.refused
        ]
        if not missing and not self.contributions:
            return f"round {self.number}: waiting for work that counts"
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        return f"round {self.number}: waiting for peer {', '.join(missing[:NAMED])}{more}"
