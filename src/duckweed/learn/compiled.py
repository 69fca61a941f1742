"""The layers of a model, compiled by torch.compile for training.

Each layer is compiled by itself: alike layers share one graph, so that compiling takes as long for a deep model as for
a flat one (regional compilation, docs.pytorch.org, recipe of that name). Evaluation, which has other shapes and comes
seldom, calls the layers as they were.
"""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from duckweed.learn.model.model import layers_of

# A graph for each shape: which one is used must not depend on the shapes that came before. Random numbers are those of
# the layers as they were; no more threads compile than train.
OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "fallback_random": True,
    "compile_threads": 1,
}

AGAIN = 3  # steps that are timed, after the first
NEAR = 0.02
"""How far loss and length of the gradient of a step may be from those of the layers as they were, as a share: rounding
moves them by less than a thousandth, also in bf16."""

Step = Callable[[], tuple[float, float]]
"""Trains one step, always the same; gives its loss and the length of its gradient."""


def tried_out(model: nn.Module, step: Step) -> str:
    """Compile the layers of a model, unless that fails here or gives something else; what came of it, in words."""
    found, _, before = _timed(step)
    layers = Compiled(model)
    try:
        again, taken, after = _timed(step)
    except Exception as error:  # of many kinds: there is no compiler, or it does not know the model
        layers.undo()
        model.zero_grad(set_to_none=True)  # the step may have failed half way
        return f"--compile: torch.compile fails here ({_first_line(error)}); it trains as without"
    if not all(math.isclose(x, y, rel_tol=NEAR) for x, y in zip(found, again, strict=True)):
        layers.undo()
        return (
            f"--compile: a compiled step has loss {again[0]:.4g} and a gradient of length {again[1]:.4g}, where "
            f"{found[0]:.4g} and {found[1]:.4g} are right; it trains as without"
        )
    return (
        f"the layers were compiled in {taken:.0f} s; a step takes {after:.3g} s, without {before:.3g} s "
        f"({before / after:.2f} times as fast)"
    )


def _timed(step: Step) -> tuple[tuple[float, float], float, float]:
    """What a step gives; seconds of the first time, and the median of those after it."""
    seconds = []
    for _ in range(1 + AGAIN):
        began = time.perf_counter()
        found = step()
        seconds.append(time.perf_counter() - began)
    return found, seconds[0], median(seconds[1:])


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


class Compiled:
    """Layers that are compiled where they train, from now on."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = list(layers_of(model))
        for layer in self.layers:
            layer.forward = _either(layer, layer.forward)

    def undo(self) -> None:
        """Let the layers be as they were."""
        for layer in self.layers:
            del layer.forward


def _either(layer: nn.Module, plain: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(plain, dynamic=False, options=OPTIONS)

    def forward(*inputs: Any, **named: Any) -> Any:
        return (compiled if layer.training else plain)(*inputs, **named)

    return forward
