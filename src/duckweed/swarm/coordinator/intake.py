"""May a contribution be taken? What can be told before it is decoded: whose it is, for which round, of
which part of the data. Whether it counts is judged when the round closes (duckweed.merge.check)."""

import math

import msgspec

from duckweed.merge.round import blob_hash
from duckweed.net.identity import verify
from duckweed.round.blocks import lead
from duckweed.round.history import RunHistory
from duckweed.round.open_round import Member, OpenRound
from duckweed.round.signed import signed_part
from duckweed.run import work
from duckweed.run.spec import RunSpec
from duckweed.swarm.protocol import messages as m


def objection(
    spec: RunSpec,
    history: RunHistory,
    open_: OpenRound | None,
    member: Member,
    question: m.Contribute,
    blob: bytes,
) -> str | None:
    """Why a contribution of a member cannot be taken; None if it can. open_: the round that is open."""
    said = question.announcement
    if said.peer != member.index:
        return "a contribution in another peer's name"
    if not verify(
        member.key, signed_part(history.ledger.hash_at(0) or "", said), question.signature
    ):
        return "the signature does not fit the announcement"
    if open_ is None or open_.closing or said.round != open_.number:
        return f"round {said.round} is not open"
    span = open_.assigned.get(member.index)
    if span is None or span.block != said.block:
        return f"block {said.block} is not assigned to this peer"
    if said.size != len(blob) or said.blob != blob_hash(blob):
        return "the blob is not the one announced"
    if said.blob in history.recent_blobs:
        return f"this blob was handed in before, in round {history.recent_blobs[said.blob]}"
    if not math.isfinite(said.loss) or not math.isfinite(question.nats):
        return "the loss is not finite"
    if not all(map(math.isfinite, msgspec.structs.astuple(question.timings))):
        return "a time is not finite"
    if (said.first, said.steps) != (span.first, span.steps):
        return f"steps {span.first} to {span.end} of the block are assigned to this peer"
    ahead = lead(spec.rounds.overlap, span.steps) if open_.number else 0
    if said.ahead not in (0, ahead):
        return f"{said.ahead} steps trained ahead, where 0 or {ahead} can be"
    return work.objection(spec, span.steps, said.tokens)
