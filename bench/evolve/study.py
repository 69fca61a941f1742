"""What the figures of evolve are worth: `python -m bench.evolve.study` (about two minutes).

Writes bench/results/evolve-study.json and prints the tables of docs/evolve-statistics.md.

campaigns: whole simulated campaigns beside the greedy rule, in several worlds.
tests: false accepts of sequential tests with a look after every pair, when the noise is unknown.
pairs: smallest effect that is found with 80 % power.
multiplier: coverage of the multiplier's interval and of the percentile bootstrap.
bends: the multiplier where loss curves bend or gains fade, and that of one straight line as before.
returns: coverage of r, and which law is preferred when the truth is known.
"""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.evolve.simulation import Plan, World, final_runs, study
from duckweed.evolve.statistics.multiplier import MultiplierError, Run, fit
from duckweed.evolve.statistics.returns import Point, returns
from duckweed.evolve.statistics.sequential import SPREAD, run, smallest_effect
from duckweed.evolve.statistics.t_distribution import Array, t_cdf, t_quantile

RESULT = Path(__file__).parents[1] / "results" / "evolve-study.json"
WORLDS = {
    "plain: 20 % help by 12 %, noise 5 %": World(),
    "noisy: noise 15 %": World(noise=0.15),
    "scarce: 5 % help by 5 %, half harm": World(helpful=0.05, harmful=0.5, effect=0.05),
    "nothing helps": World(helpful=0.0, harmful=0.5),
    "nulls only": World(helpful=0.0, harmful=0.0),
    "t noise, 5 degrees of freedom": World(tails=5),
    "children twice as noisy": World(child_noise=2.0),
    "bent: a power law of exponent 0.3": World(bend=0.3),
}
BENDS = {
    "a line": World(),
    "power law, exponent 0.1": World(bend=0.1),
    "power law, exponent 0.3": World(bend=0.3),
    "power law, exponent 0.6": World(bend=0.6),
    "slope grows by half over 16 times the compute": World(bend=-math.log(1.5) / math.log(16)),
    "a line, m falls as C^-0.2": World(fade=0.2),
    "slope grows by half, m falls as C^-0.2": World(bend=-math.log(1.5) / math.log(16), fade=0.2),
}
ALPHA, MOST, STREAMS, VAULTS = 0.05, 24, 40_000, 200


def campaigns() -> list[dict[str, Any]]:
    return [
        {"world": name, **msgspec.to_builtins(study(world, Plan(), 500))}
        for name, world in WORLDS.items()
    ]


def false_accepts() -> list[dict[str, Any]]:
    """Share of null streams that each test accepts within MOST pairs, looking after every pair."""
    rng = np.random.default_rng(1)
    normal = rng.standard_normal((STREAMS, MOST))
    streams = {
        "normal": normal,
        "child twice as noisy": normal * math.sqrt(2.5),  # sd of a pair against the pilot's
        "t, 5 degrees": rng.standard_t(5, (STREAMS, MOST)) * math.sqrt(0.6),
        "skewed (exponential - 1)": rng.exponential(1, (STREAMS, MOST)) - 1,
        "skewed (1 - exponential)": 1 - rng.exponential(1, (STREAMS, MOST)),
    }
    pilot = np.sqrt((rng.standard_normal((STREAMS, 16)) ** 2).mean(axis=1))
    small = np.sqrt((rng.standard_normal((STREAMS, 4)) ** 2).mean(axis=1))
    return [
        {
            "noise": name,
            "e-process": float(run(x, ALPHA, MOST).accepted.mean()),
            "plugged-in sd, pilot of 16": plugged(x / pilot[:, None]),
            "plugged-in sd, pilot of 4": plugged(x / small[:, None]),
            "t-test at every look": peeking(x),
        }
        for name, x in streams.items()
    ]  # fmt: skip


def plugged(x: Array) -> float:
    """The e-process of a normal mean with sd 1: what an sd that is taken as known gives."""
    n = np.arange(1, MOST + 1)
    q = SPREAD**2 / (1 + n * SPREAD**2)
    total = np.cumsum(x, axis=1)
    # the normal distribution function, as t with very many degrees of freedom
    tail = t_cdf(total * np.sqrt(q), 400)
    log = math.log(2) - 0.5 * np.log1p(n * SPREAD**2) + 0.5 * q * total**2
    e = log + np.log(np.maximum(tail, 1e-300))
    return float((e >= -math.log(ALPHA)).any(axis=1).mean())


