"""What is kept of a closed round: its entry in the ledger, its line in metrics.jsonl."""

import time
from collections.abc import Iterable, Mapping

import msgspec

from duckweed.ledger.entries import Closed, Contributed, RoundEntry, Writing
from duckweed.merge.announcement import Announcement, sizes_hash
from duckweed.round.blocks import Span
from duckweed.round.open_round import OpenRound
from duckweed.round.run_log import typical_loss, utilisation
from duckweed.run.events import RoundClosed
from duckweed.run.spec import RunSpec


def ledger_entry(
    closed: Closed,
    assigned: dict[int, Span],
    handed: Iterable[Announcement],
    signatures: Mapping[int, bytes],
    steps: int,
    writings: dict[int, Writing] | None = None,
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
        writings=writings or {},
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


def announcements(entry: RoundEntry, steps: int, tensors: int) -> list[Announcement]:
    """What was handed in for a closed round, from its entry in the ledger, by the peers' indices. The
    entry keeps a hash of the announced sizes, [T]: zeros stand for them. steps: as in `ledger_entry`."""
    spans = assignments(entry, steps)
    return [
        Announcement(
            round=entry.closed.round,
            peer=peer,
            block=spans[peer].block,
            blob=said.blob,
            size=said.size,
            tokens=said.tokens,
            steps=spans[peer].steps,
            loss=said.loss,
            rms=[0.0] * tensors,
            first=spans[peer].first,
            ahead=said.ahead,
        )
        for peer, said in sorted(entry.contributions.items())
        if peer in spans
    ]


def epoch(spec: RunSpec, spans: Iterable[Span], windows: int) -> int:
    """How often the data was used up before the last of these spans; windows: sequences in it."""
    last = max((x.block * spec.inner.steps + x.first for x in spans), default=0)
    return last * spec.inner.batch // windows


def held_out(open_: OpenRound, evaluate_tokens: int) -> float | None:
    """Loss on held-out text, nats per token; None where it was not measured. Each peer weighs as many
    tokens as it says that its share of the text had, but no more than a fair share has."""
    fair = evaluate_tokens / max(1, len(open_.assigned))
    return typical_loss((nats / tokens, min(tokens, fair)) for nats, tokens in open_.nats.values())


def closed_event(
    open_: OpenRound,
    closed: Closed,
    *,
    seconds: float,
    loss_before: float,
    update_size: int,
    traffic: dict[str, list[int]],
    epoch: int,
    evaluate_tokens: int,
    writings: Mapping[int, Writing],
) -> RoundClosed:
    """The event of a round that was open for `seconds`. loss_before: of the round before, which is told of one in which
    nothing was trained; update_size to epoch are fields of `RoundClosed`;
    evaluate_tokens: `rounds.evaluate_tokens`; writings: of peers that only write."""
    counted = [open_.contributions[peer] for peer in closed.accepted]
    loss = typical_loss((a.loss, a.tokens) for a in counted)
    written = [open_.written[peer] for peer in closed.accepted if peer in open_.written]
    timings = {peer: msgspec.to_builtins(x) for peer, x in open_.timings.items()}
    return RoundClosed(
        round=closed.round,
        time=time.time(),
        seconds=seconds,
        tokens=sum(a.tokens for a in counted),
        loss=loss_before if loss is None else loss,
        held_out=held_out(open_, evaluate_tokens),
        accepted=closed.accepted,
        rejected=closed.rejected,
        contribution_bytes=[a.size for a in counted],
        update_bytes=update_size,
        timings=timings,
        utilisation={peer: utilisation(times) for peer, times in timings.items()},
        traffic=traffic,
        epoch=epoch,
        written=sum(written[1:], written[0]) if written else msgspec.UNSET,
        writers={peer: said.tokens for peer, said in writings.items()} or msgspec.UNSET,
    )
