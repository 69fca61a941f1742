"""What is remembered of a peer from round to round, and what its next contribution weighs for it.

Three integers of each peer stand in the ledger's entry of every round that it handed in for, and follow from
the entry before and from what was handed in. So anybody computes them again, and the next leader goes on
with them:

    work    tokens of its contributions that counted
    lack    by how much its contributions agreed less than usual with most of the others: the exponential
            mean over rounds, 0 none to ONE all. What was left out by the filter lacked everything, unless it
            was only too long, or its peer did not count in the round before: a newcomer's, and that of a peer
            that was away, agree with the others' after some rounds only
    last    the last round in which one counted

The first two act in three ways. The majority by which contributions are judged is one of work
(duckweed.merge.filter): keys that have done nothing decide nothing. A contribution weighs RIPE-ths until its peer has done RIPE whole
contributions. And it weighs less where the lack goes beyond what chance explains: whole up to TOLERATED, then
less, nothing from LIMIT on. Harm that is small in each round and never ends is found so, which no single round
shows. The third tells the filter whose contributions are out of step with the others'.

Everything is integers, or one rounded operation a value.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from msgspec.structs import replace

from duckweed.ledger.entries import AuditEntry, Closed, Standing
from duckweed.merge.filter import Compared, Judged, minority, says_of

ONE = 1 << 16  # fixed point
MEMORY = 10
"""Rounds over which the lack is averaged: each new one counts a tenth."""
TOLERATED = 0.05
"""Lack that costs nothing."""
LIMIT = 0.15
"""Lack from which on nothing counts."""
RIPE = 4
"""Whole contributions until a peer's weigh as much as anybody's."""
_STEPS = 16


NEW = Standing()
Memory = Mapping[int, Standing]
"""Peer -> its standing; of a peer that is not in it nothing is known."""
NOTHING: Memory = {}


def judge(
    before: Memory, compared: Compared, found: Judged, block: int
) -> tuple[dict[int, str], dict[int, Standing]]:
    """Peer -> why its contribution is left out, by the filter or for what is remembered of it; and what is
    remembered after this round, in which no work counts yet. block: tokens of a whole contribution. Those
    who are left out have less than half of the say, as with the filter alone."""
    away = {peer for peer, away in zip(compared.peers, compared.away, strict=False) if away}
    standing = {peer: before.get(peer, NEW) for peer in found.agreement}
    for peer in standing.keys() - (away & found.out.keys()):
        standing[peer] = _after(standing[peer], peer, found)
    out = dict(found.out)
    for peer, one in standing.items():
        if not credit(one, block):
            share = one.lack / ONE
            reason = (
                f"agreed {share:.0%} less than usual with most of the others over the last rounds"
            )
            out.setdefault(peer, reason)
    if len(out) > len(found.out):
        worst = np.array([found.agreement[peer] for peer in compared.peers])
        where = {peer: p for p, peer in enumerate(compared.peers)}
        kept = minority([where[peer] for peer in out], worst, says_of(compared))
        out = {compared.peers[p]: out[compared.peers[p]] for p in kept}
    return out, standing


def _after(known: Standing, peer: int, found: Judged) -> Standing:
    lack = min(max(1.0 - found.agreement[peer], 0.0), 1.0)
    return replace(known, lack=known.lack + (round(lack * ONE) - known.lack) // MEMORY)


def credit(standing: Standing, block: int) -> int:
    """What a token of a peer's weighs, 0 to RIPE * 16. block: tokens of a whole contribution."""
    ripe = min(RIPE, 1 + standing.work // max(1, block))
    low, high = round(TOLERATED * ONE), round(LIMIT * ONE)
    left = min(max(high - standing.lack, 0), high - low)
    return ripe * (_STEPS * left // (high - low))


def counted(standing: Memory, tokens: Mapping[int, int], number: int) -> dict[int, Standing]:
    """What is remembered once a round has closed. tokens: peer -> tokens of its contribution, if it counted;
    number: of the round."""
    return {
        peer: Standing(one.work + tokens[peer], one.lack, number) if peer in tokens else one
        for peer, one in standing.items()
    }


def recall(memory: dict[int, Standing], entry: Closed | AuditEntry) -> None:
    """Take a closed round, or an audit, into what is remembered. To audit is work like any other. A peer that
    cannot show its work has none to its name any more; one that is put out is believed nothing."""
    if isinstance(entry, Closed):
        if entry.standing is not msgspec.UNSET:
            memory.update(entry.standing)
        return
    for auditor in entry.verdicts:
        known = memory.get(auditor, NEW)
        memory[auditor] = replace(known, work=known.work + entry.tokens)
    if entry.outcome in ("unshown", "absent"):
        memory[entry.peer] = replace(memory.get(entry.peer, NEW), work=0)
    for peer in entry.out:
        memory[peer] = Standing(0, ONE)
