"""What rare, compressed and late exchange costs, counted in extra tokens.

A gap in loss becomes a factor on tokens through the scaling law L = E + A/N^a + B/D^b (Besiroglu et
al. 2024, arXiv 2404.10102, a replication of Hoffmann et al. 2022, arXiv 2203.15556), solved at the
size where the gap was measured with 20 tokens a parameter. The factor, not the gap, is then carried
to other sizes: a gap in total loss would be amplified without end where the reducible part is small.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from duckweed.plan.inputs import table

Array = NDArray[np.float64]

E, A, ALPHA, B, BETA = 1.8172, 482.01, 0.3478, 2085.43, 0.3658
PER_PARAMETER = 20.0
"""Tokens per parameter of a compute-optimal run (Hoffmann et al. 2022)."""
WIRE_MEASURED = 1e9
"""Size at which measured gaps of compression are read as tokens (inferred; they were measured on
smaller models, where the same gap is worth fewer tokens)."""


def loss(parameters: float | Array, tokens: float | Array) -> Array:
    """Expected loss in nats a token."""
    return np.asarray(E + A / np.asarray(parameters) ** ALPHA + B / np.asarray(tokens) ** BETA)


def tokens_for(gap: float | Array, parameters: float = WIRE_MEASURED) -> Array:
    """Factor on tokens that a relative loss gap is worth at a size with 20 tokens a parameter:
    (1 + gap L / (B/D^b)) ^ (1/b). gap: fraction of total loss, e.g. 0.01."""
    tokens = PER_PARAMETER * parameters
    data = B / tokens**BETA
    return np.asarray((1 + np.asarray(gap) * loss(parameters, tokens) / data) ** (1 / BETA))


@cache
def fitted() -> tuple[float, float]:
    """(c, p) of the exponent e = c N^p such that replicas cost a factor M^e in tokens at H = 30:
    least squares on log e over the rows of tables/replicas.csv."""
    sizes, exponents = [], []
    for row in table.rows("replicas"):
        size, replicas = float(row["parameters"]), float(row["replicas"])
        factor = tokens_for(float(row["loss_gap_percent"]) / 100, size)
        sizes.append(np.log(size))
        exponents.append(np.log(np.log(factor) / np.log(replicas)))
    power, constant = np.polyfit(sizes, exponents, 1)
    return float(np.exp(constant)), float(power)


def exponent(parameters: float) -> float:
    c, p = fitted()
    return c * parameters**p


def replicas(parameters: float, count: Array, steps: Array, factor: float | Array = 1.0) -> Array:
    """Factor on tokens of `count` replicas that exchange every `steps` inner steps: M^(e ln H / ln 30).
    The dependence on H is that of the MIRI simulator and is not validated; H = 1 costs nothing."""
    power = exponent(parameters) * factor * np.log(np.maximum(steps, 1)) / np.log(30.0)
    return np.asarray(np.maximum(count, 1.0) ** power)


def critical_batch(flop: float) -> float:
    """Tokens per step beyond which more data per step is wasted: 0.2920 C^0.3271 (DeepSeek LLM,
    arXiv 2401.02954); the batch DeepSeek-V3 used is twice that."""
    return float(0.2920 * flop**0.3271)


def batch(tokens: Array, critical: float) -> Array:
    """Factor on tokens of a batch above the critical one: (1 + B/Bc) / 2, 1 below (McCandlish et al.
    2018, arXiv 1812.06162, relative to a run at Bc)."""
    return np.asarray(np.maximum(1.0, 0.5 * (1 + tokens / critical)))
