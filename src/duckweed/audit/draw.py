"""Which contributions of a closed round are done again, and by whom: drawn from a beacon that no peer knew
before they were handed in, so that anybody draws the same again. Needs no torch."""

from collections.abc import Iterable, Mapping

from blake3 import blake3

LONGEST = 12
"""Rounds after which an audit is given up: until then its peer keeps what it has to show, and its auditors the
state that the contribution follows on."""


def _number(*words: object) -> int:
    return int.from_bytes(blake3("\n".join(map(str, words)).encode()).digest(length=16), "little")


def drawn(beacon: str, peers: Iterable[int], share: float) -> list[int]:
    """The peers whose contributions are audited, each with probability `share`. beacon: hash of the round's
    entry in the ledger; peers: all whose next contribution follows from this one (Closed.carrying)."""
    least = int(share * (1 << 64)) << 64
    return [peer for peer in peers if _number(beacon, "audit", peer) < least]


def auditors(beacon: str, peer: int, work: Mapping[int, int]) -> list[int]:
    """Who audits a peer, in the order in which they are asked: drawn without replacement in proportion to the
    work that they have done, so that many keys are drawn no more often than one. work: peer -> its tokens
    that counted, of those who can be drawn."""
    left = {p: 1 + tokens for p, tokens in sorted(work.items()) if p != peer}
    order: list[int] = []
    while left:
        ticket = _number(beacon, "auditor", peer, len(order)) % sum(left.values())
        for chosen, tokens in left.items():
            if ticket < tokens:
                order.append(chosen)
                break
            ticket -= tokens
        del left[order[-1]]
    return order
