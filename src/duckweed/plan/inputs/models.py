"""What can be planned for: presets, configurations on disk, and models given by hand."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duckweed.plan.errors import PlanError, unknown
from duckweed.plan.inputs import config, table
from duckweed.plan.inputs.config import Layer, Shape
from duckweed.run import units


@dataclass(frozen=True)
class Model:
    """A shape with what is known of its training."""

    shape: Shape
    context: int = 4096
    """Tokens of a sequence in training."""
    tokens: float = 0.0
    """Published training tokens; 0: not published."""
    rollouts: float = 0.0
    """Tokens generated in a reinforcement-learning stage; 0: none."""
    batch: float = 0.0
    """Published tokens of a step; 0: not published."""
    source: str = "given by hand"
    published_total: float = 0.0
    """Parameters as the makers say, for the tests; 0: not published."""
    published_active: float = 0.0
    flop: float = 0.0
    """Training FLOP a token, where it is given instead of counted; 0: counted."""

    @property
    def name(self) -> str:
        return self.shape.name

    @property
    def flop_per_token(self) -> float:
        return self.flop or self.shape.flop_per_token(self.context)


def names() -> list[str]:
    return list(table.tree("models"))


def preset(name: str) -> Model:
    """The preset of that name. Raises PlanError with the nearest names."""
    known = table.tree("models")
    if name not in known:
        raise unknown("model", name, known)
    row: dict[str, Any] = known[name]
    base = {**known[row["same"]], **row} if "same" in row else row
    total = float(base.get("total", 0))
    return Model(
        config.shape(base["config"], name),
        int(base["context"]),
        tokens=float(base.get("tokens", 0)),
        rollouts=float(base.get("rollout_tokens", 0)),
        batch=float(base.get("batch", 0)),
        source=str(base["source"]),
        published_total=total,
        published_active=float(base.get("active", total)),
    )


def dense(total: float, name: str = "", context: int = 4096, vocab: int = 128256) -> Model:
    """A dense Llama-like model of about `total` parameters: width 128 x depth, feed-forward 3.5 x,
    grouped attention; the proportions of Llama 3 (arXiv 2407.21783)."""
    depth = max(2, round((total / (128**2 * 12.8)) ** (1 / 3)))
    return by_hand(
        name or f"dense-{units.show_count(total).replace(' ', '')}",
        total,
        total,
        depth,
        context,
        vocab,
    )


def by_hand(
    name: str, total: float, active: float, depth: int = 0, context: int = 4096, vocab: int = 128256
) -> Model:
    """A model of which only the sizes are known; the rest follows usual proportions (inferred)."""
    if active > total:
        raise PlanError(
            f"Model {name}: {active:g} active parameters are more than {total:g} in all."
        )
    if total < 1e6:
        raise PlanError(
            f"Model {name}: {total:g} parameters is less than a million; give the real number."
        )
    depth = depth or max(2, round((active / (128**2 * 12.8)) ** (1 / 3)))
    hidden = max(64, 64 * round(math.sqrt(active / depth / 12.8) / 64))
    vocab = int(min(vocab, 0.15 * active / hidden))
    tables = 2 * hidden * vocab
    body = (active - tables) / depth
    attention = int(body * 0.2)
    score = 2 * hidden
    if active < total:
        experts = max(16, round(8 * (total - active) / (0.7 * body * depth)) + 8)
        routed = (total - tables) / depth - attention - 0.1 * body
        routed_active = body - attention - 0.1 * body
        layer = Layer(
            attention,
            routed=int(routed),
            other=int(0.1 * body),
            score=score,
            experts=experts,
            chosen=max(1, round(routed_active / routed * experts)),
        )
    else:
        layer = Layer(attention, dense=int(body - attention), score=score)
    shape = Shape(name, hidden, vocab, (layer,) * depth, hidden * vocab, hidden * vocab)
    return Model(shape, context)


def find(text: str, context: int | None = None) -> Model:
    """A preset's name, a config.json or model folder, `dense-7B`, or `moe-671B-37B` (total, active)."""
    path = Path(text)
    sized = re.fullmatch(r"dense-([\d.]+[kmbt])", text, re.IGNORECASE)
    sparse = re.fullmatch(r"moe-([\d.]+[kmbt])-a?([\d.]+[kmbt])", text, re.IGNORECASE)
    if text in table.tree("models"):
        model = preset(text)
    elif sized:
        model = dense(units.count(sized[1], "parameters").value, text)
    elif sparse:
        model = by_hand(text, units.count(sparse[1]).value, units.count(sparse[2]).value)
    elif path.suffix == ".json" or path.is_dir():
        model = Model(config.read(path), source=f"{path}")
    else:
        raise unknown("model", text, table.tree("models"))
    if context is not None:
        if context <= 0:
            raise PlanError(f"A context of {context} tokens is not possible.")
        model = replace(model, context=context)
    return model


def from_config(fields: Mapping[str, Any], name: str, context: int) -> Model:
    """A model from the fields of a configuration, as a run folder holds it."""
    return Model(config.shape(fields, name), context, source=f"configuration of {name}")
