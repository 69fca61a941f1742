"""A run as its folder tells it, kept up to date while the run goes on: each look reads only what is new."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from duckweed.ledger.entries import (
    GenesisEntry,
    PeerEntry,
    RoundEntry,
    StateEntry,
    SuccessionEntry,
)
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.round.run_log import Meter, typical_loss
from duckweed.run import events
from duckweed.run import spec as specs
from duckweed.run.events import UNSET, FinalLoss, PeerLeft, RoundClosed, RunEnded, Sampled
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec

MANIFEST = "manifest.json"


class RoundSeen(msgspec.Struct):
    """A closed round, as much of it as a page shows."""

    number: int
    tokens: int
    """Of the contributions that counted."""
    loss: float | None
    """Their typical training loss, nats per token."""
    accepted: int
    """How many counted."""
    rejected: dict[int, str]
    """Peer -> why its work did not count."""
    entry: int
    """Its entry in the ledger."""
    seconds: float | None = None
    """How long it was open; None where the metrics lack it."""
    closed: float = 0.0
    """When: seconds since 1970, 0 where the metrics lack it."""
    held_out: float | None = None
    """Nats per token of the state that it started from."""
    moved: int | None = None
    """Bytes of all peers, up and down, until it closed."""


class PeerSeen(msgspec.Struct):
    """What one peer has done so far."""

    index: int
    key: str
    joined: int
    """The round before which it was admitted."""
    tokens: int = 0
    """Of its contributions that counted, or of the answers that it wrote for others."""
    wrote: int = 0
    """The latter alone."""
    counted: int = 0
    last: int = -1
    """The last round in which one counted."""
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    """Why others did not count, and how often."""
    computing: float | None = None
    """Share of its last round in which it computed."""
    left: str = ""
    """Why it has left, if it has and has not come back."""


class Follower:
    """What a page shows of one run. `look` brings it up to date."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.spec: RunSpec = specs.load(folder.spec)
        self.bytes_per_token = _bytes_per_token(folder)
        self._ledger: Any = None  # what the files were like when they were last read
        self._metrics: Any = None
        self._forget()

    def _forget(self) -> None:
        self.genesis: GenesisEntry | None = None
        self.peers: dict[int, PeerSeen] = {}
        self.rounds: dict[int, RoundSeen] = {}
        self.agreed: tuple[int, str] = (0, "")
        """After how many rounds a state was last agreed on, and its hash."""
        self.leader = ""
        self.entries, self.head = 0, ""
        self._reset_metrics()

    def _reset_metrics(self) -> None:
        self.samples: dict[int, str] = {}
        self.final: FinalLoss | None = None
        self._meter, self._offset, self._metrics = Meter(), 0, None
        self._early: dict[int, tuple[RoundClosed, int]] = {}

    @property
    def done(self) -> bool:
        """Whether all rounds are closed and the peers have agreed on the last state."""
        return self.agreed[0] == self.spec.schedule.rounds

    @property
    def tokens(self) -> int:
        return sum(x.tokens for x in self.rounds.values())

    def look(self) -> bool:
        """Read what is new. True if anything was. Raises LedgerError, FolderError, OSError."""
        return any([self._look_at_ledger(), self._look_at_metrics()])

    # --- the ledger

    def _look_at_ledger(self) -> bool:
        path = self.folder.ledger
        stamp = [_stamp(path), _stamp(path.with_name(path.name + "-wal"))]
        if stamp == self._ledger:
            return False
        with closing(Ledger(path)) as ledger:
            if self.entries and ledger.hash_at(self.entries - 1) != self.head:
                self._forget()  # entries were cut off: another leader's count
            while rows := ledger.rows(self.entries, 1 << 22, ledger.number):
                for row in rows:
                    self._take(row.kind, row.number, row.round, row.body)
                self.entries = rows[-1].number + 1
            self.head = ledger.head
            self.leader = ledger.leadership.leader if ledger.leadership else ""
        self._ledger = stamp
        return True

    def _take(self, kind: str, number: int, round_: int, body: str) -> None:
        known = {
            x.kind: x for x in (GenesisEntry, PeerEntry, RoundEntry, StateEntry, SuccessionEntry)
        }
        if kind not in known:  # of a later version
            return
        try:
            entry = msgspec.json.decode(body, type=known[kind])
        except msgspec.DecodeError as error:
            raise LedgerError(
                f"{self.folder.ledger}: entry {number} is not readable ({error}); a later version of "
                "duckweed may have written it"
            ) from error
        match entry:
            case GenesisEntry() as genesis:
                self.genesis, self.agreed = genesis, (0, genesis.state)
            case PeerEntry(index=index, key=key):
                self.peers[index] = PeerSeen(index, key, round_)
            case RoundEntry() as closed:
                self._round(number, closed)
            case StateEntry(hash=digest):
                self.agreed = max(self.agreed, (round_, digest))

    def _round(self, number: int, entry: RoundEntry) -> None:
        closed = entry.closed
        counted = {x: entry.contributions[x] for x in closed.accepted if x in entry.contributions}
        for index, said in counted.items():
            peer = self.peers[index]
            peer.tokens, peer.counted = peer.tokens + said.tokens, peer.counted + 1
            peer.last, peer.left = closed.round, ""
        for index, answers in entry.writings.items():
            peer = self.peers[index]
            peer.tokens, peer.wrote = peer.tokens + answers.tokens, peer.wrote + answers.tokens
            peer.counted, peer.last, peer.left = peer.counted + 1, closed.round, ""
        for index, reason in closed.rejected.items():
            if index in self.peers:
                self.peers[index].refused[reason] += 1
        loss = typical_loss((x.loss, x.tokens) for x in counted.values())
        tokens = sum(x.tokens for x in counted.values())
        self.rounds[closed.round] = RoundSeen(
            closed.round, tokens, loss, len(counted), closed.rejected, number
        )
        if closed.round in self._early:
            self._measured(*self._early.pop(closed.round))

    # --- the metrics

    def _look_at_metrics(self) -> bool:
        path = self.folder.metrics
        stamp = _stamp(path)
        if stamp == self._metrics or stamp is None:
            return False
        if stamp[1] < self._offset:  # another file
            self._reset_metrics()
        with path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    break
                self._offset += len(line)
                try:
                    self.hear(events.decode(line))
                except msgspec.ValidationError:  # not as this version writes it
                    continue
        self._metrics = stamp
        return True

    def hear(self, event: events.Event | None) -> None:
        """Note an event of the metrics."""
        match event:
            case RoundClosed():
                moved = self._meter.take(event)
                self._measured(event, sum(x.up + x.down for x in moved.values()))
            case Sampled(round=round_, text=text):
                self.samples[round_] = text
            case PeerLeft(peer=index, reason=reason) if index in self.peers:
                self.peers[index].left = reason
            case FinalLoss() if event.round in (UNSET, self.spec.schedule.rounds):
                self.final = event
            case RunEnded():
                self._meter.take(event)

    def _measured(self, event: RoundClosed, moved: int) -> None:
        if (seen := self.rounds.get(event.round)) is None:
            self._early[event.round] = event, moved  # its entry in the ledger is yet to be read
            return
        seen.seconds, seen.closed, seen.held_out = event.seconds, event.time, event.held_out
        seen.moved = moved
        for index, share in event.utilisation.items():
            if index in self.peers:
                self.peers[index].computing = share


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _bytes_per_token(folder: RunFolder) -> float | None:
    """Of the held-out text, where the prepared data is on this machine: it turns nats per token into bits
    per byte."""
    try:
        place = Path(folder.local()["dataset"]) / MANIFEST
        facts = msgspec.json.decode(place.read_bytes(), type=dict[str, Any])
        if facts.get("problems"):  # of which a share is measured
            return None
        return facts["held_out_bytes"] / (facts.get("held_out_learnt") or facts["held_out_tokens"])
    except (OSError, KeyError, ValueError, TypeError, ZeroDivisionError):
        return None
