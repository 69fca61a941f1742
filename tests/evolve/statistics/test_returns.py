"""Returns to research: calibrated where there are data, and the prior where there are not."""

import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.evolve.statistics.returns import Point, ReturnsError, encode, returns
from duckweed.forecast.data.measured import read_returns

R0 = 1e15


def path(
    rng: np.random.Generator, r: float, n: int, whole: float = 20, r0: float = R0, se: float = 0.03
) -> list[Point]:
    """n jumps of exponential size at random in ln effort, up to `whole` times r0."""
    effort = math.log1p(whole)
    spent = r0 * np.expm1(np.sort(rng.random(n)) * effort)
    y = np.cumsum(rng.exponential(r * effort / n, n)) + se * rng.standard_normal(n)
    return [Point(float(s), float(v), se) for s, v in zip(spent, y, strict=True)]


def levelling(rng: np.random.Generator, n: int) -> list[Point]:
    spent = R0 * np.linspace(0, 40, n + 1)[1:]
    y = 1.2 * (1 - np.exp(-spent / (4 * R0))) + 0.02 * rng.standard_normal(n)
    return [Point(float(s), float(v), 0.02) for s, v in zip(spent, y, strict=True)]


def test_nothing_accepted_is_the_prior() -> None:
    found = returns([], R0)
    assert found.r.middle == pytest.approx(found.prior.middle)
    assert found.r.low == pytest.approx(found.prior.low, rel=0.03)
    assert found.r.high == pytest.approx(found.prior.high, rel=0.03)
    assert found.prior.low == pytest.approx(1.2 * (0.4 / 3.6) ** (0.5 * 1.96 / 1.2816), rel=0.01)
    assert (found.mostly_prior, found.prefers, found.trend, found.accepted) == (True, "neither", None, 0)  # fmt: skip


def test_few_changes_are_mostly_prior_and_never_silly() -> None:
    rng = np.random.default_rng(0)
    for gain in (-0.3, 0.0, 0.05, 3.0):
        found = returns([Point(5 * R0, gain, 0.05)], R0)
        assert found.mostly_prior
        assert 0.02 < found.r.low < found.r.middle < found.r.high < 30
        assert found.r.high / found.r.low > 2
        assert found.elpd_se == math.inf
        assert found.prefers == "neither"
    for n in (3, 9):
        assert returns(path(rng, 0.7, n), R0).mostly_prior


def test_intervals_hold_the_truth_when_truth_comes_from_the_prior() -> None:
    """Also when the caller's R0 is off as much as its prior says."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(120):
        r = 1.2 * math.exp(0.857 * rng.standard_normal())
        r0 = R0 * 3 ** rng.standard_normal()
        found = returns(path(rng, r, 10, 30 * R0 / r0, r0), R0)
        held.append(found.r.low <= r <= found.r.high)
    assert 0.90 <= np.mean(held) <= 0.99


def test_many_changes_find_r_and_narrow_the_prior() -> None:
    found = returns(path(np.random.default_rng(2), 0.6, 16), R0)
    assert not found.mostly_prior
    assert found.r.low < 0.6 < found.r.high
    assert found.r.high / found.r.low < 0.3 * found.prior.high / found.prior.low
    assert found.trend is not None
    assert found.trend.early > found.trend.late > 0
    assert found.trend.marginal.low < 0.6 / (21 * R0) < found.trend.marginal.high


def test_the_data_choose_between_the_laws() -> None:
    rng = np.random.default_rng(3)
    flat = [returns(levelling(rng, 14), R0) for _ in range(20)]
    assert sum(f.prefers == "saturating" for f in flat) >= 6
    assert not any(f.prefers == "power" for f in flat)
    assert np.mean([f.limit.low < math.exp(1.2) < f.limit.high for f in flat]) >= 0.85
    assert all(f.reached.middle > 0.9 for f in flat)
    assert all(f.trend is not None and f.trend.verdict == "falling" for f in flat)
    power = [returns(path(rng, 0.7, 14), R0) for _ in range(20)]
    assert sum(f.prefers == "saturating" for f in power) <= 1


def test_known_tricks_can_be_taken_out() -> None:
    points = path(np.random.default_rng(4), 0.8, 12)
    half = [Point(p.spent, p.log_gain, p.se, "known" if i < 6 else "adapted") for i, p in enumerate(points)]  # fmt: skip
    found = returns(half, R0)
    assert found.without_known is not None
    assert found.without_known.middle < 0.9 * found.r.middle
    assert found.r == returns(points, R0).r
    assert returns(points, R0).without_known == found.r
    known = [Point(p.spent, p.log_gain, p.se, "known") for p in points]
    assert returns(known, R0).without_known is None


def test_units_of_compute_do_not_matter() -> None:
    points = path(np.random.default_rng(5), 0.8, 8)
    scaled = [Point(1e6 * p.spent, p.log_gain, p.se) for p in points]
    plain, other = returns(points, R0), returns(scaled, 1e6 * R0)
    assert other.r.middle == pytest.approx(plain.r.middle)
    assert other.elpd_difference == pytest.approx(plain.elpd_difference)
    assert plain.trend is not None
    assert other.trend is not None
    assert 1e12 * other.trend.change == pytest.approx(plain.trend.change)


@pytest.mark.parametrize(
    ("points", "r0", "says"),
    [
        ([], 0.0, "r0 must be"),
        ([], math.nan, "r0 must be"),
        ([Point(0.0, 0.1, 0.1)], R0, "generation 1: spent must grow"),
        ([Point(2.0, 0.1, 0.1), Point(1.0, 0.1, 0.1)], R0, "generation 2: spent must grow"),
        ([Point(1.0, math.nan, 0.1)], R0, "finite gain"),
        ([Point(1.0, 0.1, 0.0)], R0, "positive se"),
    ],
)
def test_points_that_cannot_be(points: list[Point], r0: float, says: str) -> None:
    with pytest.raises(ReturnsError, match=says):
        returns(points, r0)


def test_the_forecast_reads_what_a_campaign_writes(tmp_path: Path) -> None:
    found = returns(path(np.random.default_rng(6), 0.9, 3), R0)
    file = tmp_path / "returns.json"
    file.write_bytes(encode(found, "evolve/first"))
    read = read_returns(tmp_path)
    assert read == read_returns(file)
    assert (read.mean, read.low, read.high) == (found.r.middle, found.r.low, found.r.high)
    assert (read.accepted, read.mostly_prior, read.source) == (3, True, "evolve/first")
    explained = CliRunner().invoke(
        app, ["forecast", "--race", "essay", "--returns", str(tmp_path), "--explain", "--json"]
    )
    assert explained.exit_code == 0
    assert (
        f"{found.r.middle:g} ({found.r.low:g} to {found.r.high:g}, 95% interval)"
        in explained.stdout
    )
    assert "3 accepted change(s): mostly the prior" in explained.stderr
    file.write_text('{"mean": 1, "low": 2, "high": 3}')
    wrong = CliRunner().invoke(app, ["forecast", "--race", "essay", "--returns", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "low <= central <= high" in wrong.stderr
