"""Other people's formulas and runs, so that planner and forecast can be held against them.

Epoch AI: J. Sevilla, "How far can decentralized training over the internet scale?", December 2025;
its four headline numbers follow from the formulas below. MIRI: the simulator in
`robirahman/miri-decentralized-training-report`, which the planner reproduces as a special case.
Forethought: Davidson & Houlden, "How quick and big would a software intelligence explosion be?",
2025; the law of the race at full automation, and its closed form without a ceiling.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from duckweed.forecast.law import DOUBLINGS_PER_YEAR, FIELDS, Array, Law
from duckweed.plan.device import by_hand as device_by_hand
from duckweed.plan.exchange import Wire
from duckweed.plan.inputs import assumptions
from duckweed.plan.inputs.crowd import Crowd, Group
from duckweed.plan.inputs.existing import nominal
from duckweed.plan.inputs.models import Model, by_hand
from duckweed.plan.place import Layout
from duckweed.plan.search import Space, Target, evaluate


def naive_largest_model(up: float, seconds: float, bits: float = 32.0) -> float:
    """Parameters whose gradients an all-reduce moves in that time: P = bandwidth T / (2 bits)."""
    return up * seconds / (2 * bits)


def naive_years(
    parameters: float, tokens: float, batch: float, up: float, bits: float = 32.0
) -> float:
    """Years of an all-reduce after every step: (D / batch) 2 bits P / bandwidth."""
    return tokens / batch * 2 * bits * parameters / up / 31557600.0


def epoch_penalty(nodes: float) -> float:
    """FLOP factor of N nodes: 1.5 at 8, extrapolated as a power: N^(ln 1.5 / ln 8)."""
    return float(nodes ** (math.log(1.5) / math.log(8)))


def catch_up_years(gap: float, fast: float, slow: float) -> float:
    """Years until a chaser that grows `fast`-fold a year makes up a factor `gap` on one that
    grows `slow`-fold: ln(gap)/ln(fast/slow), inf if it never does. (Epoch, Dec 2025: 5.5 years
    for 20x against 5x from about 2,000-fold.)"""
    if gap <= 0 or fast <= 0 or slow <= 0:
        raise ValueError("gap and both growth factors must be above 0")
    if gap <= 1:
        return 0.0
    return math.log(gap) / math.log(fast / slow) if fast > slow else math.inf


def miri_alpha(parameters: float) -> float:
    """Slope of the MIRI efficiency: 0.08 / (1 + log10(P/1e9)/5)."""
    return 0.08 / (1 + math.log10(parameters / 1e9) / 5)


def miri_efficiency(parameters: float, steps: float) -> float:
    """max(0.4, 1 - alpha log10 H): an engineering estimate of theirs, not used by the planner."""
    return max(0.4, 1 - miri_alpha(parameters) * math.log10(steps))


def critical_batch_erdil(flop: float, sparsity: float) -> float:
    """Tokens: 4 Mi sqrt(sparsity) (C/3e23)^(1/6), Erdil 2024 (ege-erdil/limits_to_distributed_training)."""
    return 4 * 1024**2 * math.sqrt(sparsity) * (flop / 3e23) ** (1 / 6)


@dataclass(frozen=True)
class Run:
    """A run as the MIRI simulator describes it: one replica in each node."""

    parameters: float
    tokens: float
    nodes: int
    rate: float
    """FLOP/s of a node."""
    memory: float
    """Bytes of a node."""
    up: float
    """bit/s."""
    down: float
    """bit/s."""
    steps: int
    """Inner steps in a round."""
    bits: float
    """Bits a parameter that a contribution takes."""
    batch: float
    """Tokens of an inner step in one node."""
    mfu: float = 0.4
    """Share of `rate` that is reached."""
    late: bool = True
    """The exchange runs beside the next round."""
    delay: float = 0.0
    """Seconds one way."""
    straggle: float = 0.0
    """Relative slowing for every doubling of the nodes."""
    context: int = 4096
    """Tokens of a sequence."""
    flop: float = 0.0
    """Training FLOP a token; 0: 6 for each parameter."""


@dataclass(frozen=True)
class Simulated:
    """What came of it, in seconds."""

    compute: float
    """Of an inner step."""
    exchange: float
    """Of an exchange."""
    window: float
    """Of a round's inner steps."""
    days: float
    """Of the whole run without penalties."""

    @property
    def utilisation(self) -> float:
        return self.window / (self.window + self.exchange)


