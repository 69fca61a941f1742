"""Attackers that know the filter, what is remembered of them, and all honest codes. `Adaptive` searches
without gradients for the greatest harm that is let through in this round; `Patient` does as much harm in each
round as never costs it weight; `Returning` stays away from every second round, after which a contribution may be longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.hostile.attacks import Handed, _against, _jitter, _like, _usual_sizes
from bench.hostile.swarm import View
from duckweed.ledger.entries import Standing
from duckweed.merge.filter import Compared, find_outliers
from duckweed.merge.gram import Gram
from duckweed.merge.trust import NEW, ONE, TOLERATED, credit, judge

TRIES = 8
Absent = tuple[list[np.ndarray | None], list[list[float]]]
"""As Handed, with None for who hands in nothing."""


class Plan(NamedTuple):
    """What a hostile contribution is mixed of; the rest is honest-looking."""

    against: float
    """Share of the values that are against the honest sum."""
    zero: float
    """Share that is zero."""
    aside: float
    """Share that follows a fixed direction, the same in all rounds."""
    common: float
    """Share of all these that the hostile peers choose alike."""


class Adaptive:
    """Begins each round with the best plan of the round before, and changes it."""

    def __init__(self) -> None:
        self.plan = Plan(0.2, 0.1, 0.1, 0.5)

    def __call__(self, view: View) -> Handed:
        return self._search(view, range(len(view.honest), len(view.honest) + view.count), ())

    def _search(self, view: View, ours: Sequence[int], away: Sequence[int]) -> Handed:
        """The codes of the hostile peers `ours`, all that hand in. away: of these, who did not count in the round
        before."""
        best, codes = -np.inf, [_jitter(_like(view), view) for _ in ours]
        mu = view.honest.mean(0, dtype=np.float32)
        aside = _fixed(view)
        for number in range(TRIES):
            plan = self.plan if number == 0 else _near(self.plan, view, 0.1 if number % 3 else 0.3)
            tried = _made(plan, view, aside, len(ours))
            harm = _harm(tried, weights(view, tried, ours, away), mu, aside)
            if harm > best:
                best, codes, self.plan = harm, tried, plan
        return codes, _usual_sizes(view)


class Returning(Adaptive):
    """The same, of peers that hand in every second round. groups: 1 where all do so in the same rounds, 2 where
    they take turns."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def __call__(self, view: View) -> Absent:
        first = len(view.honest)
        here = [p for p in range(view.count) if (view.round + p % self.groups) % 2 == 0]
        ours = [first + p for p in here]
        away = [p for p in ours if view.memory.get(p, NEW).last != view.round - 1]
        codes: list[np.ndarray | None] = [None] * view.count
        made, sizes = self._search(view, ours, away) if ours else ([], _usual_sizes(view))
        for place, one in zip(here, made, strict=True):
            codes[place] = one
        return codes, sizes


class Patient:
    """Against the honest sum in as many values as leave its agreement tolerated, and honest-looking in
    all others."""

    def __call__(self, view: View) -> Handed:
        low, high = 0.0, 0.5
        codes = [_jitter(_like(view), view) for _ in range(view.count)]
        for _ in range(6):
            share = (low + high) / 2
            tried = [_partly(view, share) for _ in range(view.count)]
            out, standing = _judged(view, tried)
            honest = len(view.honest)
            found = [standing[p].lack for p in range(honest, honest + view.count)]
            if not out & set(range(honest, honest + view.count)) and max(found) < TOLERATED * ONE:
                low, codes = share, tried
            else:
                high = share
        return codes, _usual_sizes(view)


def _partly(view: View, share: float) -> np.ndarray:
    codes, hit = _like(view), view.rng.random(view.honest.shape[1]) < share
    codes[hit] = _against(view)[hit]
    return codes


def _judged(
    view: View, tried: list[np.ndarray], ours: Sequence[int] | None = None, away: Sequence[int] = ()
) -> tuple[set[int], dict[int, Standing]]:
    """Who would be left out of this round, and what would be remembered of each. ours: whose `tried` are; None: of
    all hostile peers."""
    count, layout = len(view.honest) + len(tried), view.codec.layout
    peers = [*range(len(view.honest)), *(range(len(view.honest), count) if ours is None else ours)]
    gram = Gram(layout, [f"{p:064x}" for p in range(count)])
    for codes in [*view.honest, *tried]:
        gram.add(codes)
    says = [view.memory.get(p, NEW).work for p in peers]
    compared = Compared(
        peers, [1] * count, layout.names, gram.sizes, list(gram.tables()), says, [p in away for p in peers]
    )  # fmt: skip
    out, standing = judge(view.memory, compared, find_outliers(compared), 1)
    return set(out), standing


def weights(
    view: View, tried: list[np.ndarray], ours: Sequence[int] | None = None, away: Sequence[int] = ()
) -> np.ndarray:
    """What each contribution would weigh, the honest first, [h + f]."""
    out, standing = _judged(view, tried, ours, away)
    remembers = bool(view.memory) or view.round == 0
    return np.array(
        [0 if p in out else credit(one, 1) if remembers else 1 for p, one in standing.items()],
        np.float32,
    )


def _fixed(view: View) -> np.ndarray:
    return np.random.default_rng(5).choice(np.array([-1, 1], np.int8), view.honest.shape[1])


def _near(plan: Plan, view: View, width: float) -> Plan:
    moved = np.clip(np.array(plan) + view.rng.normal(0, width, len(plan)), 0, 1)
    return Plan(*moved.tolist())


def _made(plan: Plan, view: View, aside: np.ndarray, count: int) -> list[np.ndarray]:
    size = view.honest.shape[1]
    alike, ours = view.rng.random(size) < plan.common, view.rng.random(size)
    found = []
    for _ in range(count):
        draw = np.where(alike, ours, view.rng.random(size))
        codes = _like(view)
        edges = np.cumsum([plan.against, plan.zero, plan.aside])
        codes = np.where(draw < edges[0], _against(view), codes)
        codes = np.where((draw >= edges[0]) & (draw < edges[1]), np.int8(0), codes)
        codes = np.where((draw >= edges[1]) & (draw < edges[2]), aside, codes)
        found.append(codes.astype(np.int8))
    return found


def _harm(tried: list[np.ndarray], weights: np.ndarray, mu: np.ndarray, aside: np.ndarray) -> float:
    """How far the merged step is from that of the honest alone, of its length: what it lost along that
    step, plus what it gained aside. mu: mean of the honest."""
    if not weights.any():
        return 0.0
    honest = len(weights) - len(tried)
    ours = sum(float(w) * codes for w, codes in zip(weights[honest:], tried, strict=True))
    merged = (float(weights[:honest].sum()) * mu + ours) / float(weights.sum())
    length = float(np.linalg.norm(mu))
    lost = 1 - float(merged @ mu) / length**2
    gained = float(merged @ aside) / float(np.linalg.norm(aside)) / length
    return lost + max(0.0, gained)
