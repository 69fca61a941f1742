"""What is kept of a closed round: its entry in the ledger, its line in metrics.jsonl."""

import time
from collections.abc import Iterable, Mapping

import msgspec

from duckweed.ledger.entries import Closed, Contributed, RoundEntry
from duckweed.merge.round import Announcement, sizes_hash
from duckweed.round.blocks import Span
from duckweed.round.open_round import OpenRound
from duckweed.round.run_log import utilisation
from duckweed.run.events import RoundClosed
from duckweed.run.spec import RunSpec


def ledger_entry(
    closed: Closed,
    assigned: dict[int, Span],
    handed: Iterable[Announcement],
    signatures: Mapping[int, bytes],
    steps: int,
) -> RoundEntry:
    """What the ledger keeps of a closed round. signatures: of each peer, over what it said; steps: inner
    steps of a whole block."""
    return RoundEntry(
        closed=closed,
        blocks={peer: span.block for peer, span in assigned.items()},
        contributions={a.peer: _contributed(a, signatures.get(a.peer, b"")) for a in handed},
        parts={
            peer: (span.first, span.steps) for peer, span in assigned.items() if span.steps != steps
        },
    )


def _contributed(said: Announcement, signature: bytes) -> Contributed:
    """What the ledger keeps of an announcement: all that is not in the round's entry already, so that
    its signature can be checked."""
    kept = {x: getattr(said, x) for x in Contributed.__struct_fields__ if hasattr(said, x)}
    return Contributed(**kept, sizes=sizes_hash(said.rms), signature=signature.hex())


def assignments(entry: RoundEntry, steps: int) -> dict[int, Span]:
    """peer -> span of a closed round, from its entry in the ledger. steps: as in `ledger_entry`."""
    return {
        peer: Span(block, *entry.parts.get(peer, (0, steps)))
        for peer, block in entry.blocks.items()
    }


def epoch(spec: RunSpec, blocks: Iterable[int], windows: int) -> int:
    """How often the data was used up before the last of these blocks; windows: sequences in it."""
    return max(blocks, default=0) * spec.inner.steps * spec.inner.batch // windows


def closed_event(
    open_: OpenRound,
    closed: Closed,
    *,
    seconds: float,
    update_size: int,
    traffic: dict[str, list[int]],
    epoch: int,
) -> RoundClosed:
    """The event of a round that was open for `seconds`. The last three are fields of `RoundClosed`."""
    counted = [open_.contributions[peer] for peer in closed.accepted]
    nats = sum(nats for nats, _ in open_.nats.values())
    tokens = sum(tokens for _, tokens in open_.nats.values())
    timings = {peer: msgspec.to_builtins(x) for peer, x in open_.timings.items()}
    return RoundClosed(
        round=closed.round,
        time=time.time(),
        seconds=seconds,
        tokens=sum(a.tokens for a in counted),
        loss=sum(a.loss for a in counted) / max(1, len(counted)),
        held_out=nats / tokens if tokens else None,
        accepted=closed.accepted,
        rejected=closed.rejected,
        contribution_bytes=[a.size for a in counted],
        update_bytes=update_size,
        timings=timings,
        utilisation={peer: utilisation(times) for peer, times in timings.items()},
        traffic=traffic,
        epoch=epoch,
    )
