"""How the audits of a run that the peers did themselves went, in words. Needs no torch."""

from collections import Counter
from collections.abc import Iterable

from duckweed.ledger.entries import AuditEntry


def told(audits: Iterable[tuple[int, AuditEntry]]) -> str:
    """One sentence, "" where there was none. audits: the round of the contribution, and how its audit ended."""
    ended = list(audits)
    if not ended:
        return ""
    counts = Counter(one.outcome for _, one in ended)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    out = [f"peer {peer} (round {round_})" for round_, one in ended for peer in one.out]
    return f"peers audited {len(ended)} contributions: {outcomes}" + (
        f"; put out: {', '.join(out)}" if out else ""
    )
