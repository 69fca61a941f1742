"""Simulated campaigns with known effects: what the loop's figures are worth, and the greedy rule's.

A campaign here is the real one without training: the same pilot, rungs, sequential test, spending
and final comparison as in a run, on losses drawn from

    loss = a - f(ln C + gain) + noise

where f is a line or a curve (`World.saved`) and a recipe's gain the sum of its accepted effects
(units of ln compute). Beside it the rule
of existing loops on the same proposals: one noisy score, kept when it beats the stored best score,
the difference of the stored scores reported as the gain.
"""

import contextlib
import math

import msgspec
import numpy as np
import numpy.typing as npt

from duckweed.evolve.decide import halving
from duckweed.evolve.decide.final_comparison import DOUBLINGS
from duckweed.evolve.statistics import sequential, spending
from duckweed.evolve.statistics.multiplier import MultiplierError, Run, fit, reached
from duckweed.evolve.statistics.t_distribution import Array

CENTRE, BUDGETS = 1e12, (0.5, 1.0, 2.0)


class World(msgspec.Struct, frozen=True):
    """What is proposed and how noisy runs are. helpful, harmful: shares, the rest does nothing;
    effect: median size of an effect in ln compute, factor: its spread (one sd) up and down;
    noise: sd of one run in ln compute; slope: nats per e-fold; bend: by how much of itself the slope
    falls per e-fold (above 0: a power law with that exponent above a floor, below 0: the loss falls
    faster and faster, 0: a line); fade: what a gain loses per e-fold of compute; tails: degrees of
    freedom of the noise, 0 for normal; child_noise: how much noisier a child's runs are than its
    parent's."""

    helpful: float = 0.2
    harmful: float = 0.3
    effect: float = 0.12
    factor: float = 2.0
    noise: float = 0.05
    slope: float = 0.15
    bend: float = 0.0
    fade: float = 0.0
    tails: int = 0
    child_noise: float = 1.0

    def effects(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """True effects of proposals, in ln compute."""
        kind = rng.random(shape)
        size = self.effect * self.factor ** rng.standard_normal(shape)
        return np.where(kind < self.helpful, size, np.where(kind > 1 - self.harmful, -size, 0.0))

    def saved(self, x: npt.ArrayLike) -> Array:
        """Nats below the loss of generation 0 at the reference budget, x in ln compute above it."""
        x = np.asarray(x, dtype=np.float64)
        return self.slope * (-np.expm1(-self.bend * x) / self.bend if self.bend else x)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], child: bool = False) -> Array:
        """Noise of single runs, in nats."""
        if self.tails:
            unit = rng.standard_t(self.tails, shape) * math.sqrt((self.tails - 2) / self.tails)
        else:
            unit = rng.standard_normal(shape)
        return unit * self.noise * self.slope * (self.child_noise if child else 1.0)


class Plan(msgspec.Struct, frozen=True):
    """A campaign: confirmations, candidates screened for each, most pairs per confirmation,
    pairs of the pilot, seeds per recipe and budget of the final comparison, alpha of the campaign."""

    confirmations: int = 12
    candidates: int = 8
    pairs: int = 24
    pilot: int = 16
    seeds: int = 5
    alpha: float = 0.05


class Rule(msgspec.Struct, frozen=True):
    """How a rule did over the campaigns. bias: mean of reported minus true gain; coverage: share
    of 95 % intervals that hold the truth; silent: campaigns whose comparison gave no figure, which are left
    out of both; gain, reported: mean true and reported ln multiplier;
    nulls, harmful, helpful: how many of each were decided; *_accepted: how many were accepted;
    false_share: mean share of not-helpful ones among the accepted (the false discovery rate);
    runs: mean number of runs, in runs at the reference budget."""

    gain: float
    reported: float
    bias: float
    coverage: float
    silent: int
    nulls: int
    nulls_accepted: int
    harmful: int
    harmful_accepted: int
    helpful: int
    helpful_accepted: int
    false_share: float
    runs: float


class Study(msgspec.Struct, frozen=True):
    """loop, greedy: on the same proposals; greedy_more: the greedy rule with as many runs as the
    loop. smallest: median effect (ln compute) that the pilot says the first test finds in 8 of 10
    cases; power: measured share accepted of helpful proposals at least that large."""

    campaigns: int
    loop: Rule
    greedy: Rule
    greedy_more: Rule
    smallest: float
    power: float


def study(world: World, plan: Plan, campaigns: int = 500, seed: int = 0) -> Study:
    """Run the campaigns. Deterministic in `seed`."""
    rng = np.random.default_rng(seed)
    effects = world.effects(rng, (campaigns, plan.confirmations, plan.candidates))
    noise = world.draw(rng, (campaigns, plan.pilot, 2))
    pilots = [sequential.pilot(row) for row in noise[:, :, 0] - noise[:, :, 1]]
    found = confirm(world, plan, effects, rng)
    true = np.where(found.accepted, found.effect, 0.0).sum(axis=1)
    told = compare(world, plan, true, rng)
    loop = _rule(
        true, told.log_m, told.low, told.high, found.effect, found.accepted,
        2 * plan.pilot + found.screening + 2 * float(found.pairs.sum(axis=1).mean()) + told.runs,
    )  # fmt: skip
    flat = effects.reshape(campaigns, -1)
    more = world.effects(rng, (campaigns, round(loop.runs)))
    first = spending.Spending(plan.alpha, plan.confirmations).level
    unit = sequential.smallest_effect(1.0, first, plan.pairs)
    smallest = unit * float(np.median([p.sd for p in pilots])) / world.slope
    large = found.effect >= smallest
    return Study(
        campaigns, loop, greedy(world, flat, rng), greedy(world, more, rng), smallest,
        float(found.accepted[large].mean()) if large.any() else math.nan,
    )  # fmt: skip


