"""A round closed again: from the contributions that were handed in to the update and the state after it."""

import contextlib
from collections.abc import Iterator

import msgspec

from duckweed.audit.claims import CheckedBlobs, Claims, States
from duckweed.audit.findings import Finding, NotHere, Outcome
from duckweed.ledger.entries import Closed
from duckweed.merge.round import nothing
from duckweed.merge.trunk import split_of
from duckweed.round.round_record import announcements
from duckweed.run.family import name_of
from duckweed.run.folder import RunFolder

SIZES = "the common scales for the next round: of the sizes that peers announce the ledger has hashes only"


def audit_round(claims: Claims, states: States, round_: int) -> Iterator[Finding]:
    """Close a round of the ledger again, by the functions that closed it, and compare bit by bit: which
    contributions count, their weights, the update ("merge"); the state after it ("state")."""
    try:
        closed = _closed_again(claims, states, round_)
    except NotHere as error:
        reason = f"{error}; without all that was handed in the sum cannot be formed again"
        yield Finding("merge", Outcome.MISSING, round_, detail=reason)
        yield Finding("state", Outcome.MISSING, round_, detail="the merge could not be computed")
        return
    except (ValueError, ArithmeticError) as error:
        reason = f"what the ledger names cannot be added up: {error}"
        yield Finding("merge", Outcome.DIFFERS, round_, detail=reason)
        yield Finding("state", Outcome.MISSING, round_, detail="the merge could not be computed")
        return
    yield _merge(claims, closed)
    yield _state(claims, states, closed)


def _closed_again(claims: Claims, states: States, round_: int) -> Closed:
    """Raises NotHere; ValueError or ArithmeticError for numbers that no run has."""
    entry = claims.rounds[round_]
    handed = announcements(entry, claims.spec.block_steps, len(claims.layout.names))
    if handed:
        closed = states.engine.close(claims.shared(round_), handed, claims.memory(round_))
    elif claims.spec.in_common:
        closed = nothing(claims.spec, round_, claims.shared(round_))
    else:
        closed = msgspec.structs.replace(
            entry.closed, accepted=[], blobs=[], weights=[], update=None
        )
    return msgspec.structs.replace(_with_trunk(claims, states, closed), shared=entry.closed.shared)


def _with_trunk(claims: Claims, states: States, closed: Closed) -> Closed:
    """With what the other paths gave to the tensors that all hold in common, as the ledger names it. Raises NotHere."""
    claimed = claims.rounds[closed.round].closed.trunk
    if closed.trunk is msgspec.UNSET or claimed is msgspec.UNSET:
        return closed
    around = claims.folder.path.parent
    others = [CheckedBlobs(RunFolder(around / name_of(path))) for path in claimed.paths]

    def read(digest: str) -> bytes:
        for blobs in (states.blobs, *others):
            with contextlib.suppress(NotHere):
                return blobs.read(digest)
        raise NotHere(
            f"what another path gave to the trunk, {digest[:16]}, is not here (looked for beside {claims.folder.path})"
        )

    split = split_of(claims.spec, claims.layout)
    assert split
    sizes = [[0.0] * len(split.trunk.numbers)]  # they decide the next scales only
    given = claimed.paths | closed.trunk.paths
    return states.engine.join(claims.shared(closed.round), closed, given, sizes, read)


def _merge(claims: Claims, closed: Closed) -> Finding:
    claimed, handed = claims.rounds[closed.round].closed, claims.rounds[closed.round].contributions
    wrong = []
    if closed.accepted != claimed.accepted:
        why = [f"peer {p}: {reason}" for p, reason in closed.rejected.items()]
        wrong.append(
            f"the ledger counts the work of peers {_listed(claimed.accepted)}; of what was handed in that "
            f"of {_listed(closed.accepted)} counts" + (f" ({'; '.join(why)})" if why else "")
        )
    elif closed.blobs != claimed.blobs:
        wrong.append("the blobs that the ledger counts are not those that were handed in")
    elif closed.weights != claimed.weights:
        wrong.append(
            f"weights {claimed.weights} in the ledger, {closed.weights} from what was handed in"
        )
    if closed.standing != claimed.standing:
        wrong.append("what is remembered of the peers is not what follows from the rounds")
    if closed.update != claimed.update:
        wrong.append("the sum is another one than the ledger names")
    if closed.trunk != claimed.trunk:
        wrong.append("what all paths hold in common got another sum than the ledger names")
    counted = f"{len(claimed.accepted)} of {len(handed)} contributions count"
    weights = f"weights {_listed(claimed.weights)}"
    added = "added up again" if claimed.updates() else "each checked again; this wire has no sum"
    return Finding(
        "merge",
        Outcome.DIFFERS if wrong else Outcome.SAME,
        closed.round,
        detail="; ".join(wrong) or f"{counted}, {weights}, {added}",
        claimed=claimed.update or "",
        recomputed=closed.update or "",
    )


def _state(claims: Claims, states: States, closed: Closed) -> Finding:
    round_, claimed = closed.round, claims.agreed.get(closed.round + 1, "")
    if not claimed:
        reason = "the peers have not agreed on the state after it: the ledger has no hash of one"
        return Finding("state", Outcome.MISSING, round_, detail=reason)
    try:
        after = states.after(closed)
    except NotHere as error:
        return Finding("state", Outcome.MISSING, round_, detail=str(error), claimed=claimed)
    except (ValueError, ArithmeticError) as error:
        detail = f"no state follows from what was handed in: {error}"
        return Finding("state", Outcome.DIFFERS, round_, detail=detail, claimed=claimed)
    digest = after.hash()
    same = digest == claimed
    numbers = f"{claims.layout.total:,} weights, outer momentum and scales"
    return Finding(
        "state",
        Outcome.SAME if same else Outcome.DIFFERS,
        round_,
        detail=numbers if same else f"{numbers} have another hash than the one that was agreed on",
        claimed=claimed,
        recomputed=digest,
    )


def _listed(numbers: list[int]) -> str:
    return " ".join(map(str, numbers)) or "none"
