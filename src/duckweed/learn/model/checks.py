"""Checks of a model before it is trained: that it predicts the next token from those before it, that a
step of training is possible, and that what is exported is read back as it was.

All of them are done once, on the first weights, so that a run does not fail at its end.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from duckweed.learn.data.tokenizer import Tokenizer
from duckweed.learn.device import seeded
from duckweed.learn.model.architecture import ModelError, Reason
from duckweed.learn.model.configuration import brief
from duckweed.learn.model.generation import continued
from duckweed.learn.model.model import buffers_of, quiet

TOLERANCE = 1e-4
"""Of a past logit when the future changes, as a share of what changes there where that is less than 1; of
a logit that is read back, as a share of the largest where that is more than 1; of a loss, in nats."""
SHORT = 32
"""Tokens of a step in bf16, which a CPU without AMX only emulates."""
SAMPLE = (
    "The mill stood by the water. 1234567 ducks, 3.14159; in the year 1789!\n"
    "def f(x):\n\treturn {'a': x**2}  # naïve café — “quoted”, it's\r\n\n"
    "漢字 かな 한국어 عربى עברית हिन्दी 🎉🦆 \u00a0\u2028 x"
)


class Unsuited(ModelError):
    """A model that a run cannot train; `reason` says why, the message with what."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"this model {reason}: {detail}", reason)


@torch.no_grad()
def check_causal(model: Any, length: int, vocabulary: int, device: str = "cpu") -> None:
    """Raises Unsuited where later tokens change the logits of earlier ones."""
    rng = np.random.default_rng(0)
    before = torch.from_numpy(rng.integers(0, vocabulary, (1, length))).to(device)
    cut = length // 2
    after = before.clone()
    after[:, cut:] = (after[:, cut:] + 1) % vocabulary
    with seeded(0, device):
        one = _logits(model, before)
    with seeded(0, device):
        two = _logits(model, after)
    gaps = (one - two).abs()
    gap, change = float(gaps[:, :cut].max()), float(gaps[:, cut:].max())
    if not gap <= TOLERANCE * min(1.0, change):
        raise Unsuited(
            Reason.CAUSAL,
            f"later tokens change earlier logits by {gap:.3g}; an encoder becomes a decoder with "
            '"is_decoder": true in its configuration',
        )


def check_trains(model: nn.Module, length: int, vocabulary: int, device: str = "cpu") -> None:
    """Raises Unsuited unless the model takes a sequence of `length` tokens, is causal, and can be trained
    a step; its weights stay as they are."""
    model.to(device).eval()
    with _named(_limits(model, length)):
        check_causal(model, length, vocabulary, device)
    before = buffers_of(model)
    tokens = torch.arange(length, device=device)[None] % vocabulary
    try:
        _step(model, tokens, device)
    except Exception as error:  # of whatever kind its code raises
        reason = Reason.LENGTH if "length" in str(error).lower() else Reason.TRAIN
        raise Unsuited(reason, brief(error)) from error
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    for name, gradient in gradients:
        if not torch.isfinite(gradient).all():
            raise Unsuited(Reason.FINITE, f"the gradient of {name} in the first step")
    if not gradients:
        raise Unsuited(Reason.TRAIN, "no parameter gets a gradient")
    for name, value in buffers_of(model).items():
        if not torch.equal(value, before[name]):
            raise Unsuited(
                Reason.BUFFERS, f"{name}; buffers are fixed in a run, as peers do not exchange them"
            )
    model.zero_grad(set_to_none=True)
    model.to("cpu").eval()


def check_bf16(model: nn.Module, length: int, vocabulary: int) -> None:
    """Raises ModelError unless the model can be trained a step where matrices are multiplied in bf16, as peers with
    a GPU do; its weights stay as they are. Some code of transformers adds such products to float32 in place, which
    PyTorch refuses."""
    tokens = torch.arange(min(length, SHORT))[None] % vocabulary
    try:
        with torch.autocast("cpu", torch.bfloat16):
            _step(model, tokens, "cpu")
    except Exception as error:  # of whatever kind its code raises
        raise ModelError(
            f"the model cannot be trained in bf16, as machines with a GPU would do ({brief(error)}); set "
            'inner.precision = "fp32"'
        ) from error
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()


def _step(model: nn.Module, tokens: torch.Tensor, device: str) -> None:
    """Gradients of a model that is trained on tokens int64[1, l]."""
    with seeded(0, device):
        model.train()
        logits = model(input_ids=tokens).logits
        nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()


