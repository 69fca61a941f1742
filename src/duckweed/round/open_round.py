"""Who takes part, and the round that is open: when it closes and with what. No clock and no network."""

import math
from collections.abc import Collection, Iterable

import msgspec
from msgspec import UNSET, UnsetType

from duckweed.ledger.entries import Writing
from duckweed.merge.announcement import Announcement
from duckweed.net.timeouts import REWARDS_CHECK
from duckweed.round import answers
from duckweed.round.blocks import Span
from duckweed.run.checked import Seconds
from duckweed.run.sections import Rounds
from duckweed.run.task.written import Written
from duckweed.wire.exact import median

SLACK = 6.0  # median absolute deviations beyond the median that a peer may take
IDLE = 3  # rounds in a row that a peer may let pass until nobody waits for it
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

    train: Seconds = 0.0
    evaluate: Seconds = 0.0
    compress: Seconds = 0.0
    send: Seconds = 0.0
    wait: Seconds = 0.0
    fetch: Seconds = 0.0
    apply: Seconds = 0.0
    wall: Seconds = 0.0  # since its work for the round before was done


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
    addresses: list[str] = []  # where other peers may reach it
    shared: tuple[int, int] = (0, 0)  # bytes given to and fetched from other peers
    passed: int = 0  # rounds in a row, the last ones, that closed without its work
    idle: bool = (
        False  # whether it let the last one pass without any sign of work, and gave none since
    )
    pardoned: bool = (
        False  # whether it was forgiven for being late, since its work was last in time
    )
    told: tuple[int, int] = (-1, 0)  # a round, and how many events the peer has caused in it
    writes: bool = False  # whether it only writes answers, for others to learn from

    @property
    def expected(self) -> bool:
        """Whether a round waits for its work."""
        return not self.idle and self.passed < IDLE

    def worked(self, late: bool) -> None:
        """Its work has come. Late work shows that a peer is slow and not idle, but shows it once: then it
        must be in time."""
        if late and self.pardoned:
            return
        self.passed, self.idle, self.pardoned = 0, False, late

    def works_for(self, round_: int) -> bool:
        """Whether it says that it is at work for a round."""
        return self.here and self.at == round_ and self.doing in ("training", "writing", "sending")


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
    written: dict[int, Written] = {}  # peer -> what its model wrote, in reinforcement learning
    unchecked: dict[int, float] = {}  # peer -> since when the rewards of its answers are checked
    false: dict[int, str] = {}  # peer -> what was found wrong with them
    refused: set[int] = set()  # peers whose contribution cannot count
    misplaced: set[int] = set()  # those of them that were given other work by this machine
    excused: set[int] = set()  # peers that do an audit in place of their work
    closing: bool = False  # whether it is too late for contributions
    writings: list[Writing] = []  # answers of peers that only write, which are learnt from

    def wants(self, peer: int, round_: int, contributed: bool) -> bool:
        """Whether a peer with the state before `round_` should train for this round. It should train
        again if it has contributed, but a restart has lost that."""
        if round_ != self.number or self.closing or peer in self.excused:
            return False
        return not contributed or self.lacks(peer)

    def lacks(self, peer: int) -> bool:
        """Whether a contribution of the peer may still come in."""
        # Where a new leader has refused the work of all, which the one before it gave out, nobody could close the round.
        again = peer in self.misplaced and not self.contributions
        given_up = peer in self.refused and not again
        return not self.closing and peer not in self.contributions and not given_up

    def refuse(self, peer: int, said: Announcement) -> None:
        """A contribution of the peer cannot count."""
        self.refused.add(peer)
        span = self.assigned.get(peer)
        if span is None or span.block != said.block:
            self.misplaced.add(peer)

    def answers_for(self, peer: int) -> list[Writing]:
        """The answers of others that the peer learns from."""
        span = self.assigned.get(peer)
        return answers.meeting(self.writings, span) if span else []

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
        written: Written | UnsetType = UNSET,
    ) -> None:
        """Note a contribution, whose blob is on disk. nats: of its share of the held-out text, sum and
        tokens, (0, 0) if it was not measured."""
        peer = member.index
        self.contributions[peer], self.signatures[peer] = announcement, signature
        self.seconds[peer] = now - self.opened
        self.timings[peer] = timings
        member.worked(late=False)
        # How fast a peer is that wrote less than the others says nothing of the next round.
        if 0 < timings.train < math.inf and not self.answers_for(peer):
            member.pace = timings.train / announcement.steps
        if nats[1] > 0:
            self.nats[peer] = nats
        if written is not UNSET:
            self.written[peer] = written

    def complete(
        self,
        expected: Collection[int],
        working: set[int],
        durations: Iterable[float],
        rules: Rounds,
        now: float,
        writing: bool = False,
    ) -> bool:
        """Whether the round can close: all peers that are waited for have answered, or the time of the
        others is over. Then the quorum is one of those who have handed in and those who are at work: who
        is silent does not count, and who only says that it works, for a second such time at most. That
        second time is known only from earlier rounds: else the first that hands something in at once
        would close a round alone.

        expected: peers that are waited for. working: peers that say that they are at work for this round.
        durations: seconds that peers needed in the rounds before. writing: whether answers are waited for that the next
        round learns from."""
        if not self.contributions or self.unchecked:
            return False
        answered = self.contributions.keys() | self.refused | self.excused
        if not writing and all(peer in answered for peer in self.assigned if peer in expected):
            return True
        before = list(durations)
        limit = deadline([*before, *self.seconds.values()], rules.patience)
        if limit is None or now - self.opened <= limit:
            return False
        at_work = (self.contributions.keys() | working) - self.excused
        counted = [peer for peer in self.assigned if peer in at_work]
        enough = len(self.contributions) >= rules.quorum * len(counted)
        return enough or (bool(before) and now - self.opened > 2 * limit)

    def go_on(self, rejected: Iterable[int], now: float) -> None:
        """Stay open without the contributions of these peers, which do not count. The deadline of the
        others starts anew."""
        for peer in rejected:
            self._drop(peer)
        self.opened, self.closing = now, False

    def checked(self, peer: int, reason: str, written: Written) -> None:
        """The rewards of a contribution were checked. reason: why it cannot count, "" if it can; written: what
        its rollouts add up to."""
        self.unchecked.pop(peer, None)
        if reason:
            self.false[peer] = reason
            self._drop(peer)
        else:
            self.written[peer] = written

    def give_up_checks(self, now: float) -> None:
        """Do without the contributions whose check takes so long that the others need not wait for it."""
        for peer, since in list(self.unchecked.items()):
            if now - since > REWARDS_CHECK:
                self.checked(
                    peer, f"its rewards were not checked within {REWARDS_CHECK:.0f} s", Written()
                )

    def _drop(self, peer: int) -> None:
        for of_peers in (
            self.contributions, self.signatures, self.seconds, self.timings, self.nats, self.written,
        ):  # fmt: skip
            of_peers.pop(peer, None)
        self.refused.add(peer)

    def overdue(self, member: Member, now: float) -> None:
        """Note that the round closes without the work of a peer. If it was too slow for its steps, measure
        its pace by how far it came."""
        begun, at_it = self.begun.get(member.index), member.works_for(self.number)
        member.passed, member.idle = member.passed + 1, not at_it
        if at_it and member.doing == "training" and begun is not None:
            member.pace = max(member.pace, (now - begun) / max(1, member.step))

    def waiting_for(self) -> str:
        """Whose work is missing, in words."""
        missing = [
            str(x)
            for x in self.assigned
            if x not in self.contributions.keys() | self.refused | self.excused
        ]
        if not missing and not self.contributions:
            return f"round {self.number}: waiting for work that counts"
        if not missing and self.unchecked:
            return f"round {self.number}: the rewards of answers are being checked"
        if not missing:
            return f"round {self.number}: waiting for peers that write answers"
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        peers = "peers" if len(missing) > 1 else "peer"
        return f"round {self.number}: waiting for {peers} {', '.join(missing[:NAMED])}{more}"
