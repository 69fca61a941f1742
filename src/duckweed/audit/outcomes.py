"""How the audits that peers do for a run end, and what follows: pure rules, which the leader applies while the
run goes on, and anybody to its ledger afterwards. Needs no torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from duckweed.ledger.entries import AuditEntry, Outcome, Verdict

AGREE = 4
"""Verdicts that must be the same, once one has found fault; all, where fewer can be asked, and at least two.
With four, four peers of ten that lie together put out an honest one in 1.5 of 100 audits of one, three in none
(bench/trust/duty.py)."""
LOSSES = 3
"""Times that a peer may fail to show its work, of its last WINDOW audits: the last of them puts it out."""
WINDOW = 20

Audits = Iterable[tuple[int, AuditEntry]]
"""The round of a contribution, and how its audit ended; in the order of the ledger."""


def decided(
    verdicts: Mapping[int, Verdict], keepers: int, more: bool
) -> Literal["passed", "failed", "disputed"] | None:
    """What the verdicts come to; None while another auditor is to be asked. A first verdict that finds no fault
    is enough. keepers: how many could be asked from the beginning. more: whether one is left to be asked."""
    found = [one.fits for one in verdicts.values()]
    needed = max(2, min(AGREE, keepers))
    if found == [True] or found.count(True) >= needed:
        return "passed"
    if found.count(False) >= needed:
        return "failed"
    return None if more else "disputed"


def put_out(
    round_: int,
    peer: int,
    outcome: Outcome,
    verdicts: Mapping[int, Verdict],
    at: int,
    before: Audits,
) -> list[int]:
    """Who is put out by an audit: a peer whose work was not what it said; one that could not show its work
    for the third time; auditors who found fault where AGREE others found none. round_, peer: of the
    contribution. at: rounds that were closed when the audit ended. before: the audits that ended before."""
    if outcome == "failed":
        return [peer]
    if outcome == "passed" and sum(one.fits for one in verdicts.values()) >= AGREE:
        return sorted(auditor for auditor, one in verdicts.items() if not one.fits)
    if outcome == "unshown":
        ended = [(n, one) for n, one in before if one.peer == peer]
        ended.append((round_, AuditEntry(peer, outcome, 0, at)))
        return [peer] if losses(ended) >= LOSSES else []
    return []


def losses(audits: Sequence[tuple[int, AuditEntry]]) -> int:
    """How often a peer has lost what it must be able to show. What it handed in before a loss became known
    belongs to that loss: a disk that dies takes several contributions with it. audits: of this peer alone."""
    count, known = 0, 0
    for round_, one in audits[-WINDOW:]:
        if one.outcome == "unshown" and round_ >= known:
            count, known = count + 1, one.at
    return count


def unfounded(audits: Audits) -> Iterator[str]:
    """What the leader wrote of the audits and does not follow from the verdicts, in words."""
    before: list[tuple[int, AuditEntry]] = []
    for round_, one in audits:
        name = f"audit of round {round_}, peer {one.peer}"
        fits = Counter(verdict.fits for verdict in one.verdicts.values())
        if one.peer in one.verdicts:
            yield f"{name}: the peer audited itself"
        if one.outcome == "passed" and not fits[True]:
            yield f"{name}: passed without an auditor who found no fault"
        if one.outcome == "failed" and (fits[False] < 2 or fits[True] > 1):
            yield f"{name}: failed by {fits[False]} of {fits.total()} auditors"
        wanted = put_out(round_, one.peer, one.outcome, one.verdicts, one.at, before)
        if sorted(one.out) != wanted:
            yield f"{name}: puts out {one.out}, where {wanted} follows"
        before.append((round_, one))


def told(audits: Audits) -> str:
    """One sentence, "" where there was none."""
    ended = list(audits)
    if not ended:
        return ""
    counts = Counter(one.outcome for _, one in ended)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    out = [f"peer {peer} (round {round_})" for round_, one in ended for peer in one.out]
    return f"peers audited {len(ended)} contributions: {outcomes}" + (
        f"; put out: {', '.join(out)}" if out else ""
    )
