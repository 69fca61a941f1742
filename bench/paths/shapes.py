"""The sizes of the models: of a path, of dense models as large as all paths together, and of mixtures of experts."""

import numpy as np
import torch
from numpy.typing import NDArray

from duckweed.run.layout import Layout

SHAPES = {  # width, layers, heads, width of the feed-forward part
    "66k": (32, 3, 2, 128),
    "136k": (48, 3, 3, 192),
    "259k": (64, 4, 4, 208),
    "295k": (64, 4, 4, 256),
    "1M": (128, 4, 4, 448),
}
TOKENS = 256


def dimensions(shape: str) -> tuple[int, int, int, int]:
    """Of a name above, or of "66k x 8": a dense model of eight times as many values, which is wider (by the power 0.4 of
    that) and deeper (0.2), and has heads as wide."""
    name, _, times = shape.partition(" x ")
    width, layers, heads, inner = SHAPES[name]
    if not times:
        return width, layers, heads, inner
    head, total = width // heads, int(times) * values(width, layers, inner)
    heads = round(heads * int(times) ** 0.4)
    layers = round(layers * int(times) ** 0.2)
    width = head * heads
    return width, layers, heads, round((total - values(width, layers, 0)) / (3 * layers * width))


def values(width: int, layers: int, inner: int) -> int:
    """Parameters of a Llama whose embeddings are not tied."""
    return 2 * TOKENS * width + layers * (4 * width**2 + 3 * width * inner + 2 * width) + width


def mixture(dense: Layout, experts: int, total: int) -> Layout:
    """The layout of a mixture that has about `total` values: attention, norms, embeddings and head of a dense model, and
    experts as wide as there is room for."""
    shapes = dict(zip(dense.names, dense.shapes, strict=True))
    width = shapes["model.embed_tokens.weight"][1]
    layers = sum(name.endswith("gate_proj.weight") for name in shapes)
    rest = sum(np.prod(shape) for name, shape in shapes.items() if ".mlp." not in name)
    inner = round((total - rest - layers * experts * width) / (layers * experts * 3 * width))
    made: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        before, is_part, part = name.partition(".mlp.")
        if not is_part:
            made[name] = shape
        elif part == "gate_proj.weight":
            made[before + ".mlp.router.weight"] = (experts, width)
            for number in range(experts):
                start = f"{before}.mlp.experts.{number}."
                made[start + "gate_proj.weight"] = made[start + "up_proj.weight"] = (inner, width)
                made[start + "down_proj.weight"] = (width, inner)
    return Layout.of(made)


def active(layout: Layout, experts: int, top: int) -> int:
    """Values that a token passes through."""
    idle = sum(
        size for name, size in zip(layout.names, layout.sizes, strict=True) if ".experts." in name
    )
    return layout.total - idle * (experts - top) // experts


def first_weights(layout: Layout, deviation: float, seed: int) -> NDArray[np.float32]:
    """f32[P]: norms are ones, the rest is drawn as in a dense model."""
    random = torch.Generator().manual_seed(seed)
    weights = torch.ones(layout.total)
    for shape, part in zip(layout.shapes, layout.slices(), strict=True):
        if len(shape) > 1:
            weights[part].normal_(0.0, deviation, generator=random)
    return weights.numpy()
