"""The outer optimizer: SGD with Nesterov momentum on the pseudo-gradient (DiLoCo, 2311.08105)."""

import numpy as np

from duckweed.run.sections import Outer

_AT_ONCE = 1 << 18  # values


def outer_step(
    outer: Outer, weights: np.ndarray, momentum: np.ndarray, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """New weights and momentum, f32[P] each: b' = mu b + g; w' = w - lr (g + mu b').

    "none" steps by the pseudo-gradient itself: w' = w - g. Each product is rounded before it is
    added (two NumPy calls): a fused multiply-add would give other bits on other machines. A part at
    a time, so that nothing but the result takes memory.
    """
    if outer.optimizer == "none":
        return weights - gradient, momentum
    rate, mu = np.float32(outer.learning_rate), np.float32(outer.momentum)
    after, moved = np.empty_like(weights), np.empty_like(momentum)
    for start in range(0, len(weights), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        np.multiply(mu, momentum[here], out=moved[here])
        moved[here] += gradient[here]
        step = mu * moved[here]
        step += gradient[here]
        step *= rate
        np.subtract(weights[here], step, out=after[here])
    return after, moved
