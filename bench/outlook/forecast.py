"""Figures of the forecast: speed, coverage of the intervals, agreement with published numbers.

    python -m bench.outlook.forecast [--quick]

Writes bench/results/forecast.json and prints a Markdown table. Times are CPU seconds of one core.
"""

import argparse
import datetime as dt
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.outlook.published import blow_up, catch_up_years, closed_form, constant_law, doublings
from duckweed.forecast.data.table import own_facts
from duckweed.forecast.law import NO_CEILING
from duckweed.forecast.outcome import outcome
from duckweed.forecast.race import run
from duckweed.forecast.scenario import PRESETS, Actor, Scenario, draw
from duckweed.forecast.trend import Series, TrendError, all_series, fit

HERE = Path(__file__).parents[1]
AS_OF = dt.date(2026, 11, 23)


def timed(work: Callable[[], object], times: int) -> float:
    """The fastest of several runs, in CPU seconds: other programs only ever add to it."""
    best = math.inf
    for _ in range(times):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def speed(quick: bool) -> dict[str, float]:
    """A year of the three-actor race (leader, rival, collective with leak), and all the fits."""
    samples = 10_000 if quick else 100_000
    drawn = draw(PRESETS["collective"], samples)
    times = 1 if quick else 3
    race = timed(lambda: run(drawn.law, drawn.actors, [1.0], drawn.events), times)
    series = all_series(own_facts(AS_OF)).values()

    def refit() -> None:
        for points in series:
            try:
                fit(points, "mixed", 10_000)
            except TrendError:
                continue

    return {
        "race samples": samples, "race seconds": race,
        "trends": len(series), "refits each": 10_000, "refit seconds": timed(refit, times),
    }  # fmt: skip


def coverage(cases: int) -> list[dict[str, Any]]:
    """How often the 80 % interval holds the truth: growth, level in 2028, date of crossing."""
    rows = []
    for points in (5, 6, 8, 12, 20, 40):
        for noise in ("normal", "laplace"):
            rng, hits = np.random.default_rng(points), np.zeros(3)
            truth = (0.7, 24 + 0.7 * 5, 2023 + 3 / 0.7)
            for case in range(cases):
                t = np.sort(rng.uniform(2020, 2026, points))
                error = (
                    rng.standard_normal(points) if noise == "normal"
                    else rng.laplace(0, math.sqrt(0.5), points)
                )  # fmt: skip
                y = 24 + 0.7 * (t - 2023) + 0.35 * error
                trend = fit(
                    Series(key="s", label="s", unit="", t=t.tolist(), y=y.tolist(), names=[]),
                    "steady", 500, seed=case,
                )  # fmt: skip
                at = (27.0 - trend.level) / trend.rate + trend.origin
                level = trend.at(np.array([2028.0]))[:, 0]
                for i, draws in enumerate((trend.rate, level, at)):
                    low, high = np.quantile(draws, [0.1, 0.9])
                    hits[i] += low <= truth[i] <= high
            growth, height, date = (hits / cases).tolist()
            rows.append({"points": points, "noise": noise, "cases": cases, "growth": growth,
                         "level": height, "crossing": date})  # fmt: skip
    return rows


def agreement(quick: bool) -> dict[str, Any]:
    """Published figures against ours."""
    result = outcome(PRESETS["forethought"], 5000 if quick else 30_000)
    follower = result.followers[0]
    months = np.array([1, 3, 6, 12, 24, 48])
    published = np.array([0.34, 1.11, 2.31, 3.94, 5.05, 5.71])
    times, levels = doublings(8, 1.2, 9, 0.3)
    drawn = draw(Scenario("t", "", [Actor("a"), Actor("b", lag=1.0)], {
        "automation_start": 1.0, "returns": 1.2}), 1)  # fmt: skip
    path = run(drawn.law, drawn.actors, list(months / 12)).level[:, 0, 0] / 8
    k = math.log(2) * 0.3 * 0.5
    until = np.linspace(0.1, 0.99, 10) * blow_up(32.0, k)
    free = constant_law(2.0, 8.0, 0.3, NO_CEILING)
    ours = run(free, drawn.actors, list(until), step=0.02).level[:, 0, 0]
    return {
        "3 years within one (published about 0.60)": result.compressed[0],
        "10 years within one (published about 0.20)": result.compressed[1],
        "one month becomes 1 year (0.392)": follower.chance[0],
        "one month becomes 3 years (0.274)": follower.chance[1],
        "central path, largest relative error": float(np.abs(path / published - 1).max()),
        "doubling by doubling, largest relative error": float(
            np.abs(np.interp(months / 12, times, levels) / 8 / published - 1).max()
        ),
        "closed form, largest relative error": float(
            np.abs(ours / closed_form(32.0, k, until) - 1).max()
        ),
        "Epoch's years to parity (5.5)": catch_up_years(2000, 20, 5),
        "peers' lag after a year, months (1)": 12 * float(peers_lag()),
    }


def peers_lag() -> float:
    drawn = draw(PRESETS["peers"], 1)
    return float(run(drawn.law, drawn.actors, [1.0]).lag[-1, 1, 0])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="fewer samples and cases")
    quick = options.parse_args().quick
    body = {
        "as_of": AS_OF.isoformat(), "numpy": np.__version__, "machine": platform.machine(),
        "quick": quick, "speed": speed(quick), "agreement": agreement(quick),
        "coverage": coverage(100 if quick else 1000),
    }  # fmt: skip
    if not quick:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results/forecast.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")
    print("| figure | value |\n|---|---|")
    for part in ("speed", "agreement"):
        for name, value in body[part].items():
            print(f"| {name} | {value:.4g} |")
    print("\n| points | noise | growth | level | crossing |\n|---|---|---|---|---|")
    for row in body["coverage"]:
        shares = " | ".join(f"{100 * row[key]:.1f} %" for key in ("growth", "level", "crossing"))
        print(f"| {row['points']} | {row['noise']} | {shares} |")


if __name__ == "__main__":
    main()
