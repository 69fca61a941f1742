"""The learning rate over the inner steps of a run."""

import math

from duckweed.run.sections import Inner


def learning_rate(inner: Inner, step: int, total: int) -> float:
    """Learning rate at inner step 0 <= step < total, counted over the whole run.

    Linear warm-up over `warmup` steps, then constant; cosine to `final`; or WSD: constant, then
    linear to `final` over the last `decay` share of the steps. `final` is a share of the peak.
    """
    if step < inner.warmup:
        return inner.learning_rate * (step + 1) / inner.warmup
    if inner.schedule == "constant":
        return inner.learning_rate
    if inner.schedule == "cosine":
        done = (step - inner.warmup) / max(1, total - inner.warmup)
        share = inner.final + (1 - inner.final) * 0.5 * (1 + math.cos(math.pi * done))
    else:
        start = total - inner.decay * total
        done = max(0.0, (step - start) / max(1.0, total - start))
        share = 1 - (1 - inner.final) * done
    return inner.learning_rate * share
