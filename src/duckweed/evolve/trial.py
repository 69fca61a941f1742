"""One trial: a recipe trained on one seed until its FLOPs are spent, exported with what it declares.

Deterministic: the same cell on the same machine with the same threads gives the same weights, bit
for bit. A trial sees training text only.
"""

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from transformers import PretrainedConfig

from duckweed.evolve.cell import Cell
from duckweed.evolve.cost import Cost, cost
from duckweed.evolve.recipe import specification
from duckweed.learn import dataset as datasets
from duckweed.learn import model as models
from duckweed.learn.dataset import Dataset
from duckweed.learn.trainer import Diverged, Trainer
from duckweed.run.folder import write_atomically
from duckweed.run.spec import RunSpec

LEAST_STEPS = 8


class TrialError(ValueError):
    """A cell that cannot be trained; the message says why."""


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a trial says it did; the evaluator counts again."""

    steps: int
    tokens: int
    diverged: str = ""


def sized(config: PretrainedConfig, size: int) -> PretrainedConfig:
    """The configuration with about `size` times the parameters: wider by its root, heads kept."""
    if size == 1:
        return config
    heads = config.num_attention_heads
    # twice the heads: rotary positions need an even width of each head
    step = 2 * heads
    ratio = size**0.5
    config.hidden_size = round(config.hidden_size * ratio / step) * step
    config.intermediate_size = round(config.intermediate_size * ratio / 8) * 8
    config.head_dim = config.hidden_size // heads
    if hasattr(config, "query_pre_attn_scalar"):
        config.query_pre_attn_scalar = config.head_dim
    return config


def skeleton(spec: RunSpec, base: Path, vocabulary: int, size: int) -> nn.Module:
    """The model of a specification without memory for weights, at `size` times its parameters."""
    return models.skeleton(configuration(spec, base, vocabulary, size))


def configuration(spec: RunSpec, base: Path, vocabulary: int, size: int) -> PretrainedConfig:
    source, length = spec.model.source, spec.model.sequence
    wanted = models.configuration(source, base, vocabulary, length, architecture=spec.architecture)
    return sized(wanted, size)


def stretched(spec: RunSpec, steps: int) -> RunSpec:
    """The specification with its schedule over `steps` steps: warm-up keeps its share."""
    warmup = min(steps - 1, round(spec.inner.warmup / spec.total_steps * steps))
    inner = msgspec.structs.replace(spec.inner, warmup=warmup, steps=steps)
    rounds = msgspec.structs.replace(spec.rounds, count=1)
    return msgspec.structs.replace(spec, inner=inner, rounds=rounds)


def plan(plain: RunSpec, base: Path, vocabulary: int, cell: Cell) -> tuple[RunSpec, Cost]:
    """The stretched specification of a cell and its cost. Raises TrialError, SpecError, ModelError."""
    spec = specification(plain, cell.recipe)
    spec = msgspec.structs.replace(spec, seed=cell.seed)
    count = cost(skeleton(spec, base, vocabulary, cell.size), spec.inner, spec.model.sequence)
    steps = count.steps(cell.budget, spec.inner.batch * spec.model.sequence)
    if steps < LEAST_STEPS:
        raise TrialError(
            f"{cell.budget:.3g} FLOPs pay for {steps} steps of this recipe, at least {LEAST_STEPS} "
            "are needed; give a larger budget, or a smaller model or batch"
        )
    return stretched(spec, steps), count


def train(plain: RunSpec, base: Path, dataset: Dataset, cell: Cell, out: Path) -> Declared:
    """Train the cell and write `out`: model.safetensors, config.json, declared.json."""
    spec, _ = plan(plain, base, dataset.manifest.vocabulary, cell)
    inner, length = spec.inner, spec.model.sequence
    config = configuration(spec, base, dataset.manifest.vocabulary, cell.size)
    model: Any = models.build(config, "cpu", spec.seed, spec.architecture.zero_projections)
    trainer = Trainer(model, inner, spec.total_steps, "cpu")
    batches = (
        datasets.batch(dataset, spec.seed, 0, step, inner.steps, inner.batch, length)
        for step in range(inner.steps)
    )
    out.mkdir(parents=True, exist_ok=True)
    tokens = inner.steps * inner.batch * length
    declared = Declared(inner.steps, tokens)
    try:
        with torch.random.fork_rng(devices=[]):
            trainer.train(models.read_weights(model), batches, 0, seed=spec.seed & 0x7FFFFFFF)
    except Diverged as error:
        declared = Declared(inner.steps, tokens, str(error))
    else:
        models.export(model, models.read_weights(model), out, dataset.tokenizer.end)
    write_atomically(out / "declared.json", msgspec.json.encode(declared))
    return declared
