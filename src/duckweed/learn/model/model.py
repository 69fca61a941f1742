"""The model: any transformers causal language model, as a module and as one flat vector."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import torch
from blake3 import blake3
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging as bars

from duckweed.learn.device import seeded
from duckweed.learn.model.architecture import ModelError, Reason
from duckweed.learn.model.configuration import brief, configuration
from duckweed.run.layout import Layout

__all__ = ["ModelError", "brief", "configuration"]

Buffers = dict[str, torch.Tensor]
"""The persistent buffers of a model by name, on the CPU: state that no gradient reaches."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, which would be drawn across our own view."""
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def skeleton(config: PretrainedConfig) -> nn.Module:
    """The model without memory for its weights, to count and to lay out. Raises ModelError."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # of many kinds, as above
        raise ModelError(
            f"no causal language model of type {config.model_type!r} can be built from this "
            f"configuration: {brief(error)}",
            Reason.BUILD,
        ) from error


def layout_of(model: nn.Module) -> Layout:
    """Names and shapes of the trained parameters, tied ones once."""
    return Layout.of({name: tuple(p.shape) for name, p in model.named_parameters()})


def build(
    config: PretrainedConfig,
    device: str = "cpu",
    seed: int = 0,
    zero_projections: bool = False,
    attention: str = "",
) -> nn.Module:
    """A model with fresh weights drawn with `seed`, float32; zero_projections: what attention and
    feed-forward parts add to the residual stream begins at zero; attention: the device that computes, if it is another."""
    with seeded(seed, "cpu"):
        model = _from_config(config, attention or device)
    if zero_projections:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight", "mlp.fc2.weight")):
                    parameter.zero_()
    return model.to(device)


def _from_config(config: PretrainedConfig, device: str) -> nn.Module:
    # Plain attention is 10-15 % faster than the fused kernel on CPUs at these lengths
    # (docs/learn.md); on accelerators the fused one is far ahead.
    eager = device == "cpu" or config.model_type == "gemma2"  # which has no fused kernel
    return AutoModelForCausalLM.from_config(
        config,
        dtype=torch.float32,
        attn_implementation="eager" if eager else "sdpa",
        trust_remote_code=False,
    )


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model, which are most of it: the elements of its outermost lists of modules."""
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.extend(one for one in child if any(True for _ in one.parameters()))
            else:
                look(child)

    look(model)
    return found


def hollow(config: PretrainedConfig, device: str) -> nn.Module:
    """A model whose parameters have no memory yet, while its buffers hold what they should, on the CPU. A module
    alone is made whole, and let go again, as it is built."""
    register = nn.Module.register_parameter

    def without(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # a tied one is registered twice
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(self, name, parameter)

    nn.Module.register_parameter = without  # type: ignore[assignment, method-assign]
    try:
        with seeded(0, "cpu"):
            return _from_config(config, device)
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def buffers_of(model: nn.Module) -> Buffers:
    """Copies of the persistent buffers: what is saved with the model and is no parameter."""
    return {name: x.detach().to("cpu", copy=True) for name, x in _persistent(model).items()}


def has_buffers(model: nn.Module) -> bool:
    """Whether a model, or its skeleton, has persistent buffers."""
    return bool(_persistent(model))


def _persistent(model: nn.Module) -> Buffers:
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: value
        for name, value in model.state_dict().items()
        if name not in trained and isinstance(value, torch.Tensor)
    }


@torch.no_grad()
def set_buffers(model: nn.Module, buffers: Mapping[str, torch.Tensor]) -> None:
    """Give the model these persistent buffers. Raises ModelError if they are not those it has."""
    own = {name: value for name, value in model.named_buffers() if name in buffers}
    for name, value in buffers.items():
        if name not in own or own[name].shape != value.shape:
            raise ModelError(f"the model has no buffer {name!r} of shape {tuple(value.shape)}")
        own[name].copy_(value)


def fixed(layout: Layout, buffers: Buffers) -> Layout:
    """The layout of a model with these persistent buffers, which its digest then covers; without any
    it stays as it is."""
    if not buffers:
        return layout
    digest = blake3()
    for name, value in sorted(buffers.items()):
        facts = [name, str(value.dtype), list(value.shape)]
        digest.update(msgspec.json.encode(facts))
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return msgspec.structs.replace(layout, fixed=digest.hexdigest())


def read_weights(model: nn.Module) -> np.ndarray:
    """All parameters as one vector f32[P], in the order of the layout."""
    with torch.no_grad():
        flat = torch.cat(
            [p.detach().reshape(-1).to("cpu", torch.float32) for p in model.parameters()]
        )
    return flat.numpy()


def write_weights(model: nn.Module, flat: np.ndarray) -> None:
    """Set all parameters from one vector f32[P]."""
    source, start = torch.from_numpy(flat), 0
    with torch.no_grad():
        for parameter in model.parameters():
            part = source[start : start + parameter.numel()]
            parameter.copy_(part.view(parameter.shape))
            start += parameter.numel()


def export(model: nn.Module, folder: Path, end: int) -> None:
    """Write a Hugging Face folder: config.json and model.safetensors; end: id that ends a text."""
    model.config.eos_token_id = end  # type: ignore[union-attr]
    if model.generation_config is not None:  # as with models that are made for other work too
        model.generation_config.eos_token_id = end  # type: ignore[union-attr]
    model.config.use_cache = True  # type: ignore[union-attr]
    with quiet():
        model.save_pretrained(folder)  # type: ignore[operator]
