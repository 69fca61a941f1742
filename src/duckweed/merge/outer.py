"""The outer optimizer: SGD with Nesterov momentum on the pseudo-gradient (DiLoCo, 2311.08105)."""

import numpy as np

from duckweed.run.sections import Outer
from duckweed.wire import threads


def outer_step(
    outer: Outer, weights: np.ndarray, momentum: np.ndarray, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """New weights and momentum, f32[P] each: b' = mu b + g; w' = w - lr (g + mu b').

    "none" steps by the pseudo-gradient itself: w' = w - g. Each product is rounded before it is
    added: a fused multiply-add would give other bits on other machines.
    """
    if outer.optimizer == "none":
        return weights - gradient, momentum
    from duckweed.wire.kernels import vectors

    rate, mu = np.float32(outer.learning_rate), np.float32(outer.momentum)
    after, moved = np.empty_like(weights), np.empty_like(momentum)
    threads.each(
        lambda part: vectors.outer(
            after[part], moved[part], weights[part], momentum[part], gradient[part], rate, mu
        ),
        threads.parts(len(weights)),
    )
    return after, moved
