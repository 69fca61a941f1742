"""What came of a run: its closed rounds, joined from ledger and metrics, with their times and bytes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

import msgspec

from duckweed.ledger.entries import PeerEntry, RoundEntry
from duckweed.ledger.ledger import Ledger
from duckweed.run.events import UNSET, FinalLoss, RoundClosed, RunEnded
from duckweed.run.folder import RunFolder
from duckweed.wire.exact import weighted_median

PURPOSES = ("contributions", "updates", "control")
PHASES = ("train", "evaluate", "compress", "send", "wait", "fetch", "apply")


class Traffic(msgspec.Struct, frozen=True):
    """Bytes as the peers see them: `up` from all peers to the coordinator, `down` back to them.

    Counted where messages enter and leave the transport: framing included, the packets' own headers
    (QUIC, UDP, IP) not.
    """

    up: int = 0
    down: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.up + other.up, self.down + other.down)


class Round(msgspec.Struct, frozen=True):
    """A closed round. What is from the metrics is None or empty where a crash swallowed the line."""

    number: int
    """Number of the round, from 0."""
    tokens: int
    """Tokens of the contributions that counted."""
    loss: float | None
    """Median of their training losses, nats per token; None where nothing counted."""
    accepted: tuple[int, ...]
    """Indices of the peers that counted."""
    rejected: dict[int, str]
    """Peer -> why its work did not count."""
    seconds: float | None = None
    """From the metrics: how long the round was open."""
    held_out: float | None = None
    """From the metrics: nats per token of the state that the round started from."""
    timings: dict[int, dict[str, float]] = {}
    """From the metrics: peer -> phase -> seconds."""
    traffic: Traffic | None = None
    """From the metrics: bytes of all peers until the round closed."""


class RunLog(msgspec.Struct, frozen=True):
    """All closed rounds of a run in order, and what surrounds them."""

    rounds: tuple[Round, ...]
    """The closed rounds."""
    peers: int
    """Peers that were admitted."""
    traffic: dict[str, Traffic]
    """Purpose -> bytes of all peers."""
    final: tuple[float, int] | None
    """Nats per token after the last round, and on how many held-out tokens; None: not measured."""
    simulated: bool
    """Whether the times are on a virtual clock."""
    state: str
    """Hash of the last state that the peers agreed on, hex; "" of an empty ledger."""
    head: str
    """Hash of the last entry of the ledger, hex."""


def run_log(folder: RunFolder) -> RunLog:
    """The rounds that the ledger closed, with what metrics.jsonl tells of them.

    A round that the metrics hold twice counts as it came last; one that is not in the ledger has
    not happened. Raises LedgerError, and FolderError where a line of the metrics is not one.
    """
    with closing(Ledger(folder.ledger)) as ledger:
        closed = {entry.round: entry.body for entry in ledger.entries(RoundEntry)}
        agreed = ledger.agreed_states()
        peers = sum(1 for _ in ledger.entries(PeerEntry))
        head = ledger.head
    lines: dict[int, tuple[RoundClosed, Traffic]] = {}
    moved, final, simulated = dict.fromkeys(PURPOSES, Traffic()), None, False
    meter = Meter()
    for event in folder.records(RoundClosed, FinalLoss, RunEnded):
        moved = meter.take(event)
        if isinstance(event, RoundClosed):
            lines[event.round] = event, sum(moved.values(), Traffic())
            simulated = simulated or event.virtual_clock is not UNSET
        elif isinstance(event, FinalLoss) and event.round in (UNSET, len(closed)):
            final = event.held_out, event.tokens
    return RunLog(
        rounds=tuple(_join(n, closed[n], lines.get(n)) for n in sorted(closed)),
        peers=peers,
        traffic=moved,
        final=final,
        simulated=simulated,
        state=agreed[max(agreed)] if agreed else "",
        head=head,
    )


def data_parallel_bytes(parameters: int, peers: int, steps: int) -> int:
    """Bytes that each way of all peers together would carry in data-parallel training.

    A ring all-reduce moves 2 (M - 1) / M times the size of the gradients out of each of M peers and
    as much into it (Patarasuk & Yuan, J. Parallel Distrib. Comput. 69(2), 2009), here bf16
    gradients (2 bytes) at every one of `steps` steps.
    """
    return 2 * max(0, peers - 1) * 2 * parameters * steps


def typical_loss(told: Iterable[tuple[float, float]]) -> float | None:
    """The median of losses as peers tell them, each with its weight; None where there are none. No peer's
    word can move it beyond what the others say."""
    each = list(told)
    if not each:
        return None
    return weighted_median([loss for loss, _ in each], [weight for _, weight in each])


def mean_phases(timings: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean seconds by phase; empty if there are no timings."""
    each = list(timings)
    return {p: sum(t.get(p, 0.0) for t in each) / len(each) for p in PHASES} if each else {}


def elapsed(times: dict[str, float]) -> float:
    """Seconds that a round took a peer: `wall`; the sum of the phases, where that was not recorded."""
    return times.get("wall") or sum(times.get(phase, 0.0) for phase in PHASES)


def utilisation(times: dict[str, float]) -> float:
    """Share of a peer's time in which it computed with the model: (train + evaluate) / `elapsed`, at
    most 1, whatever the peer says; 0 where nothing was measured."""
    busy, total = times.get("train", 0.0) + times.get("evaluate", 0.0), elapsed(times)
    return busy / total if busy < total else float(busy > 0)


class Meter:
    """Adds up the bytes of all sessions of a run.

    A coordinator counts from zero whenever it starts. In one session the contributions received grow
    by at least those of the round just closed; where they did not, a new session began.
    """

    def __init__(self) -> None:
        self._before = self._last = dict.fromkeys(PURPOSES, Traffic())

    def take(self, event: object) -> dict[str, Traffic]:
        """Purpose -> bytes moved until this event."""
        if isinstance(event, RunEnded) or (isinstance(event, RoundClosed) and event.traffic):
            now = {p: Traffic(*event.traffic.get(p, (0, 0))) for p in PURPOSES}
            grown = now["contributions"].up - self._last["contributions"].up
            received = sum(event.contribution_bytes) if isinstance(event, RoundClosed) else 0
            if grown < received:
                self._before = {p: self._before[p] + self._last[p] for p in PURPOSES}
            self._last = now
        return {p: self._before[p] + self._last[p] for p in PURPOSES}


def _join(number: int, entry: RoundEntry, metrics: tuple[RoundClosed, Traffic] | None) -> Round:
    accepted = tuple(entry.closed.accepted)
    counted = [entry.contributions[peer] for peer in accepted]
    told = Round(
        number=number,
        tokens=sum(one.tokens for one in counted),
        loss=typical_loss((one.loss, one.tokens) for one in counted),
        accepted=accepted,
        rejected=entry.closed.rejected,
    )
    if metrics is None:
        return told
    event, traffic = metrics
    return msgspec.structs.replace(
        told,
        seconds=event.seconds,
        held_out=event.held_out,
        timings=event.timings,
        traffic=traffic,
    )
