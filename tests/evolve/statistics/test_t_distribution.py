"""Student's t against tables and against its density."""

import math

import numpy as np
import pytest

from duckweed.evolve.statistics.t_distribution import t_cdf, t_quantile


@pytest.mark.parametrize(
    ("p", "dof", "value"),  # Abramowitz & Stegun, table 26.10
    [(0.975, 1, 12.706), (0.975, 5, 2.571), (0.99, 10, 2.764), (0.995, 27, 2.771), (0.95, 120, 1.658)],
)  # fmt: skip
def test_t_quantiles_of_the_table(p: float, dof: int, value: float) -> None:
    assert t_quantile(p, dof) == pytest.approx(value, abs=6e-4)
    assert t_quantile(1 - p, dof) == pytest.approx(-value, abs=6e-4)


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 7, 16, 33])
def test_t_cdf_is_the_integral_of_the_density(dof: int) -> None:
    x = np.linspace(-6, 6, 60_001)
    log = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(dof * math.pi)
    density = np.exp(log - (dof + 1) / 2 * np.log1p(x * x / dof))
    area = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    got = t_cdf(x, dof)
    assert np.abs(got - got[0] - area).max() < 1e-8
    assert t_cdf(0.0, dof) == 0.5
