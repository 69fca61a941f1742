"""Which proposals are worth a confirmation: successive halving over full, re-stretched schedules.

Jamieson & Talwalkar 2016 (Non-stochastic best arm identification): at each rung every candidate
is run once more at a larger budget, and the better part goes on. Nothing is accepted here and no
score of a rung is reported as a gain: the best of many noisy scores is too good to be true.
"""

import math
from collections.abc import Sequence

import msgspec


class Rung(msgspec.Struct, frozen=True):
    """One round of halving."""

    candidates: int  # how many are run
    share: float  # of the campaign's reference budget; the schedule is stretched to it
    keep: int  # how many go on


def rungs(candidates: int, keep: int = 1, eta: int = 2, least: float = 0.25) -> list[Rung]:
    """Rungs from `candidates` down to `keep`, each keeping 1/eta; budgets grow by eta from rung to
    rung, end at 1 and never fall below `least`."""
    if not 1 <= keep <= candidates or eta < 2:
        raise ValueError(
            f"halving needs 1 <= keep <= candidates, got {keep}, {candidates}, eta {eta}"
        )
    counts = [candidates]
    while counts[-1] > keep:
        counts.append(max(keep, math.ceil(counts[-1] / eta)))
    steps = len(counts) - 1
    return [
        Rung(counts[i], max(least, float(eta) ** (i + 1 - steps)), counts[i + 1])
        for i in range(steps)
    ]


def survivors(losses: Sequence[float], keep: int) -> list[int]:
    """Places of the `keep` smallest losses, best first; nan and inf (diverged) never go on."""
    finite = [i for i, loss in enumerate(losses) if math.isfinite(loss)]
    return sorted(finite, key=lambda i: (losses[i], i))[:keep]
