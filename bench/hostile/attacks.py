"""What hostile peers hand in: codes -1, 0, 1 like everybody's, made with knowledge of all honest ones.

Formulas with mu and sigma, mean and deviation of the honest codes per value: ALIE (arXiv 1902.06156),
inner product (1903.03936), min-max and min-sum (NDSS 2021, Shejwalkar and Houmansadr), mimic
(2006.09365). A real number between -1 and 1 becomes a code by chance, so that its mean is that number.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from bench.hostile.swarm import PlainIntegerCodec, View

Handed = tuple[list[np.ndarray], list[list[float]]]
"""Codes int8[P] and announced sizes [T] of each hostile peer."""
Attack = Callable[[View], Handed]


def _usual_sizes(view: View) -> list[list[float]]:
    middle = np.median(np.array(view.sizes), axis=0).tolist()
    return [middle] * view.count


def _chance(x: np.ndarray, view: View) -> np.ndarray:
    """Codes whose mean is x, f32[P] clipped to -1..1."""
    x = np.clip(x, -1, 1)
    return (np.sign(x) * (view.rng.random(len(x)) < np.abs(x))).astype(np.int8)


def _like(view: View) -> np.ndarray:
    """Codes that look honest: each value from an honest peer chosen by chance, int8[P]."""
    chosen = view.rng.integers(len(view.honest), size=view.honest.shape[1])
    return view.honest[chosen, np.arange(view.honest.shape[1])]


def _against(view: View) -> np.ndarray:
    """The direction of the greatest harm, -1, 0, 1: against the sum of the honest."""
    return -np.sign(view.honest.sum(0, dtype=np.int32)).astype(np.int8)


def _noise(view: View, density: float) -> np.ndarray:
    shape = view.honest.shape[1]
    flags = view.rng.random(shape) < density
    return (flags * view.rng.choice(np.array([-1, 1], np.int8), shape)).astype(np.int8)


def _jitter(codes: np.ndarray, view: View, share: float = 0.002) -> np.ndarray:
    """A few values changed, so that no two are the same bytes."""
    out, hit = codes.copy(), view.rng.random(len(codes)) < share
    out[hit] = view.rng.integers(-1, 2, int(hit.sum()))
    return out


def _each(make: Callable[[View], np.ndarray]) -> Attack:
    def attack(view: View) -> Handed:
        return [_jitter(make(view), view) for _ in range(view.count)], _usual_sizes(view)

    return attack


def _moments(view: View) -> tuple[np.ndarray, np.ndarray]:
    x = view.honest.astype(np.float32)
    return x.mean(0), x.std(0)


def sign_flip(view: View) -> Handed:
    """Every value at its maximum against the honest sum."""
    return _each(_against)(view)


def own_flip(view: View) -> Handed:
    """Honest-looking codes, turned round."""
    return _each(lambda v: -_like(v))(view)


def random_codes(view: View) -> Handed:
    """By chance, as dense as the honest."""
    density = float(np.count_nonzero(view.honest)) / view.honest.size
    return _each(lambda v: _noise(v, density))(view)


def dense_codes(view: View) -> Handed:
    """By chance, none zero."""
    return _each(lambda v: _noise(v, 1.0))(view)


def drift(view: View) -> Handed:
    """All in one direction, the same in all rounds, none zero."""
    fixed = np.random.default_rng(5).choice(np.array([-1, 1], np.int8), view.honest.shape[1])
    return _each(lambda v: fixed)(view)


def alie(view: View) -> Handed:
    """mu - z sigma, with z of the formula, at least 1."""
    mu, sigma = _moments(view)
    n, f = len(view.honest) + view.count, view.count
    share = (n - f - (n // 2 + 1 - f)) / (n - f)
    z = max(1.0, NormalDist().inv_cdf(min(0.99, share)))
    return _each(lambda v: _chance(mu - z * sigma, v))(view)


def inner_product(view: View) -> Handed:
    """- mu / 2."""
    mu, _ = _moments(view)
    return _each(lambda v: _chance(-0.5 * mu, v))(view)


def _distances(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.square(others.astype(np.float32) - x.astype(np.float32)).sum(1)


def _largest(view: View, fits: Callable[[np.ndarray], bool]) -> Handed:
    """mu - g mu with the largest g that fits. Each hostile peer rounds in its own way."""
    mu, _ = _moments(view)
    low, high = 0.0, 20.0
    for _ in range(8):
        middle = (low + high) / 2
        if fits(_chance(mu - middle * mu, view)):
            low = middle
        else:
            high = middle
    return _each(lambda v: _chance(mu - low * mu, v))(view)


def min_max(view: View) -> Handed:
    """As far against mu as the two honest peers that are farthest apart."""
    far = max(float(_distances(x, view.honest).max()) for x in view.honest)
    return _largest(view, lambda x: float(_distances(x, view.honest).max()) <= far)


def min_sum(view: View) -> Handed:
    """The same with the sum of the squared distances."""
    far = max(float(_distances(x, view.honest).sum()) for x in view.honest)
    return _largest(view, lambda x: float(_distances(x, view.honest).sum()) <= far)


def mimic(view: View) -> Handed:
    """All nearly copy one honest peer."""
    return _each(lambda v: _jitter(v.honest[0], v, 0.02))(view)


def lazy(view: View) -> Handed:
    """Zeros, with a few codes so that nothing looks copied."""
    return _each(lambda v: np.zeros(v.honest.shape[1], np.int8))(view)


def stale(view: View) -> Handed:
    """Honest work of ten rounds ago, or the oldest that there is."""
    old = view.past[-10:][0] if view.past else view.honest
    return [_jitter(old[p % len(old)], view) for p in range(view.count)], _usual_sizes(view)


def label_flip(view: View) -> Handed:
    """Honest training, on text whose next bytes are wrong."""
    assert view.own is not None
    return list(view.own), _usual_sizes(view)


label_flip.trains = "flipped"  # type: ignore[attr-defined]


def short(view: View) -> Handed:
    """No attack: honest peers on slow machines, which are given a quarter of the steps."""
    assert view.own is not None
    return list(view.own), _usual_sizes(view)


short.trains = "short"  # type: ignore[attr-defined]


def head(view: View) -> Handed:
    """Honest-looking but for the head of the model, which is dense against the honest sum."""
    part = view.codec.layout.slices()[view.codec.layout.names.index("lm_head.weight")]

    def make(v: View) -> np.ndarray:
        codes = _like(v)
        codes[part] = _against(v)[part]
        return codes

    return _each(make)(view)


def sizes(view: View) -> Handed:
    """Honest-looking codes, with announced sizes a million times too large."""
    codes, said = _each(_like)(view)
    return codes, [[1e6 * value for value in one] for one in said]


def hidden(view: View) -> Handed:
    """Honest-looking but for every seventh value, which is against the honest sum."""

    def make(v: View) -> np.ndarray:
        codes, hit = _like(v), v.rng.random(v.honest.shape[1]) < 1 / 7
        codes[hit] = _against(v)[hit]
        return codes

    return _each(make)(view)


ATTACKS: dict[str, Attack] = {
    "sign-flip": sign_flip,
    "own-flip": own_flip,
    "random": random_codes,
    "dense": dense_codes,
    "drift": drift,
    "alie": alie,
    "inner-product": inner_product,
    "min-max": min_max,
    "min-sum": min_sum,
    "mimic": mimic,
    "lazy": lazy,
    "stale": stale,
    "label-flip": label_flip,
    "head": head,
    "sizes": sizes,
    "hidden": hidden,
    "short": short,
}

__all__ = ["ATTACKS", "Attack", "Handed", "PlainIntegerCodec"]