@torch.no_grad()
def check_packs(model: Any, length: int, vocabulary: int) -> None:
    """Raises Unsuited unless what stands before a place where positions begin anew changes nothing behind it."""
    rng = np.random.default_rng(1)
    cut = max(1, length // 3)
    whole = torch.from_numpy(rng.integers(0, vocabulary, (1, length)))
    positions = torch.cat([torch.arange(cut), torch.arange(length - cut)])[None]
    try:
        packed = model.eval()(input_ids=whole, position_ids=positions).logits[:, cut:]
    except Exception as error:  # of whatever kind its code raises
        raise Unsuited(Reason.PACKING, f"{brief(error)}; set task.packing = false") from error
    alone = _logits(model, whole[:, cut:])
    gap = float((packed.float() - alone).abs().max())
    if not gap <= TOLERANCE * max(1.0, float(alone.abs().max())):
        raise Unsuited(
            Reason.PACKING,
            f"what stands before a conversation changes its logits by {gap:.3g}; set task.packing = false",
        )


@torch.no_grad()
def check_export(
    model: nn.Module, tokenizer: Tokenizer, folder: Path, texts: Sequence[str]
) -> tuple[Any, Any]:
    """Model and tokenizer as transformers reads them from `folder`. Raises Unsuited unless the tokenizer
    gives the ids of training for the texts, and the model the logits and loss of `model`."""
    with _reading(folder):
        found: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        special = [x for x in found.all_special_tokens if x]
    for text in [SAMPLE, *texts]:
        if any(x in text for x in special):
            continue  # spelt in a prompt it is the token, in training it is text
        ids, again = tokenizer.encode([text])[0].tolist(), found(text, add_special_tokens=False)
        if ids != (other := list(again["input_ids"])):
            n = next((n for n, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b), 0)
            raise Unsuited(
                Reason.EXPORT,
                f"its tokenizer gives other ids than in training: {other[n : n + 4]} and not "
                f"{ids[n : n + 4]}, from token {n} of {text[:40]!r}",
            )
    if found.eos_token_id != tokenizer.end:
        raise Unsuited(Reason.EXPORT, f"its tokenizer ends a text with {found.eos_token_id}")
    with _reading(folder), quiet():
        network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False
        )
    network.config.use_cache = model.config.use_cache = False  # type: ignore[union-attr]
    tokens = torch.arange(33)[None] * 7 % tokenizer.size
    with seeded(0, "cpu"):
        one = _logits(model.eval(), tokens)
    with seeded(0, "cpu"), _reading(folder):
        two = _logits(network.eval(), tokens)
    gap = float((one - two).abs().max())
    if not gap <= TOLERANCE * max(1.0, float(one.abs().max())):
        raise Unsuited(Reason.EXPORT, f"its logits differ by {gap:.3g}")
    losses = [nn.functional.cross_entropy(x[0, :-1], tokens[0, 1:]).item() for x in (one, two)]
    if not abs(losses[0] - losses[1]) <= TOLERANCE:
        raise Unsuited(Reason.EXPORT, f"its loss is {losses[1]:.6f} and not {losses[0]:.6f}")
    with _reading(folder, Reason.GENERATE):
        continued(network, found, SAMPLE[:8], 2, 0.0, 0, "cpu")
    return network, found


def _logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """f32[b, length, vocabulary], finite."""
    logits = getattr(model(input_ids=tokens), "logits", None)
    if logits is None or logits.shape[:2] != tokens.shape or logits.ndim != 3:
        raise Unsuited(Reason.TOKENS, "it does not give one set of logits for each token")
    if not (finite := torch.isfinite(logits)).all():
        worst = float(logits[~finite][0])
        raise Unsuited(Reason.FINITE, f"a logit of random tokens is {worst}")
    return logits.float()


@contextmanager
def _named(limit: str) -> Iterator[None]:
    """Errors of a model's code in words."""
    try:
        yield
    except Unsuited:
        raise
    except IndexError as error:  # a table of positions that is too short
        raise Unsuited(Reason.LENGTH, limit) from error
    except Exception as error:  # of whatever kind its code raises
        reason = Reason.LENGTH if "length" in str(error).lower() else Reason.TOKENS
        raise Unsuited(reason, f"{limit}: {brief(error)}") from error


@contextmanager
def _reading(folder: Path, reason: Reason = Reason.EXPORT) -> Iterator[None]:
    try:
        yield
    except Unsuited:
        raise
    except Exception as error:  # of many kinds
        raise Unsuited(reason, f"{folder.name}: {brief(error)}") from error


def _limits(model: nn.Module, length: int) -> str:
    most = getattr(model.config, "max_position_embeddings", None)
    fit = (
        f"; set model.sequence = {most} or less" if isinstance(most, int) and most < length else ""
    )
    return f"model.sequence = {length}{fit}"