def peeking(x: Array) -> float:
    wrong = np.zeros(len(x), bool)
    for n in range(2, MOST + 1):
        seen = x[:, :n]
        t = seen.mean(axis=1) / (seen.std(axis=1, ddof=1) / math.sqrt(n))
        wrong |= t > t_quantile(1 - ALPHA, n - 1)
    return float(wrong.mean())


def effects() -> list[dict[str, Any]]:
    """Smallest effect in sd of a paired difference, 80 % power."""
    return [
        {"alpha": alpha, **{f"{most} pairs": smallest_effect(1.0, alpha, most) for most in (8, 12, 16, 24, 32)}}
        for alpha in (0.05, 0.01, 0.05 / 40)
    ]  # fmt: skip


def multiplier() -> list[dict[str, Any]]:
    """Coverage of 95 % intervals of ln m; run noise 20 % of compute, m = 1.3, three budgets."""
    rng = np.random.default_rng(2)
    budgets, slope, m, trials = (1e12, 2e12, 4e12), 0.15, 1.3, 2000
    x = np.log(budgets) - np.log(budgets).mean()
    rows = []
    for seeds in (3, 5, 8):
        held = boot = 0
        for _ in range(trials):
            y = rng.standard_normal((3, 2, seeds)) * 0.03
            y -= slope * x[:, None, None]
            y[:, 1] -= slope * math.log(m)
            sample = [
                Run(budgets[b], float(y[b, c, s]), bool(c))
                for b in range(3) for c in range(2) for s in range(seeds)
            ]  # fmt: skip
            found = fit(sample)
            held += found.low <= m <= found.high  # at equal budgets Fieller's, but for the bend
            pick = rng.integers(0, seeds, (400, 3, 2, seeds))
            mean = np.take_along_axis(np.broadcast_to(y, pick.shape), pick, axis=3).mean(axis=3)
            steep = -np.einsum("bij,i->b", mean, x) / (2 * (x**2).sum())
            ratio = (mean[:, :, 0] - mean[:, :, 1]).mean(axis=1) / steep
            low, high = np.quantile(ratio, [0.025, 0.975])
            boot += bool(low <= math.log(m) <= high)
        rows.append({"seeds": seeds, "ours": held / trials, "bootstrap": boot / trials})
    return rows


def bends() -> list[dict[str, Any]]:
    """Multipliers of 1.3, 2, 4.5 and 7 at the middle budget, from comparisons of five seeds."""
    rng, rows = np.random.default_rng(4), []
    for name, world in BENDS.items():
        for noise in (0.05, 0.2):
            now, before, widths = [], [], []
            for m in (1.3, 2.0, 4.5, 7.0):
                some = [
                    final_runs(msgspec.structs.replace(world, noise=noise), 5, math.log(m), rng)
                    for _ in range(VAULTS)
                ]
                now.append(np.array([interval(runs) for runs in some]) - math.log(m))
                before.append(np.array([line(runs) for runs in some]) - math.log(m))
                widths.append(float(np.nanmedian(now[-1][:, 2] - now[-1][:, 1])) / 2)
            rows.append({
                "world": name, "noise": noise, **said("ours", now), "half width at 4.5": widths[2],
                "no figure": int(np.isnan(np.concatenate(now)[:, 0]).sum()), **said("one line", before),
            })  # fmt: skip
    return rows


def said(who: str, errors: list[Array]) -> dict[str, float]:
    """Share of the intervals that hold the truth, and the median error where it is largest."""
    all_of = np.concatenate(errors)
    all_of = all_of[~np.isnan(all_of[:, 0])]
    medians = [float(np.nanmedian(e[:, 0])) for e in errors]
    return {
        f"{who}: holds": float(((all_of[:, 1] <= 0) & (all_of[:, 2] >= 0)).mean()),
        f"{who}: bias": max(medians, key=abs),
    }


def interval(runs: list[Run]) -> tuple[float, float, float]:
    """ln m as reported and its interval; nan where there is none."""
    try:
        r = fit(runs).reported
    except MultiplierError:
        return math.nan, math.nan, math.nan
    return math.log(r.m), math.log(max(r.low, 1e-9)), math.log(r.high)