def simulate(run: Run) -> Simulated:
    """The run through the planner: links at their nominal speed, nothing lost to churn, checking or
    quality."""
    flop = run.flop or 6 * run.parameters
    model = replace(
        by_hand("simulated", run.parameters, run.parameters, context=run.context), flop=flop
    )
    card = device_by_hand(run.memory, run.rate, "data-centre")
    group = Group(
        run.nodes,
        card,
        host=10 * run.memory,
        up=run.up,
        down=run.down,
        latency=run.delay,
        stay=1e15,
    )
    values = assumptions.medians(**nominal(), mfu_datacentre=run.mfu, coding=0.0, delay_gap=0.0) | {
        "straggle": run.straggle
    }
    micro = max(1, round(run.batch / run.context))
    wire = (Wire("given", "dense", run.bits), "store")
    space = Space((Layout(),), (wire,), (run.steps,), (run.late,), (micro,), (math.inf,))
    found = evaluate(Target(model, run.tokens), Crowd((group,)), space, values)
    terms = {name: float(np.ravel(value)[0]) for name, value in found.pools[0].terms.items()}
    seconds = run.tokens / float(np.ravel(found.terms["rate"])[0])
    exact = run.batch / (micro * run.context)
    return Simulated(
        terms["step"] * exact, terms["exchange"], terms["window"] * exact, seconds / 86400
    )


MIRI_10E25 = Run(
    144e9, 12e12, 72, 32e15, 2473901162496, 100e6, 100e6, steps=128, bits=1.0, batch=131072
)
"""configs/10e25_flop.json of the simulator: streaming, 16 times compressed."""
MIRI_COVENANT = Run(
    72.7e9,
    1.1e12,
    20,
    18e15,
    1.44e12,
    110e6,
    110e6,
    steps=30,
    bits=16 / 146,
    batch=393216,
    late=False,
)
"""The simulator's configuration like Covenant-72B, without streaming."""


def covenant(bits: float, mfu: float, model: Model) -> Simulated:
    """Covenant-72B's round: 20 peers of 8 B200, 110 Mbit/s up, 30 steps of 192 sequences of 2048
    tokens (arXiv 2603.08163). Only the upload counts: the paper hides the download."""
    return simulate(
        Run(
            float(model.shape.total), 1.1e12, 20, 8 * 2250e12, 8 * 180e9, 110e6, math.inf, 30, bits,
            192 * 2048, mfu, late=False, context=2048, flop=model.flop_per_token,
        )
    )  # fmt: skip


def constant_law(
    returns: float, speedup: float, parallel: float, ceiling: float, samples: int = 1
) -> Law:
    """Research fully automated from the start; ceiling in doublings."""
    one = np.ones(samples)
    values: tuple[Any, ...] = (returns, speedup, parallel, ceiling, 1.0, 1.0, 1.0)
    parts: dict[str, Any] = {name: one * v for name, v in zip(FIELDS, values, strict=True)}
    return Law(**parts)


def closed_form(speed0: float, feedback: float, t: Array) -> Array:
    """Doublings after t years without ceiling at full automation: x = -ln(1 - k v0 t)/k with
    k = ln2 p (1 - 1/r). For k > 0 it has no value from t = 1/(k v0) on: inf there."""
    if feedback == 0:
        return speed0 * t
    left = 1.0 - feedback * speed0 * t
    return np.where(left > 0, -np.log(np.maximum(left, 1e-300)) / feedback, np.inf)


def blow_up(speed0: float, feedback: float) -> float:
    """The year in which the closed form diverges: 1/(k v0); inf where k <= 0."""
    return 1.0 / (feedback * speed0) if feedback > 0 else math.inf


def doublings(
    speedup: float, returns: float, limit_years: float, parallel: float, first_months: float = 3.0
) -> tuple[Array, Array]:
    """Forethought's model as published, one doubling at a time: times (years) and doublings.

    dt starts at first_months/12/f; after each doubling r falls by r0/N and dt grows by
    2^(p(1/r - 1)); N = 8 limit_years. Ends at the ceiling or after 200 years.
    """
    total = DOUBLINGS_PER_YEAR * limit_years
    step, r, t = first_months / 12 / speedup, returns, 0.0
    times, levels = [0.0], [0.0]
    while levels[-1] + 1 < total and t < 200:
        t += step
        times.append(t)
        levels.append(levels[-1] + 1)
        r -= returns / total
        if r <= 0:
            break
        step *= 2 ** min(parallel * (1 / r - 1), 60)
    return np.array(times), np.array(levels)
