"""Who of a round is left out: the filter of the merge rule `filtered`.

It knows nothing but inner products of the contributions' codes (duckweed.merge.gram) and how much work
each peer has done, and rests on one assumption: more than half of that work was done by honest peers. So a
thousand new keys decide nothing (duckweed.merge.trust); where all have done as much, a majority is one of
contributions. Honest contributions of a round agree with each other about equally well, because they follow
from the same weights; what harms cannot agree with them, since it has to point elsewhere. Four things put a
contribution out, in this order:

    agreement   it agrees less than 0.7 times as well with a majority as the median contribution does
                (less is asked of fewer inner steps, whose weight is smaller as well); or it is against
                the majority in one tensor
    length      it has far more nonzero codes than the median contribution (more is allowed to a peer that did
                not count in the round before)
    copies      of several that are closer to each other than honest ones are, the one counts that
                agrees best with the rest
    group       while one direction beside the common one holds more than chance and a tenth of the
                common step explain, the one that is farthest along it, down to a majority (the spectral
                idea is that of DnC, Shejwalkar and Houmansadr, NDSS 2021)

Bit for bit the same on every machine: inner products are exact, everything after them is one rounded
operation a value (IEEE) or arithmetic of integers; no sum of floats is formed whose order is open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

LENGTH = 1.25
"""Squared length, with tensors weighed alike, that a contribution may have of the median one."""
OUT_OF_STEP = 1.6
"""The same, of a peer that did not count in the round before. What one round leaves unsent comes with the next,
so that contributions are longer and shorter by turns, and that of such a peer is long when the others' are short."""
AGREEMENT = 0.7
"""Share of the usual agreement that a contribution must have."""
CLOSENESS = 0.75
"""Two contributions whose distance (1 - cosine) is below this share of the usual one are copies."""
CHANCE = 1.25
"""Times the usual noise that one direction may hold."""
ASIDE = 0.1
"""How far a group may move the merged step aside, of the length of what all have in common."""
GROUPS = 5
"""Of fewer contributions a minority is no group."""
DEVIATIONS = 4.0
"""Standard deviations that are put down to chance, where there are few values."""
FEW = 100
"""Tensors with fewer nonzero codes than about that weigh less than the others: their cosines are noise."""
_ONE = 1 << 20  # fixed point


class Compared(NamedTuple):
    """What is known of the contributions of a round, M of them over T tensors."""

    peers: Sequence[int]
    """Whose they are, [M]."""
    weights: Sequence[int]
    """Of each in the sum, [M]: in proportion to its inner steps."""
    names: Sequence[str]
    """Of the tensors, [T]."""
    sizes: Sequence[int]
    """How many values of each tensor the tables are over, [T]."""
    tables: Iterable[np.ndarray]
    """Inner products of the codes in each tensor, int64[M, M] each, [T]."""
    says: Sequence[int] = ()
    """What each has to say, [M]: the work that its peer has done. None, or zeros: all the same."""
    away: Sequence[bool] = ()
    """Whether its peer did not count in the round before, [M]. None: all did."""


class Judged(NamedTuple):
    """What a filter has found."""

    out: Mapping[int, str]
    """Peer -> why its contribution is left out."""
    agreement: Mapping[int, float] = MappingProxyType({})
    """Peer -> how well its contribution agrees with a majority, of what is usual; 0 of one that is left out
    for anything but its length. Empty: nothing is remembered of it (duckweed.merge.trust)."""


Filter = Callable[[Compared], Judged]


