"""Student's t and chi-square with whole degrees of freedom: distribution functions and quantiles.

The t distribution is the finite sum of Abramowitz & Stegun 26.7.3 and 26.7.4, chi-square the
series of the incomplete gamma function (Press et al., Numerical Recipes, section 6.2); quantiles
are bisections. Absolute error below 1e-13.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def t_cdf(x: npt.ArrayLike, dof: int) -> Array:
    """P(T <= x) for Student's t with `dof` degrees of freedom; x of any shape."""
    t = np.asarray(x, dtype=np.float64) / math.sqrt(dof)
    square = 1.0 / (1.0 + t * t)  # cos^2 of the angle whose tangent is t
    odd = dof % 2
    # even: 1 + 1/2 cos^2 (1 + 3/4 cos^2 (...));  odd: 1 + 2/3 cos^2 (1 + 4/5 cos^2 (...))
    series = np.ones_like(t)
    for k in range(dof - 2, 1, -2):
        series = 1.0 + (k - 1) / k * square * series
    sine = t * np.sqrt(square)
    if odd:
        inside = np.arctan(t) + (sine * np.sqrt(square) * series if dof > 1 else 0.0)
        return 0.5 + inside / math.pi
    return 0.5 + 0.5 * sine * series


@lru_cache(4096)
def t_quantile(p: float, dof: int) -> float:
    """The x with P(T <= x) = p, 0 < p < 1."""
    if p < 0.5:
        return -t_quantile(1.0 - p, dof)
    high = 2.0
    while float(t_cdf(high, dof)) < p:
        high *= 2.0
    return _bisect(lambda x: float(t_cdf(x, dof)) - p, 0.0, high)


@lru_cache(4096)
def chi2_quantile(p: float, dof: int) -> float:
    """The x with P(chi-square <= x) = p, 0 < p < 1."""
    high = dof + 10.0
    while _gamma(dof / 2, high / 2) < p:
        high *= 2.0
    return _bisect(lambda x: _gamma(dof / 2, x / 2) - p, 0.0, high)


def _bisect(rising: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return 0.5 * (low + high)


def _gamma(a: float, x: float) -> float:
    """Regularised lower incomplete gamma P(a, x), by its series."""
    if x <= 0:
        return 0.0
    term = total = 1.0 / a
    k = a
    while term > total * 1e-17:
        k += 1.0
        term *= x / k
        total += term
    return min(1.0, total * math.exp(a * math.log(x) - x - math.lgamma(a)))
