"""One trial: a recipe trained on one seed until its FLOPs are spent, exported with what it declares.

Where the campaign's plain specification has several peers, a trial is a swarm's run in small
(`exchange`), else plain training. Deterministic: the same cell on the same machine with the same
threads gives the same weights, bit for bit. A trial sees training text only.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import nn
from transformers import PretrainedConfig

from duckweed.evolve.decide.trial_spec import Cell
from duckweed.evolve.space.recipe import specification
from duckweed.evolve.trials import peers_in_one as exchanges
from duckweed.learn.arithmetic import Cost, cost
from duckweed.learn.data.dataset import Dataset
from duckweed.learn.learner import Diverged, Learner, Part
from duckweed.learn.model import model as models
from duckweed.learn.registry import learner
from duckweed.merge.round import MergeError
from duckweed.round.run_log import data_parallel_bytes
from duckweed.run.folder import write_atomically
from duckweed.run.spec import RunSpec
from duckweed.wire.codec import codec_type
from duckweed.wire.frame import WireError

EXCHANGE = "exchange.msgpack"
LEAST_STEPS, LEAST_ROUNDS = 8, 3
SAVINGS = 50
"""A trial of several peers moves so many times fewer bytes, each way, than data-parallel training
of the plain recipe for as many FLOPs; else proposals would win by talking more."""


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


def stretched(spec: RunSpec, plain: RunSpec, steps: int) -> RunSpec:
    """The specification with its schedule over so many steps of all peers together, in whole rounds;
    warm-up keeps the share that it has of the plain one."""
    count, each = 1, steps
    if spec.rounds.peers > 1:
        each = spec.inner.steps
        count = (steps // each - _measuring(spec)) // spec.rounds.peers
    total = count * each
    warmup = min(total - 1, round(spec.inner.warmup / plain.total_steps * total))
    inner = msgspec.structs.replace(spec.inner, warmup=warmup, steps=each)
    rounds = msgspec.structs.replace(spec.rounds, count=count)
    return msgspec.structs.replace(spec, inner=inner, rounds=rounds)


def _least(spec: RunSpec) -> int:
    """Steps of all peers together without which nothing would be seen."""
    if spec.rounds.peers == 1:
        return LEAST_STEPS
    return (LEAST_ROUNDS * spec.rounds.peers + _measuring(spec)) * spec.inner.steps


def _measuring(spec: RunSpec) -> int:
    """Blocks that are trained only for what peers share in the first round."""
    return int(spec.rounds.peers > 1 and codec_type(spec.wire).measured)


def taken(spec: RunSpec) -> int:
    """Inner steps that a stretched specification takes, of all peers together."""
    return (spec.rounds.peers * spec.rounds.count + _measuring(spec)) * spec.inner.steps


def plan(plain: RunSpec, base: Path, vocabulary: int, cell: Cell) -> tuple[RunSpec, Cost]:
    """The stretched specification of a cell and its cost. Raises TrialError, SpecError, ModelError."""
    spec = specification(plain, cell.recipe)
    spec = msgspec.structs.replace(spec, seed=cell.seed)
    count = cost(skeleton(spec, base, vocabulary, cell.size), spec.inner, spec.model.sequence)
    tokens, least = spec.inner.batch * spec.model.sequence, _least(spec)
    if (steps := count.steps(cell.budget, tokens)) < least:
        raise TrialError(
            f"{cell.budget:.3g} FLOPs pay for {steps} steps of this recipe, at least {least} are needed, "
            f"which take {least * count.step(tokens):.2g}; or a smaller model or batch"
        )
    return stretched(spec, plain, steps), count


def allowance(plain: RunSpec, base: Path, vocabulary: int, cell: Cell) -> int:
    """Bytes that a peer of a cell's trial may send, and as many that it may fetch."""
    peers = plain.rounds.peers
    same = msgspec.structs.replace(cell, recipe={})
    spec, count = plan(plain, base, vocabulary, same)
    return data_parallel_bytes(count.parameters, peers, spec.total_steps) // peers // SAVINGS


def train(plain: RunSpec, base: Path, dataset: Dataset, cell: Cell, out: Path) -> Declared:
    """Train the cell and write `out`: model.safetensors, config.json, declared.json and, of several
    peers, exchange.msgpack."""
    spec, _ = plan(plain, base, dataset.manifest.vocabulary, cell)
    config = configuration(spec, base, dataset.manifest.vocabulary, cell.size)
    model: Any = models.build(config, "cpu", spec.seed, spec.architecture.zero_projections)
    out.mkdir(parents=True, exist_ok=True)
    steps = taken(spec)
    declared = Declared(steps, steps * spec.inner.batch * spec.model.sequence)
    try:
        one, weights = learner(spec, config, dataset, "cpu"), models.read_weights(model)
        if spec.rounds.peers > 1:
            layout = models.layout_of(model)
            weights, exchange = exchanges.train(spec, layout, weights, one)
            write_atomically(out / EXCHANGE, msgspec.msgpack.encode(exchange))
        else:
            weights = _alone(spec, weights, one)
    except (Diverged, MergeError, WireError) as error:
        declared = msgspec.structs.replace(declared, diverged=str(error))
    else:
        models.write_weights(model, weights)
        models.export(model, out, dataset.tokenizer.end)
    write_atomically(out / "declared.json", msgspec.json.encode(declared))
    return declared


def _alone(spec: RunSpec, weights: np.ndarray, learner: Learner) -> np.ndarray:
    """The weights after all steps of one peer, f32[P]."""
    learner.train(weights, Part(0, 0, spec.inner.steps, seed=spec.seed & 0x7FFFFFFF))
    return learner.weights()
