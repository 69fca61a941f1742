"""One trial: a recipe trained on one seed until its FLOPs are spent, exported with what it declares.

Where the campaign's plain specification has several peers, a trial is a small run of a swarm
(`peers_in_one`), else plain training. The same trial on the same machine with the same number of
threads gives the same weights, bit for bit. A trial sees training text only.
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from transformers import PretrainedConfig

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.space.recipe import specification
from duckweed.evolve.trial_spec import TrialSpec
from duckweed.evolve.trials import peers_in_one
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
LEAST_STEPS = 8  # of a trial of one peer
LEAST_ROUNDS = 3  # of a trial of several
SAVINGS = 50
"""By this factor a trial of several peers moves fewer bytes, each way, than data-parallel training
of the plain recipe for as many FLOPs; else proposals would win by sending more."""


class TrialError(ValueError):
    """A trial that cannot be trained; the message says why."""


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a trial says it did; the evaluator counts again."""

    steps: int  # inner steps of all peers together
    tokens: int
    diverged: str = ""  # why there are no weights


class TrialPlanner:
    """Plans a campaign's trials. plain: the specification that recipes differ from; base: the folder
    that its model file is relative to; vocabulary: ids of the tokenizer."""

    def __init__(self, plain: RunSpec, base: Path, vocabulary: int) -> None:
        self.plain, self.base, self.vocabulary = plain, base, vocabulary

    @classmethod
    def of(cls, folder: CampaignFolder) -> "TrialPlanner":
        """For an existing campaign, or a copy of the part of it that trials see."""
        return cls(folder.plain(), folder.path, folder.vocabulary())

    def configuration(self, spec: RunSpec, size: int) -> PretrainedConfig:
        """The model of a trial's specification, at `size` times its parameters."""
        source, length = spec.model.source, spec.model.sequence
        found = models.configuration(
            source, self.base, self.vocabulary, length, architecture=spec.architecture
        )
        return sized(found, size)

    def plan(self, trial: TrialSpec) -> tuple[RunSpec, Cost]:
        """The stretched specification of a trial and its cost. Raises TrialError, SpecError, ModelError."""
        spec = specification(self.plain, trial.recipe)
        spec = msgspec.structs.replace(spec, seed=trial.seed)
        skeleton = models.skeleton(self.configuration(spec, trial.size))
        count = cost(skeleton, spec.inner, spec.model.sequence)
        tokens, least = spec.tokens_per_step, _least(spec)
        if (steps := count.steps(trial.budget, tokens)) < least:
            raise TrialError(
                f"{trial.budget:.3g} FLOPs pay for {steps} steps of this recipe, at least {least} are "
                f"needed, which take {least * count.step(tokens):.2g}; or a smaller model or batch"
            )
        return stretched(spec, self.plain, steps), count

    def allowance(self, trial: TrialSpec) -> int:
        """Bytes that a peer of a trial may send, and as many that it may fetch."""
        peers = self.plain.rounds.peers
        spec, count = self.plan(msgspec.structs.replace(trial, recipe={}))
        return data_parallel_bytes(count.parameters, peers, spec.total_steps) // peers // SAVINGS


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


def stretched(spec: RunSpec, plain: RunSpec, steps: int) -> RunSpec:
    """The specification with its schedule over `steps` steps of all peers together, in whole rounds;
    warm-up keeps its share of the plain one."""
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
    """Fewest steps of all peers together that show anything."""
    if spec.rounds.peers == 1:
        return LEAST_STEPS
    return (LEAST_ROUNDS * spec.rounds.peers + _measuring(spec)) * spec.inner.steps


def _measuring(spec: RunSpec) -> int:
    """Blocks that are trained only for what peers share in the first round."""
    return int(spec.rounds.peers > 1 and codec_type(spec.wire).measured)


def taken(spec: RunSpec) -> int:
    """Inner steps that a stretched specification takes, of all peers together."""
    return (spec.rounds.peers * spec.rounds.count + _measuring(spec)) * spec.inner.steps


def train(planner: TrialPlanner, dataset: Dataset, trial: TrialSpec, out: Path) -> Declared:
    """Train the trial and write `out`: model.safetensors, config.json, declared.json and, of several
    peers, exchange.msgpack."""
    spec, _ = planner.plan(trial)
    config = planner.configuration(spec, trial.size)
    model: Any = models.build(config, "cpu", spec.seed, spec.architecture.zero_projections)
    out.mkdir(parents=True, exist_ok=True)
    steps = taken(spec)
    declared = Declared(steps, steps * spec.tokens_per_step)
    try:
        one, weights = learner(spec, config, dataset, "cpu"), models.read_weights(model)
        if spec.rounds.peers > 1:
            layout = models.layout_of(model)
            weights, exchange = peers_in_one.train(spec, layout, weights, one)
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
