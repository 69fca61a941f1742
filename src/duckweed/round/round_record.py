"""What is kept of a closed round: its entry in the ledger, its line in metrics.jsonl."""

import time
from collections.abc import Iterable

import msgspec

from duckweed.ledger.entries import Closed, Contributed, RoundEntry
from duckweed.merge.round import Announcement
from duckweed.round.blocks import Span
from duckweed.round.open_round import OpenRound
from duckweed.round.run_log import utilisation
from duckweed.run.events import UNSET, RoundClosed, UnsetType
from duckweed.run.spec import RunSpec


def ledger_entry(
    closed: Closed,
    assigned: dict[int, Span],
    handed: Iterable[Announcement],
    steps: int,
) -> RoundEntry:
    """What the ledger keeps of a closed round. steps: inner steps of a whole block."""
    return RoundEntry(
        closed=closed,
        blocks={peer: span.block for peer, span in assigned.items()},
        contributions={
            a.peer: Contributed(a.tokens, a.loss, a.blob, a.size, a.ahead) for a in handed
        },
        parts={
            peer: (span.first, span.steps) for peer, span in assigned.items() if span.steps != steps
        },
    )


def assignments(entry: RoundEntry, steps: int) -> dict[int, Span]:
    """peer -> span of a closed round, from its entry in the ledger. steps: as in `ledger_entry`."""
    return {
        peer: Span(block, *entry.parts.get(peer, (0, steps)))
        for peer, block in entry.blocks.items()
    }


def epoch(spec: RunSpec, blocks: Iterable[int], windows: int) -> int:
    """How often the data was used up before the last of these blocks; windows: sequences in it."""
    return max(blocks, default=0) * spec.inner.steps * spec.inner.batch // windows


def round_event(
    closed: Closed,
    *,
    seconds: float,
    announcements: dict[int, Announcement],
    update_size: int,
    nats: tuple[float, int],
    timings: dict[int, dict[str, float]],
    traffic: dict[str, list[int]],
    epoch: int,
    virtual_clock: float | UnsetType = UNSET,
) -> RoundClosed:
    """The event of a closed round, with the fields of `RoundClosed`. announcements: of all peers that
    handed something in; nats: sum over held-out tokens, and how many there were."""
    counted = [announcements[peer] for peer in closed.accepted]
    return RoundClosed(
        round=closed.round,
        time=time.time(),
        seconds=seconds,
        tokens=sum(a.tokens for a in counted),
        loss=sum(a.loss for a in counted) / max(1, len(counted)),
        held_out=nats[0] / nats[1] if nats[1] else None,
        accepted=closed.accepted,
        rejected=closed.rejected,
        contribution_bytes=[a.size for a in counted],
        update_bytes=update_size,
        timings=timings,
        utilisation={peer: utilisation(times) for peer, times in timings.items()},
        traffic=traffic,
        epoch=epoch,
        virtual_clock=virtual_clock,
    )


def told(
    open_: OpenRound,
    closed: Closed,
    *,
    seconds: float,
    update_size: int,
    traffic: dict[str, list[int]],
    epoch: int,
) -> RoundClosed:
    """`round_event` of a round that was open for `seconds`."""
    nats = [sum(x) for x in zip(*open_.nats.values(), strict=True)] or [0.0, 0]
    return round_event(
        closed,
        seconds=seconds,
        announcements=open_.contributions,
        update_size=update_size,
        nats=(float(nats[0]), int(nats[1])),
        timings={peer: msgspec.to_builtins(t) for peer, t in open_.timings.items()},
        traffic=traffic,
        epoch=epoch,
    )