def find_outliers(compared: Compared) -> Judged:
    """Whose contribution is left out. Of fewer than three nothing can be said."""
    if len(compared.peers) < 3:
        return Judged({})
    says = says_of(compared)
    joint = np.zeros((len(compared.peers),) * 2, np.int64)
    against: dict[int, list[str]] = {}  # position -> tensors
    noise = total = 0.0
    count = 0  # of tensors that say anything
    for name, size, table in zip(compared.names, compared.sizes, compared.tables, strict=True):
        usual = _median(np.diagonal(table), says)
        if usual == 0:
            continue
        for position in _against(table, says):
            against.setdefault(position, []).append(name)
        joint += table * _ONE // (usual + FEW)
        count += 1
        weight = usual / (usual + FEW)
        noise += weight * weight / size
        total += weight
    if not total:
        return Judged({})
    here = {p: _in_tensors(names) for p, names in against.items() if 2 * len(names) <= count}
    return _decide(joint, math.sqrt(noise) / total, here, compared, says)


def says_of(compared: Compared) -> np.ndarray:
    """What each has to say, int64[M]; where nobody has done anything yet, all the same."""
    if not any(compared.says):
        return np.ones(len(compared.peers), np.int64)
    return np.array(compared.says, np.int64)


def _in_tensors(names: list[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"points against most of the others in {names[0]}{more}"


def _decide(
    joint: np.ndarray,
    noise: float,
    against: dict[int, str],
    compared: Compared,
    says: np.ndarray,
) -> Judged:
    count, whole_say = len(joint), int(says.sum())
    cosines = _cosines(joint)
    shared = _with_majority(cosines, says)
    usual = _usual(shared, says)
    # Fewer steps say less, and weigh less: agreement grows about with their square root, and with that
    # of the number of codes, which few steps leave few of.
    steps = np.array(compared.weights, np.float64) / _median(np.array(compared.weights), says)
    share = np.sqrt(np.minimum(steps, 1.0))
    lengths = np.diagonal(joint)
    sparse = np.sqrt(np.minimum(lengths / max(1, _median(lengths, says)), 1.0))
    part = share * np.where(share < 1, sparse, 1.0)
    least = AGREEMENT * usual * part - DEVIATIONS * noise
    out = dict(against)
    for p in np.flatnonzero(shared < least).tolist():
        both = f"({shared[p]:.2f}, usual {usual:.2f})"
        out.setdefault(p, f"agrees too little with most of the others {both}")
    kept = [p for p in range(count) if p not in out]
    usual_length = _median(lengths[kept], says[kept])
    away = compared.away or [False] * count
    long = [p for p in kept if lengths[p] > (OUT_OF_STEP if away[p] else LENGTH) * usual_length]
    for p in long:
        times = f"{lengths[p] / usual_length:.2f} times as many"
        out[p] = f"has {times} nonzero codes as the median contribution"
    kept = [p for p in kept if p not in out]
    close = CLOSENESS * (1 - usual) - DEVIATIONS * noise
    whole = [p for p in kept if share[p] == 1]  # what slow peers carry over is much alike
    for p, original in _copies(cosines, whole, shared, close).items():
        out[p] = (
            f"nearly a copy of what peer {compared.peers[original]} sent (agreement {cosines[p, original]:.2f}, "
            f"usual {usual:.2f})"
        )
    kept = [p for p in kept if p not in out]
    # Who has done little beside the others moves this table as little.
    worked = np.sqrt(np.minimum(says / max(1, _median(says, says)), 1.0))
    pull = part * worked
    weighed = cosines * pull[:, None] * pull[None, :]
    spread = (1 + math.sqrt(count) * noise) ** 2
    while count >= GROUPS:
        aside = 1.5 * ASIDE**2 * len(kept) * max(usual, 0.0)
        first = _first(weighed[np.ix_(kept, kept)], CHANCE * (1 - usual) * spread + aside)
        if first is None:
            break
        rest = kept[:first] + kept[first + 1 :]
        if 2 * int(says[rest].sum()) <= whole_say:
            break
        out[kept[first]] = "one of a group that pulls away from the others"
        kept = rest
    asked = usual * part  # nothing of an empty contribution
    agreement = np.divide(shared, asked, out=np.ones(count), where=asked > 0)
    agreement[[p for p in out if p not in long]] = 0.0
    return Judged(
        {compared.peers[p]: out[p] for p in minority(out, shared, says)},
        {peer: float(agreement[p]) for p, peer in enumerate(compared.peers)},
    )


def minority(out: Iterable[int], shared: np.ndarray, says: np.ndarray) -> list[int]:
    """Of those that are to be left out the worst, who have less than half of the say together."""
    total, left = int(says.sum()), []
    gone = 0
    for p in sorted(out, key=lambda p: (float(shared[p]), p)):
        gone += int(says[p])
        if 2 * gone >= total:
            break
        left.append(p)
    return left


def _median(values: np.ndarray, says: np.ndarray) -> int:
    """The lower middle one of integers, each counted as often as its holder has a say."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(says[order])
    return int(values[order[int(np.argmax(2 * reached >= reached[-1]))]])


def _usual(shared: np.ndarray, says: np.ndarray) -> float:
    """The least that those have who make up the best majority."""
    order = np.argsort(-shared, kind="stable")
    reached = np.cumsum(says[order])
    return float(shared[order[int(np.argmax(2 * reached > reached[-1]))]])


def _cosines(table: np.ndarray) -> np.ndarray:
    """f64[M, M] of inner products; 0 with an empty contribution."""
    length = np.sqrt(np.diagonal(table).astype(np.float64))
    both = length[:, None] * length[None, :]
    return np.divide(table.astype(np.float64), both, out=np.zeros(table.shape), where=both > 0)


def _with_majority(cosines: np.ndarray, says: np.ndarray) -> np.ndarray:
    """How well each agrees with those others that make a majority with it and agree best with it: the least
    of their cosines."""
    total = int(says.sum())
    shared = np.ones(len(cosines))
    for p, row in enumerate(cosines):
        order = np.argsort(-row, kind="stable")
        order = order[order != p]
        # Who alone has done more than half of all work is measured by most of the rest.
        alone = 2 * int(says[p]) > total
        own, whole = (0, total - int(says[p])) if alone else (int(says[p]), total)
        enough = 2 * (own + np.cumsum(says[order])) > whole
        shared[p] = row[order[int(np.argmax(enough))]]
    return shared


def _against(table: np.ndarray, says: np.ndarray) -> list[int]:
    """Who points against a majority in one tensor, beyond chance, where the others agree."""
    shared = _with_majority(_cosines(table), says)
    chance = DEVIATIONS / math.sqrt(max(1, _median(np.diagonal(table), says)))
    return [int(p) for p in np.flatnonzero(shared < -chance)]


def _copies(
    cosines: np.ndarray, kept: Sequence[int], shared: np.ndarray, least: float
) -> dict[int, int]:
    """Those that are closer than `least` to one that agrees better with the majority -> that one."""
    ordered = sorted(kept, key=lambda p: (-shared[p], p))
    counted: list[int] = []
    out = {}
    for p in ordered:
        near = next((q for q in counted if 1 - cosines[p, q] < least), None)
        if near is None:
            counted.append(p)
        else:
            out[p] = near
    return out


def _first(cosines: np.ndarray, limit: float) -> int | None:
    """Who is farthest along the direction that holds most of what the contributions are beside their
    common one; None if it holds no more than `limit`. Power iteration in integers."""
    matrix = np.rint(cosines * _ONE).astype(np.int64)
    mean = matrix.sum(1) // len(matrix)
    if length := int(mean.sum()) // len(matrix):
        matrix -= mean[:, None] * mean[None, :] // length
    vector = matrix[int(np.argmax(np.diagonal(matrix)))].copy()
    for _ in range(100):
        largest = int(np.abs(vector).max())
        if largest == 0:
            return None
        vector = vector * _ONE // largest
        vector = matrix @ vector // _ONE
    value = [int(x) for x in vector]
    along = sum(x * int(y) for x, y in zip(value, matrix @ vector, strict=True))
    square = sum(x * x for x in value)
    if not square or along <= int(limit * _ONE) * square:
        return None
    return int(np.argmax(np.abs(vector)))
