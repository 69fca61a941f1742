"""A model whose states stay in main memory while a device computes with them.

Two devices: `HOME`, where weights, gradients and moments lie, and the one that computes. A layer's weights come to the
device as the layer is computed, in the forward pass and once more in the backward pass, and go again; what is outside
of the layers (embedding, last norm, head) comes for a whole pass. Gradients go home, where the optimizer steps. Only
what Muon makes orthogonal is computed on the device. Related: ZeRO-Offload (arXiv 2101.06840), whose weights stay on
the device in half precision; here all is float32 and the device keeps nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from duckweed.learn.model.model import layers_of
from duckweed.learn.optim.muon import Muon
from duckweed.learn.optim.optimizer import InnerOptimizer

HOME = "cpu"
T = TypeVar("T")


class _Outside(nn.Module):
    """Whatever is computed inside of it finds the weights outside of the layers on the device."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], T]) -> T:
        return work()


class _Layer(nn.Module):
    """A layer as it is when its weights are where it computes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.compute = layer, layer.forward

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.compute(*inputs, **named)


class Offloaded:
    """model: at home. device: computes. Each layer is computed again in the backward pass (activation checkpointing):
    otherwise the graph would keep what was brought for it until then."""

    def __init__(self, model: nn.Module, device: str) -> None:
        self.device = device
        model.activation_checkpointing_disable()  # type: ignore[operator] # its own would not bring the weights again
        layers = layers_of(model)
        for layer in layers:
            self._visit(layer)
        self.outside = _Outside(model)
        taken = {id(x) for layer in layers for x in _tensors(layer).values()}
        self.names = [n for n, x in _tensors(self.outside).items() if id(x) not in taken]

    def inside(self, work: Callable[[], T]) -> T:
        """Compute with the model. A backward pass belongs inside, too: it computes parts of the forward pass again."""
        tensors = _tensors(self.outside)
        brought = {name: self._bring(tensors[name]) for name in self.names}
        return cast(T, functional_call(self.outside, brought, (work,)))

    def prepare(self, stepper: InnerOptimizer) -> None:
        """Let an optimizer keep its state at home and step there; Muon makes its matrices orthogonal on the device."""
        for _, value in stepper.kept():
            value.data = value.to(HOME)
        if isinstance(stepper, Muon):
            together = stepper.muon.orthogonal
            stepper.muon.orthogonal = lambda directions: [
                made.to(HOME) for made in together([x.to(self.device) for x in directions])
            ]

    def _visit(self, layer: nn.Module) -> None:
        one = _Layer(layer)

        def compute(*inputs: Any, **named: Any) -> Any:
            brought = {name: self._bring(x) for name, x in _tensors(one).items()}
            return functional_call(one, brought, inputs, named)

        layer.forward = partial(checkpoint, compute, use_reentrant=False)

    def _bring(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the device, also where that is home: what is tested there is what runs elsewhere."""
        return tensor.to(self.device, copy=True)


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
