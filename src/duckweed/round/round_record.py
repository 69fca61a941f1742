"""What is kept of a closed round: its entry in the ledger, its line in metrics.jsonl."""

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from duckweed.merge.round import Announcement, Closed
from duckweed.pages.run_summary import utilisation
from duckweed.round.blocks import OpenRound, Span
from duckweed.run.spec import RunSpec


def ledger_body(
    closed: Closed,
    assigned: dict[int, Span],
    handed: list[Announcement],
    steps: int,
) -> dict[str, Any]:
    """What the ledger keeps of a closed round. steps: those of a whole block; parts: peer -> first
    step and steps, where it was not given a whole block."""
    said = {
        str(a.peer): {"tokens": a.tokens, "loss": a.loss, "blob": a.blob, "size": a.size}
        | ({"ahead": a.ahead} if a.ahead else {})
        for a in handed
    }
    parts = {
        str(peer): [span.first, span.steps]
        for peer, span in assigned.items()
        if span.steps != steps
    }
    return {
        "closed": msgspec.to_builtins(closed, str_keys=True),
        "blocks": {str(peer): span.block for peer, span in assigned.items()},
        "contributions": said,
    } | ({"parts": parts} if parts else {})


def assignments(body: dict[str, Any], steps: int) -> dict[int, Span]:
    """peer -> span of a closed round, from its entry in the ledger; inverse of `ledger_body`."""
    parts = body.get("parts", {})
    return {
        int(peer): Span(block, *parts.get(peer, (0, steps)))
        for peer, block in body["blocks"].items()
    }


def epoch(spec: RunSpec, blocks: Iterable[int], windows: int) -> int:
    """How often the data was used up before the last of these blocks; windows: sequences in it."""
    return max(blocks, default=0) * spec.inner.steps * spec.inner.batch // windows


def round_event(
    number: int,
    *,
    seconds: float,
    announcements: dict[int, Announcement],
    closed: Closed,
    update_size: int,
    nats: tuple[float, int],
    timings: dict[int, dict[str, float]],
    traffic: dict[str, list[int]],
    epoch: int,
) -> dict[str, Any]:
    """One line of metrics.jsonl. held_out: nats per token of the state that the round started from,
    None where it was not measured; traffic: bytes received and sent by the coordinator so far."""
    counted = [announcements[peer] for peer in closed.accepted]
    return {
        "event": "round",
        "round": number,
        "time": time.time(),
        "seconds": seconds,
        "tokens": sum(a.tokens for a in counted),
        "loss": sum(a.loss for a in counted) / max(1, len(counted)),
        "held_out": nats[0] / nats[1] if nats[1] else None,
        "accepted": closed.accepted,
        "rejected": {str(peer): reason for peer, reason in closed.rejected.items()},
        "contribution_bytes": [announcements[peer].size for peer in closed.accepted],
        "update_bytes": update_size,
        "timings": {str(peer): times for peer, times in timings.items()},
        "utilisation": {str(peer): utilisation(times) for peer, times in timings.items()},
        "traffic": traffic,
        "epoch": epoch,
    }


def told(
    open_: OpenRound,
    closed: Closed,
    *,
    seconds: float,
    update_size: int,
    traffic: dict[str, list[int]],
    epoch: int,
) -> dict[str, Any]:
    """`round_event` of a round that was open for so long."""
    nats = [sum(x) for x in zip(*open_.nats.values(), strict=True)] or [0.0, 0]
    return round_event(
        open_.number,
        seconds=seconds,
        announcements=open_.handed,
        closed=closed,
        update_size=update_size,
        nats=(float(nats[0]), int(nats[1])),
        timings={peer: msgspec.to_builtins(t) for peer, t in open_.timings.items()},
        traffic=traffic,
        epoch=epoch,
    )
