"""The evaluator: what a trial's exported weights are worth, by code and data that trials never see.

It trusts nothing but bytes: weights are read as safetensors into the model that the declared
configuration names; parameters, tokens and FLOPs are counted again; rounds of several peers are
closed again, must lead to the weights, and their bytes are counted; the loss is computed here; and a
change of future tokens must leave the logits of the past as they were.
"""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.torch import load_file

from duckweed.evolve.trial_spec import TrialResult, TrialSpec
from duckweed.evolve.trials.peers_in_one import Exchange, ExchangedBytes, ExchangeError, replay
from duckweed.evolve.trials.text_split import read
from duckweed.evolve.trials.trial import EXCHANGE, Declared, TrialPlanner, taken
from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import ModelError
from duckweed.learn.model.checks import check_causal
from duckweed.merge.round import MergeError
from duckweed.run.spec import RunSpec
from duckweed.wire.frame import WireError

TOKENS = {"select": 32768, "vault": 65536}  # that are evaluated of each text
BATCH = 16  # sequences evaluated at once
CONFIG_LIMIT = 1 << 16  # bytes of a declared configuration
EXCHANGE_LIMIT = 1 << 24  # bytes of announcements, beyond the blobs


class ExportRefused(ValueError):
    """An export that is not what its trial asks for; the trial counts as failed."""


class Evaluator:
    """Evaluates exports on the held-out texts in the folder `held`."""

    def __init__(self, planner: TrialPlanner, held: Path) -> None:
        self.planner, self.held = planner, held

    def evaluate(self, trial: TrialSpec, out: Path) -> TrialResult:
        """The result of a trial from the folder that it wrote. A refusal is a result without
        loss and with a reason; only a broken installation raises."""
        spec, cost = self.planner.plan(trial)
        each, steps = spec.tokens_per_step, taken(spec)
        tokens, spent = steps * each, steps * cost.step(each)
        evaluated = TOKENS[trial.split] // spec.model.sequence * spec.model.sequence
        result = TrialResult(None, spent, tokens, cost.parameters)
        try:
            declared = msgspec.json.decode((out / "declared.json").read_bytes(), type=Declared)
            if (declared.steps, declared.tokens) != (steps, tokens):
                raise ExportRefused(
                    f"{declared.tokens:,} tokens in {declared.steps} steps are declared, the budget "
                    f"pays for {tokens:,} in {steps}"
                )
            if declared.diverged:
                raise ExportRefused(f"diverged: {declared.diverged}")
            model = self._model(spec, trial, out)
            moved = (
                self._moved(spec, trial, out, model) if spec.rounds.peers > 1 else ExchangedBytes()
            )
            check_causal(model, spec.model.sequence, self.planner.vocabulary)
            loss = self._loss(model, trial, spec.model.sequence)
            if not math.isfinite(loss):
                raise ExportRefused(f"the held-out loss is {loss}")
        except (ExportRefused, ModelError, OSError, msgspec.MsgspecError) as error:
            return msgspec.structs.replace(result, reason=str(error)[:300])
        weights = blake3((out / "model.safetensors").read_bytes()).hexdigest(16)
        total = spent + cost.forward * evaluated
        return msgspec.structs.replace(
            result, loss=loss, flops=total, weights=weights, sent=moved.sent, fetched=moved.fetched
        )

    def _moved(self, spec: RunSpec, trial: TrialSpec, out: Path, model: Any) -> ExchangedBytes:
        """The bytes of the rounds, which must lead to the weights that were exported."""
        allowed = self.planner.allowance(trial)
        path = out / EXCHANGE
        if path.stat().st_size > spec.rounds.peers * allowed + EXCHANGE_LIMIT:
            raise ExportRefused(f"what peers handed in is more than {allowed:,} bytes each")
        exchange = msgspec.msgpack.decode(path.read_bytes(), type=Exchange)
        config = self.planner.configuration(spec, trial.size)
        first: Any = models.build(config, "cpu", spec.seed, spec.architecture.zero_projections)
        start = models.read_weights(first)
        try:
            weights, moved = replay(spec, models.layout_of(first), start, exchange)
        except (ExchangeError, MergeError, WireError) as error:
            raise ExportRefused(f"the rounds do not hold: {error}") from error
        if not np.array_equal(weights, models.read_weights(model)):
            raise ExportRefused("what peers handed in does not lead to the exported weights")
        if max(moved.sent, moved.fetched) > allowed:
            raise ExportRefused(
                f"{moved.sent:,} bytes sent and {moved.fetched:,} fetched by a peer, allowed are "
                f"{allowed:,} each"
            )
        return moved

    def _model(self, spec: RunSpec, trial: TrialSpec, out: Path) -> Any:
        """The declared model, which must be the one that the recipe names, with weights."""
        wanted = self.planner.configuration(spec, trial.size)
        path = out / "config.json"
        if path.stat().st_size > CONFIG_LIMIT:
            raise ExportRefused("the declared configuration is too long")
        declared = json.loads(path.read_text("utf-8"))
        for key in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers"):
            if declared.get(key) != getattr(wanted, key):
                raise ExportRefused(
                    f"declares {key} = {declared.get(key)!r}, not {getattr(wanted, key)}"
                )
        model: Any = models.build(wanted, "cpu")
        try:
            weights = load_file(out / "model.safetensors")
            missing, unknown = model.load_state_dict(weights, strict=False)
        except (SafetensorError, RuntimeError) as error:
            raise ExportRefused(f"the weights do not fit the declared model: {error}") from error
        tied = {"lm_head.weight"} if wanted.tie_word_embeddings else set()
        if unknown or set(missing) - tied:
            raise ExportRefused("the weights do not fit the declared model")
        return model.eval()

    @torch.no_grad()
    def _loss(self, model: Any, trial: TrialSpec, length: int) -> float:
        """Bits per byte of held-out text: mean nats per token times tokens per byte."""
        tokens, facts = read(self.held, trial.split)
        windows = (tokens.size - 1) // length
        count = max(1, min(windows, TOKENS[trial.split] // length))
        chosen = np.arange(count) * windows // count
        nats = 0.0
        for first in range(0, count, BATCH):
            starts = chosen[first : first + BATCH, None] * length
            window = torch.from_numpy(tokens[starts + np.arange(length + 1)].astype(np.int64))
            logits = model(input_ids=window[:, :-1]).logits.double()
            chance = torch.log_softmax(logits, -1).gather(-1, window[:, 1:, None])
            nats -= float(chance.sum())
        return nats / (count * length) / math.log(2) * facts.tokens / facts.bytes