def line(runs: list[Run]) -> tuple[float, float, float]:
    """ln m and Fieller's interval from the budgets that both recipes ran at, supposing one straight
    line: what a comparison reported before it ran generation 0 longer."""
    most = max(run.budget for run in runs if run.child)
    runs = [run for run in runs if run.budget <= most]
    x = np.log([run.budget for run in runs])
    child = np.array([float(run.child) for run in runs])
    y = np.array([run.loss for run in runs])
    design = np.stack([np.ones_like(x), x.mean() - x, -child], 1)
    inverse = np.linalg.inv(design.T @ design)
    _, slope, gain = beta = inverse @ design.T @ y
    rest = y - design @ beta
    dof = x.size - 3
    cov = inverse * float(rest @ rest) / dof * t_quantile(0.975, dof) ** 2
    a, b, c = slope**2 - cov[1, 1], slope * gain - cov[1, 2], gain**2 - cov[2, 2]
    if a <= 0:
        return math.nan, math.nan, math.nan
    root = math.sqrt(max(b * b - a * c, 0.0))
    return float(gain / slope), float((b - root) / a), float((b + root) / a)


def jumps(rng: np.random.Generator, r: float, n: int, r0: float) -> list[Point]:
    """A power law in n jumps of exponential size, up to 30 times 1e15 FLOP, errors of 0.03."""
    effort = math.log1p(30e15 / r0)
    spent = r0 * np.expm1(np.sort(rng.random(n)) * effort)
    y = np.cumsum(rng.exponential(r * effort / n, n)) + 0.03 * rng.standard_normal(n)
    return [Point(float(s), float(v), 0.03) for s, v in zip(spent, y, strict=True)]


def levelling(rng: np.random.Generator, n: int) -> list[Point]:
    """ln A = 1.2 (1 - exp(-S/K)) with spending up to 10 K, errors of 0.02."""
    spent = 1e15 * np.linspace(0, 40, n + 1)[1:]
    y = 1.2 * (1 - np.exp(-spent / 4e15)) + 0.02 * rng.standard_normal(n)
    return [Point(float(s), float(v), 0.02) for s, v in zip(spent, y, strict=True)]


def research() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    rows = []
    for n in (3, 6, 10, 20):
        held, width, laws = [], [], {"power": [], "levelling": []}  # type: ignore[var-annotated]
        for _ in range(200):
            r = 1.2 * math.exp(0.857 * rng.standard_normal())
            found = returns(jumps(rng, r, n, 1e15 * 3 ** rng.standard_normal()), 1e15)
            held.append(found.r.low <= r <= found.r.high)
            width.append(found.r.high / found.r.low)
            laws["power"].append(found.prefers)
            laws["levelling"].append(returns(levelling(rng, n), 1e15).prefers)
        rows.append({
            "changes": n, "coverage": float(np.mean(held)), "high/low": float(np.median(width)),
            **{f"{law}: {word}": said.count(word) / 200 for law, said in laws.items() for word in ("power", "saturating")},
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    def show(value: Any) -> str:
        return value if isinstance(value, str) else f"{value:.3g}"

    head = list(rows[0])
    lines = [head, ["---"] * len(head), *[[show(row[key]) for key in head] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The campaigns as rows, one per world and rule."""
    return [
        {
            "world": row["world"], "rule": rule.replace("_more", ", as many runs"),
            "true ln m": row[rule]["gain"], "reported": row[rule]["reported"],
            "95 % interval holds": row[rule]["coverage"], "no figure": row[rule]["silent"],
            "nulls accepted": f"{row[rule]['nulls_accepted']} of {row[rule]['nulls']}",
            "harmful accepted": f"{row[rule]['harmful_accepted']} of {row[rule]['harmful']}",
            "accepted that do not help": row[rule]["false_share"], "runs": row[rule]["runs"],
        }
        for row in found for rule in ("loop", "greedy", "greedy_more")
    ]  # fmt: skip


def main() -> None:
    result = {
        "campaigns": campaigns(), "tests": false_accepts(), "pairs": effects(),
        "multiplier": multiplier(), "bends": bends(), "returns": research(),
    }  # fmt: skip
    # nan (no helpful proposal in that world) becomes null
    plain = msgspec.json.decode(msgspec.json.encode(result))
    RESULT.write_text(json.dumps(plain, indent=1) + "\n", "utf-8")
    for name, rows in result.items():
        print(f"\n{name}\n\n{table(summary(rows) if name == 'campaigns' else rows)}")
    print(f"\nwrote {RESULT}")


if __name__ == "__main__":
    main()
