"""How the contributions of a round become one pseudo-gradient. Pure functions, bit for bit the same
everywhere.

With w_i the integer weight of peer i (its share of the tokens) and x_i what it sent:

    mean          g = sum w_i x_i / sum w_i
    contributors  g = sum w_i x_i / sum of the w_i that sent the coordinate (SparseLoCo, 2508.15706)
    bounded       per tensor: g = median_i |x_i| * mean / |mean|   (after the radial-directional
                  average of Decoupled DiLoCo, 2604.21428, with the median for its mean, so that
                  neither churn nor one huge contribution changes the size of the step)
    filtered      the mean of what the filter leaves in (duckweed.merge.filter), of integer codes
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from duckweed.merge.filter import Filter, find_outliers
from duckweed.run.registry import RULES
from duckweed.wire.exact import median
from duckweed.wire.total import CODES, NORMS, SENDERS, FloatTotal, Total

WEIGHT_LIMIT = 16


@dataclass(frozen=True)
class Rule:
    """A merge rule: from the total of a round to the pseudo-gradient f32[P]."""

    merge: Callable[..., np.ndarray]
    """Given the total, which the codec makes: a duckweed.wire.total.Total."""
    needs: frozenset[str] = frozenset()
    """What it asks of the total beyond the mean (names of duckweed.wire.total). Wires that do not give
    it are refused with the specification."""
    filter: Filter | None = None
    """Who of a round is left out before the others are merged; it needs CODES."""

    def __call__(self, total: Total) -> np.ndarray:
        return self.merge(total)


def rule(*needs: str) -> Callable[[Callable[..., np.ndarray]], Rule]:
    """Decorator: make a merge rule of a function."""
    return lambda merge: Rule(merge, frozenset(needs))


def register_rule(
    name: str,
    merge: Callable[..., np.ndarray],
    needs: Iterable[str] = (),
    filter: Filter | None = None,
) -> None:
    """Make a rule known by its name, for `merge.rule` in run.toml. Raises ValueError if it is taken."""
    RULES.register(name, Rule(merge, frozenset(needs), filter))


def find_rule(name: str) -> Rule:
    """The rule of that name. Raises KeyError."""
    return RULES.find(name)


@rule()
def mean(total: Total) -> np.ndarray:
    return total.mean()


@rule(SENDERS)
def contributors(total: FloatTotal) -> np.ndarray:
    senders = total.senders
    return np.divide(total.sum, senders, out=total.sum.copy(), where=senders > 0)


@rule(NORMS)
def bounded(total: Total) -> np.ndarray:
    return total.at_lengths([median(norms) for norms in total.norms()])


filtered = Rule(mean.merge, frozenset({CODES}), find_outliers)


def weights_of(tokens: Sequence[int]) -> list[int]:
    """Small integer weights in proportion to tokens: 1 each when all did equal work, at most 16,
    so that a weighted sum of integer codes stays a sum of small integers."""
    most = max([1, *tokens])
    weights = [max(1, round(WEIGHT_LIMIT * count / most)) for count in tokens]
    divisor = max(1, math.gcd(*weights))
    return [weight // divisor for weight in weights]
