"""Other people's formulas and runs, so that the planner can be held against them.

Epoch AI: J. Sevilla, "How far can decentralized training over the internet scale?", December 2025;
its four headline numbers follow from the formulas below. MIRI: the simulator in
`robirahman/miri-decentralized-training-report`, which the planner reproduces as a special case.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from duckweed.plan import assumptions
from duckweed.plan.crowd import Crowd, Group
from duckweed.plan.device import by_hand as device_by_hand
from duckweed.plan.exchange import Wire
from duckweed.plan.models import Model, by_hand
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


def catch_up_years(gap: float, chaser: float = 20.0, leader: float = 5.0) -> float:
    """Years until growth by `chaser` a year closes a gap to growth by `leader`."""
    return math.log(gap) / math.log(chaser / leader)


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
class Simulated:
    """compute: seconds of an inner step; exchange: of an exchange; window: of a round's computing;
    days: of the run without penalties."""

    compute: float
    exchange: float
    window: float
    days: float

    @property
    def utilisation(self) -> float:
        return self.window / (self.window + self.exchange)


def simulate(
    parameters: float, tokens: float, nodes: int, rate: float, memory: float, up: float, down: float,
    mfu: float, steps: int, bits: float, batch: float, *, late: bool = True, delay: float = 0.0,
    straggle: float = 0.0, context: int = 4096, flop: float = 0.0,
) -> Simulated:  # fmt: skip
    """A run as the MIRI simulator describes it, through the planner: one replica per node, 6 P FLOP a
    token, links at their nominal speed, nothing lost to churn, checking or quality."""
    model = replace(
        by_hand("simulated", parameters, parameters, context=context), flop=flop or 6 * parameters
    )
    card = device_by_hand(memory, rate, "data-centre")
    group = Group(nodes, card, host=10 * memory, up=up, down=down, latency=delay, stay=1e15)
    nominal = ("link_share", "latency_factor", "online_factor", "stay_factor", "bits_factor",
               "traffic_factor", "replica_factor", "wire_factor")  # fmt: skip
    fixed = dict.fromkeys(nominal, 1.0)
    values = assumptions.medians(
        **fixed,
        mfu_datacentre=mfu,
        straggle=straggle,
        audit=0.0,
        coding=0.0,
        detect=0.0,
        delay_gap=0.0,
    )
    micro = max(1, round(batch / context))
    space = Space(
        (Layout(),),
        ((Wire("given", "dense", bits), "store"),),
        (steps,),
        (late,),
        (micro,),
        (math.inf,),
    )
    found = evaluate(Target(model, tokens), Crowd((group,)), space, values)
    terms = found.pools[0].terms
    seconds = tokens / float(np.ravel(found.terms["rate"])[0])
    exact = batch / (micro * context)
    first = lambda name: float(np.ravel(terms[name])[0])  # noqa: E731
    return Simulated(
        first("step") * exact, first("exchange"), first("window") * exact, seconds / 86400
    )


def covenant(bits: float, mfu: float, model: Model) -> Simulated:
    """Covenant-72B's round: 20 peers of 8 B200, 110 Mbit/s up, 30 steps of 192 sequences of 2048
    tokens (arXiv 2603.08163). Only the upload counts: the paper hides the download."""
    return simulate(
        float(model.shape.total), 1.1e12, 20, 8 * 2250e12, 8 * 180e9, 110e6, math.inf, mfu, 30, bits,
        192 * 2048, late=False, context=2048, flop=model.flop_per_token,
    )  # fmt: skip
