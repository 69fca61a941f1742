"""Successive halving."""

import math

import pytest

from duckweed.evolve.decide.halving import Rung, rungs, survivors


def test_rungs_halve_and_double() -> None:
    assert rungs(8) == [Rung(8, 0.25, 4), Rung(4, 0.5, 2), Rung(2, 1.0, 1)]
    assert rungs(5, 2) == [Rung(5, 0.5, 3), Rung(3, 1.0, 2)]
    assert [r.share for r in rungs(64, least=0.1)][:3] == [0.1, 0.1, 0.125]
    assert rungs(3, 3) == []


def test_survivors_are_the_best_and_never_diverged() -> None:
    assert survivors([3.0, 1.0, math.nan, 2.0, math.inf], 2) == [1, 3]
    assert survivors([math.nan, 2.0], 2) == [1]
    assert survivors([1.0, 1.0], 1) == [0]


@pytest.mark.parametrize("settings", [(0, 1, 2), (3, 4, 2), (3, 0, 2), (8, 1, 1)])
def test_settings_out_of_range(settings: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="halving needs"):
        rungs(*settings)
