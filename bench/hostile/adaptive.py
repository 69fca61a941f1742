"""An attacker that knows the filter and all honest codes, and searches without gradients for the greatest
harm that it lets through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bench.hostile.attacks import Handed, _against, _jitter, _like, _usual_sizes
from bench.hostile.swarm import View
from duckweed.merge.filter import Compared, find_outliers
from duckweed.merge.gram import Gram

TRIES = 8


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
        best, codes = -np.inf, [_jitter(_like(view), view) for _ in range(view.count)]
        mu = view.honest.mean(0, dtype=np.float32)
        aside = _fixed(view)
        for number in range(TRIES):
            plan = self.plan if number == 0 else _near(self.plan, view, 0.1 if number % 3 else 0.3)
            tried = _made(plan, view, aside)
            through = [c for p, c in enumerate(tried) if p not in self._out(view, tried)]
            harm = _harm(through, mu, aside, len(view.honest))
            if harm > best:
                best, codes, self.plan = harm, tried, plan
        return codes, _usual_sizes(view)

    def _out(self, view: View, tried: list[np.ndarray]) -> set[int]:
        """Which of the hostile peers the filter leaves out, counted from 0."""
        honest = len(view.honest)
        layout = view.codec.layout
        gram = Gram(layout, [f"{p:064x}" for p in range(honest + len(tried))])
        for codes in [*view.honest, *tried]:
            gram.add(codes)
        peers = list(range(honest + len(tried)))
        out = find_outliers(
            Compared(peers, [1] * len(peers), layout.names, gram.sizes, gram.tables())
        )
        return {p - honest for p in out if p >= honest}


def _fixed(view: View) -> np.ndarray:
    return np.random.default_rng(5).choice(np.array([-1, 1], np.int8), view.honest.shape[1])


def _near(plan: Plan, view: View, width: float) -> Plan:
    moved = np.clip(np.array(plan) + view.rng.normal(0, width, len(plan)), 0, 1)
    return Plan(*moved.tolist())


def _made(plan: Plan, view: View, aside: np.ndarray) -> list[np.ndarray]:
    size = view.honest.shape[1]
    alike, ours = view.rng.random(size) < plan.common, view.rng.random(size)
    found = []
    for _ in range(view.count):
        draw = np.where(alike, ours, view.rng.random(size))
        codes = _like(view)
        edges = np.cumsum([plan.against, plan.zero, plan.aside])
        codes = np.where(draw < edges[0], _against(view), codes)
        codes = np.where((draw >= edges[0]) & (draw < edges[1]), np.int8(0), codes)
        codes = np.where((draw >= edges[1]) & (draw < edges[2]), aside, codes)
        found.append(codes.astype(np.int8))
    return found


def _harm(through: list[np.ndarray], mu: np.ndarray, aside: np.ndarray, honest: int) -> float:
    """How far the merged step is from that of the honest alone, of its length: what it lost along that
    step, plus what it gained aside."""
    if not through:
        return 0.0
    ours = np.sum(through, axis=0, dtype=np.float32)
    merged = (honest * mu + ours) / (honest + len(through))
    length = float(np.linalg.norm(mu))
    lost = 1 - float(merged @ mu) / length**2
    gained = float(merged @ aside) / float(np.linalg.norm(aside)) / length
    return lost + max(0.0, gained)
