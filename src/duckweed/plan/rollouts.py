"""The reinforcement-learning stage: a crowd generates text with the current weights, the training
layout learns from it.

Generating is bound by compute or by reading weights; a worker is as many machines as hold the
weights, in a pipeline. Each update of the policy must reach every worker before its texts are stale.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duckweed.plan.inputs.assumptions import Values
from duckweed.plan.inputs.crowd import Crowd
from duckweed.plan.search import DAY, Target

Array = NDArray[np.float64]

WEIGHT_BYTES = {"fp32": 2.0, "bf16": 2.0, "fp8": 1.0, "fp4": 0.5}
"""Bytes a weight while generating."""
CACHE_SHARE = 0.3
"""Share of a worker's memory for the attention cache of its running texts (inferred)."""
UPDATES = 12000
"""Policy updates of the whole stage: R1-Zero's 10,400 and R1's 1,700 steps (recalled, see models)."""


@dataclass(frozen=True)
class Rollouts:
    """workers: how many at once; machines: in one worker; generate, learn, spread: days of
    generating, of learning from it, and of bringing updates to the workers."""

    workers: int
    machines: int
    generate: Array
    learn: Array
    spread: Array
    tokens: float

    @property
    def days(self) -> Array:
        """Generating runs beside learning and beside the spreading of updates (INTELLECT-2, arXiv
        2505.07291): the slowest counts."""
        return np.maximum(np.maximum(self.generate, self.learn), self.spread)


def rollouts(target: Target, crowd: Crowd, values: Values, learn_rate: float) -> Rollouts | None:
    """The stage for a model that has one; None if it has none. learn_rate: tokens/s of training."""
    shape, tokens = target.model.shape, target.model.rollouts
    if not tokens:
        return None
    rate: Array | float = 0.0
    spread: Array | float = 0.0
    workers = machines = 0
    for group in crowd.groups:
        weight = shape.total * WEIGHT_BYTES[target.precision]
        size = math.ceil(weight / (group.usable * (1 - CACHE_SHARE)))
        present = np.floor(group.count * np.minimum(1.0, group.online * values["online_factor"]))
        count = np.floor(present / size)
        workers += int(np.median(count))
        machines = max(machines, size)
        speed = size * group.rate("bf16") * values["decode_share"]
        rate = rate + count * speed / (2 * shape.multiplied) * (1 - group.waste)
        fetch = weight * 8 / size / (group.down * values["link_share"] / group.site)
        spread = np.maximum(spread, fetch * UPDATES / DAY)
    with np.errstate(divide="ignore"):
        generate = np.asarray(tokens / np.asarray(rate) / DAY)
    learn = np.asarray(tokens / learn_rate / DAY if learn_rate else math.inf)
    return Rollouts(workers, machines, generate, learn, np.asarray(spread), tokens)
