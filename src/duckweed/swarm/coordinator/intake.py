"""May a contribution be taken? What can be told before it is decoded: whose it is, for which round, of
which part of the data. Whether it counts is judged when the round closes (duckweed.merge.check)."""

from msgspec import UNSET

from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash, empty_hash
from duckweed.net.identity import verify
from duckweed.round.answers import span_of
from duckweed.round.blocks import Span, lead
from duckweed.round.history import RunHistory
from duckweed.round.open_round import Member, OpenRound
from duckweed.round.signed import signed_part, writing_part
from duckweed.run.checked import LOSS
from duckweed.run.spec import RunSpec
from duckweed.run.task import work
from duckweed.swarm.protocol import messages as m
from duckweed.wire.codec import Codec


def objection(
    spec: RunSpec,
    history: RunHistory,
    open_: OpenRound | None,
    member: Member,
    question: m.Contribute,
    blob: bytes,
    rollouts: bytes,
    codec: Codec,
) -> str | None:
    """Why a contribution of a member cannot be taken; None if it can. open_: the round that is open; rollouts:
    what came behind the blob."""
    said = question.announcement
    if said.peer != member.index:
        return "a contribution in another peer's name"
    if not own(history.genesis_hash, member, question):
        elsewhere = "run" if spec.path is None else "path"
        return f"the signature does not fit the announcement, or was made for another {elsewhere}"
    if open_ is None or open_.closing or said.round != open_.number:
        return f"round {said.round} is not open"
    span = open_.assigned.get(member.index)
    if span is None or span.block != said.block:
        return f"block {said.block} is not assigned to this peer"
    if said.size != len(blob) or said.blob != blob_hash(blob):
        return "the blob is not the one announced"
    before = said.blob in history.recent_blobs
    if before and said.blob != empty_hash(codec, history.shared):
        return f"this blob was handed in before, in round {history.recent_blobs[said.blob]}"
    if (said.first, said.steps) != (span.first, span.steps):
        return f"steps {span.first} to {span.end} of the block are assigned to this peer"
    ahead = lead(spec.rounds.overlap, span.steps) if open_.number else 0
    if said.ahead not in (0, ahead):
        return f"{said.ahead} steps trained ahead, where 0 or {ahead} can be"
    return (
        _carried_objection(spec, history, said)
        or work.objection(spec, span.steps, said.tokens)
        or _rollouts_objection(spec, history, open_, question, rollouts)
        or _held_out_objection(spec, question)
    )


def _carried_objection(spec: RunSpec, history: RunHistory, said: Announcement) -> str | None:
    """Why what a peer says that it carries cannot be audited; None if it can. A peer that has lost it begins
    with nothing."""
    if not spec.audits:
        return None
    if not said.after:
        return "the hash of what this peer carries is missing, which the audits of this run need"
    if said.before not in ("", history.carried.get(said.peer, "")):
        return "this peer carries something else than its last contribution that was judged has left it"
    return None


def _rollouts_objection(
    spec: RunSpec, history: RunHistory, open_: OpenRound, question: m.Contribute, rollouts: bytes
) -> str | None:
    """Why these cannot be the rollouts of a contribution; None if they can. Their rewards are checked later
    (duckweed.swarm.coordinator.rewards)."""
    digest = question.announcement.rollouts
    if not work.writes(spec):
        return "rollouts in a run whose model writes nothing" if digest is not UNSET else None
    if digest is UNSET or question.written is UNSET:
        return "what the model wrote is missing, by which rewards are checked"
    if digest != blob_hash(rollouts):
        return "the rollouts are not those announced"
    learnt_from = {x.rollouts for x in open_.answers_for(question.announcement.peer)}
    if digest in history.recent_rollouts and digest not in learnt_from:
        return f"these rollouts were handed in before, in round {history.recent_rollouts[digest]}"
    return None


def writing_objection(
    spec: RunSpec,
    history: RunHistory,
    span: Span | None,
    member: Member,
    question: m.Wrote,
    rollouts: bytes,
) -> str | None:
    """Why the answers of a peer that only writes cannot be taken; None if they can. span: that it was given by the
    weights which it names; rollouts: the body."""
    said = question.writing
    if said.peer != member.index:
        return "answers in another peer's name"
    part = writing_part(history.genesis_hash, said)
    if said.signature or not verify(member.key, part, question.signature):
        return "the signature does not fit the answers, or was made for another run"
    if span != span_of(said):
        return (
            f"steps {said.first} to {said.first + said.steps} of block {said.block} are not assigned to this "
            f"peer in round {said.round}, or no more: the answers come too late"
        )
    if said.rollouts != blob_hash(rollouts):
        return "the answers are not those announced"
    if said.rollouts in history.recent_rollouts:
        return f"these rollouts were handed in before, in round {history.recent_rollouts[said.rollouts]}"
    return work.objection(spec, said.steps, said.tokens)


def own(genesis: str, member: Member, question: m.Contribute) -> bool:
    """Whether it is the member's own word, said for this run. genesis: hash of the run's first entry."""
    said = question.announcement
    return said.peer == member.index and verify(
        member.key, signed_part(genesis, said), question.signature
    )


def _held_out_objection(spec: RunSpec, question: m.Contribute) -> str | None:
    """Why this cannot be what a peer measured on held-out text; None if it can."""
    most = max(spec.rounds.evaluate_tokens, spec.model.sequence)
    if question.tokens > most:
        return f"a loss of {question.tokens} held-out tokens, where at most {most} are measured"
    if question.nats > LOSS * question.tokens:
        return "a held-out loss that no model has"
    return None