class Confirmed(msgspec.Struct, frozen=True):
    """Per campaign and confirmation [S, T]: the true effect of what was tested, whether it was
    accepted, pairs used; screening: runs before, at the reference budget."""

    effect: Array
    accepted: npt.NDArray[np.bool_]
    pairs: npt.NDArray[np.int64]
    screening: float


def confirm(world: World, plan: Plan, effects: Array, rng: np.random.Generator) -> Confirmed:
    """Screening and confirmation of effects [S, T, candidates], one round after the other."""
    campaigns, rounds, candidates = effects.shape
    ladder = halving.rungs(candidates)
    ledger = [spending.Spending(plan.alpha, plan.confirmations)] * campaigns
    tested, accepted = np.zeros((campaigns, rounds)), np.zeros((campaigns, rounds), bool)
    pairs = np.zeros((campaigns, rounds), np.int64)
    so_far = np.zeros((campaigns, 1))
    for t in range(rounds):
        here = effects[:, t]
        for rung in ladder:
            losses = world.draw(rng, here.shape, child=True) - world.saved(so_far + here)
            kept = [halving.survivors(row, rung.keep) for row in losses.tolist()]
            here = np.take_along_axis(here, np.array(kept), axis=1)
        tested[:, t] = here[:, 0]
        parent = world.draw(rng, (campaigns, plan.pairs)) - world.saved(so_far)
        child = world.draw(rng, (campaigns, plan.pairs), child=True) - world.saved(so_far + here)
        level = np.array([state.level for state in ledger])
        result = sequential.run(parent - child, level, plan.pairs)
        accepted[:, t], pairs[:, t] = result.accepted, result.pairs
        so_far += np.where(result.accepted, here[:, 0], 0.0)[:, None]
        ledger = [s.record(bool(a)) for s, a in zip(ledger, result.accepted, strict=True)]
    cost = rounds * sum(rung.candidates * rung.share for rung in ladder)
    return Confirmed(tested, accepted, pairs, cost)


def final_runs(world: World, seeds: int, gain: float, rng: np.random.Generator) -> list[Run]:
    """The runs of a final comparison whose recipe is worth `gain` (ln compute) at the reference budget, as
    `duckweed.evolve.decide.final_comparison` asks for them."""

    def runs_at(share: float, child: bool) -> list[Run]:
        x = math.log(share)
        saved = float(world.saved(x + (gain - world.fade * x if child else 0.0)))
        noise = world.draw(rng, (seeds,), child)
        return [Run(share * CENTRE, 3.0 - saved + float(e), child) for e in noise]

    runs = [run for share in BUDGETS for child in (False, True) for run in runs_at(share, child)]
    for doubling in range(1, DOUBLINGS + 1):
        if reached(runs):
            break
        runs += runs_at(BUDGETS[-1] * 2**doubling, False)
    return runs


class Compared(msgspec.Struct, frozen=True):
    """Per campaign [S]: ln multiplier as reported and its interval, nan where there is none; runs:
    mean number, at the reference budget."""

    log_m: Array
    low: Array
    high: Array
    runs: float


def compare(world: World, plan: Plan, true: Array, rng: np.random.Generator) -> Compared:
    """The direct comparison with generation 0 on fresh seeds."""
    found, spent = np.full((3, true.size), np.nan), 0.0
    for i, gain in enumerate(true):
        runs = final_runs(world, plan.seeds, float(gain), rng)
        spent += sum(run.budget for run in runs) / CENTRE
        with contextlib.suppress(MultiplierError), np.errstate(divide="ignore"):
            r = fit(runs).reported
            found[:, i] = np.log([r.m, r.low, r.high])
    return Compared(found[0], found[1], found[2], spent / true.size)


def greedy(world: World, effects: Array, rng: np.random.Generator) -> Rule:
    """One score each [S, T], kept when better than the stored best. The interval is the one a
    reader would put around a difference of two runs who knows the noise exactly."""
    campaigns, trials = effects.shape
    start = world.draw(rng, (campaigns,))
    best, true = start.copy(), np.zeros(campaigns)
    accepted = np.zeros(effects.shape, bool)
    for t in range(trials):
        score = world.draw(rng, (campaigns,), child=True) - world.saved(true + effects[:, t])
        better = score < best
        best, true = np.where(better, score, best), true + np.where(better, effects[:, t], 0.0)
        accepted[:, t] = better
    reported = (start - best) / world.slope
    half = 1.959964 * world.noise * math.sqrt(1 + world.child_noise**2)
    return _rule(true, reported, reported - half, reported + half, effects, accepted, trials + 1)


def _rule(
    true: Array, reported: Array, low: Array, high: Array, effect: Array,
    accepted: npt.NDArray[np.bool_], runs: float,
) -> Rule:  # fmt: skip
    null, bad, good = effect == 0, effect < 0, effect > 0
    said = ~np.isnan(reported)
    wrong = (accepted & ~good).sum(axis=1) / np.maximum(accepted.sum(axis=1), 1)
    return Rule(
        gain=float(true.mean()), reported=float(reported[said].mean()),
        bias=float((reported - true)[said].mean()),
        coverage=float(((low <= true) & (true <= high))[said].mean()), silent=int((~said).sum()),
        nulls=int(null.sum()), nulls_accepted=int((null & accepted).sum()),
        harmful=int(bad.sum()), harmful_accepted=int((bad & accepted).sum()),
        helpful=int(good.sum()), helpful_accepted=int((good & accepted).sum()),
        false_share=float(wrong.mean()), runs=float(runs),
    )  # fmt: skip
