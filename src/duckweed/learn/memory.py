"""How much memory a peer needs, said before anything is allocated; and giving back what is free."""

import ctypes
import sys
from functools import cache
from typing import Any, NamedTuple, cast

import msgspec
import psutil
import torch
from msgspec import UNSET
from torch import nn

from duckweed.learn import fit
from duckweed.learn.arithmetic import (
    activation_bytes,
    in_hand,
    logits_bytes,
    moment_count,
    moments,
)
from duckweed.learn.fit import ANY, Fit, Wish
from duckweed.learn.model.model import layers_of, layout_of
from duckweed.learn.model.network import LOGITS
from duckweed.run.layout import Layout
from duckweed.run.sections import Inner
from duckweed.run.spec import RunSpec
from duckweed.run.task.work import holds_start, writes
from duckweed.run.units import show_count, show_size

AGAIN = 1.8
"""What activations take that are computed again, as a multiple of their bytes: they come and go, and
glibc does not fill all the gaps (measured, bench/peer/memory.py)."""
MAPPED = 1 << 25
"""Bytes from which on glibc takes an array from the system and gives it back (DEFAULT_MMAP_THRESHOLD_MAX)."""
PROCESS = 470_000_000
"""Bytes of Python, torch and transformers once they have trained anything (likewise)."""

DRAWING = 44
"""Bytes for each answer and word of the vocabulary while a token is drawn: logits, their logarithms, and noise of 64 bits."""

TRY = 1.3  # a device on which a way to fit a step can be tried may be that much smaller than estimated

_M_ARENA_MAX = -8  # as in malloc.h


class OutOfMemory(ValueError):
    """The model does not fit; the message says how much it needs and how much there is."""


def needed(model: nn.Module, spec: RunSpec, way: Fit | None = None) -> int:
    """Bytes for one peer. way: how a step is fitted into memory; None: in one pass.

    There are always the model, global weights, outer momentum and residual, f32[P] each, and the
    moments, where they are kept twice: those of what counted last, and those of what is on its way. On top of it comes a
    step; at its end what Muon has in hand, or the pseudo-gradient; and the weights that it began from, where these are a peer's
    own (inner.residual). Or else, where that is more, compressing: the pseudo-gradient,
    what is to be sent, what is sent, and a code of a byte each, beside what the passes have freed, because glibc keeps it.
    Or writing answers, in reinforcement learning.
    With overlap a peer applies a round while it trains ahead: weights and outer momentum before and
    after, what it has sent, what was merged, the weights and momentum that it began ahead from, and
    what decoding needs for a moment.
    """
    step, parameters = _step(model, spec, way), sum(p.numel() for p in model.parameters())
    own = 4 * parameters * (spec.inner.residual is not UNSET)
    training = sum(step) + max(0, 4 * parameters - step.hands) + own
    compressing = step.gradients + step.layers + step.start + 13 * parameters
    return _kept(model, spec, way) + max(training, compressing, _answers(model, spec))


def in_main(model: nn.Module, spec: RunSpec) -> int:
    """Bytes of main memory of a peer whose device keeps nothing (`Fit.offload`): all that is kept, gradients, and
    three of the six times that Muon has matrices in hand; the other three are on the device."""
    gradients = 4 * sum(p.numel() for p in model.parameters())
    return _kept(model, spec) + gradients + in_hand(model, spec.inner) // 2 + PROCESS


def _kept(model: nn.Module, spec: RunSpec, way: Fit | None = None) -> int:
    """Bytes of weights, moments and the vectors of a round."""
    layout, inner = layout_of(model), spec.inner
    total, moved = layout.total, moment_count(model, inner)
    own = 0 if inner.state == "fresh" else moved
    always = 3 * total + own + _share(total + moved, way)
    if spec.rounds.overlap:
        always += 9 * total + (own if inner.orthogonal else 0)
    return 4 * always


class _Step(NamedTuple):
    """Bytes of a step beside weights and moments. All of it is added up, because glibc keeps what a pass has freed. Where
    states are in main memory: of the device, to which the weights come that are at work."""

    gradients: int
    layers: int
    """Activations, logits among them where these are small."""
    logits: int
    """Where they are so large that glibc gives them back as soon as they are freed."""
    hands: int
    """What the optimizer has in hand."""
    gathered: int
    """Weights that are on the device for a moment only."""
    start: int
    """The weights that the run began from, where the loss asks for them."""


def _step(model: nn.Module, spec: RunSpec, way: Fit | None = None) -> _Step:
    way, inner, length = way or Fit(spec.inner.batch), spec.inner, spec.model.sequence
    micro, config = min(way.micro, inner.batch), cast(Any, model.config)
    at_once = max(1, LOGITS // (4 * config.vocab_size))
    layers = activation_bytes(model, micro * length, length, way.checkpoint)
    logits = logits_bytes(model, micro * length, at_once)
    parameters = sum(p.numel() for p in model.parameters())
    gradients, start = 4 * _share(parameters, way), 4 * parameters * holds_start(spec)
    hands = in_hand(model, inner) // (way.processes if way.sharded else 1)
    gathered = _gathered(model) if way.sharded or way.offload else 0
    if way.offload:
        gradients = 0
    if logits < 3 * MAPPED:
        layers, logits = layers + logits, 0
    layers = int((AGAIN if way.checkpoint else 1) * layers)
    return _Step(gradients, layers, logits, hands, gathered, start)


def _share(numbers: int, way: Fit | None) -> int:
    """How many of so many numbers of a model one process has."""
    return -(-numbers // way.processes) if way and way.sharded else numbers


def _gathered(model: nn.Module) -> int:
    """Bytes of the parts of a model that a device has at once where it keeps none (sharded, or in main memory): what
    is outside of all layers, and two layers, of which one is on its way; of one of each also the gradient."""
    layers = [sum(p.numel() for p in layer.parameters()) for layer in layers_of(model)]
    outside = sum(p.numel() for p in model.parameters()) - sum(layers)
    return 4 * (2 * outside + 3 * max(layers, default=0))


def own_moments(inner: Inner, layout: Layout) -> int:
    """How many numbers a peer carries along for itself: its inner moments, roughly."""
    if inner.state == "fresh":
        return 0
    return moments(inner) * layout.total


def one_heap() -> None:
    """Let all threads of this process take memory from one heap. glibc gives each its own, and what
    one has freed is of no use to another: a peer trains, compresses and trains ahead in several, of
    which one works at a time. To be called before they begin; with other libraries nothing is done."""
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give the system back what was freed. glibc keeps most of it: after a block was trained and
    compressed, some 200 MB for a model of 15 million parameters."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def available(device: str) -> int:
    """Bytes free on the device."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def room(device: str, peers: int, limit: float | None = None) -> int:
    """Bytes that each of `peers` peers on this machine can count on: of what is free, and of `limit`
    bytes, where the user has set one."""
    free = available(device)
    return int(free if limit is None else min(free, limit)) // max(1, peers)


def ways(model: nn.Module, spec: RunSpec, device: str, wish: Wish) -> list[Fit]:
    """How a learner may fit a step, best first: from the first way on that needs no more than there is.
    On CUDA the estimate is only where to begin to try."""
    there = room(device, 1) if wish.room is None else wish.room
    margin = TRY if device.startswith("cuda") else 1.0
    falling: list[tuple[Fit, int]] = []  # a way that needs more than one before it helps nobody
    for way in _all(model, spec, device, wish):
        need = whole(model, spec, device, way)
        if not falling or need < falling[-1][1]:
            falling.append((way, need))
    fitting = [way for way, need in falling if need <= margin * there]
    return fitting or [falling[-1][0]]


def whole(model: nn.Module, spec: RunSpec, device: str, way: Fit | None = None) -> int:
    """Bytes that a peer takes of its device at its peak: `needed` and the process itself; on CUDA the
    model, its moments and a step, because the vectors of a round are in main memory; or only a step, because the
    states are there, too."""
    if not device.startswith("cuda"):
        return needed(model, spec, way) + PROCESS
    step = max(sum(_step(model, spec, way)), _answers(model, spec))
    if way and way.offload:
        return step
    kept = sum(p.numel() for p in model.parameters()) + moment_count(model, spec.inner)
    return 4 * _share(kept, way) + step


def writing(model: nn.Module, spec: RunSpec, device: str) -> int:
    """Bytes of the device of a peer that only writes: the model; on a CPU also the weights and the outer momentum of the
    state. On top of it comes what writing all answers of a step takes; or, where that is more,
    applying a round: the next state, the gradient and what was merged."""
    parameters, answers = sum(p.numel() for p in model.parameters()), _answers(model, spec)
    if device.startswith("cuda"):
        return 4 * parameters + answers
    return PROCESS + 12 * parameters + max(answers, 16 * parameters)


def _answers(model: nn.Module, spec: RunSpec) -> int:
    """Bytes that writing all answers of a step takes: keys, values and logits. 0 for another task."""
    if not writes(spec):
        return 0
    config, rows, length = cast(Any, model.config), spec.inner.batch, spec.model.sequence
    heads = config.num_attention_heads
    wide = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = (getattr(config, "num_key_value_heads", None) or heads) * wide
    # Of one layer they are there three times, while rows are left behind and what is there is read.
    cache = 2 * 4 * rows * length * kept * (config.num_hidden_layers + 2)
    return int(cache + DRAWING * rows * config.vocab_size)


def check_writing(model: nn.Module, spec: RunSpec, device: str, limit: float | None) -> None:
    """Raises OutOfMemory if a peer that only writes would need more than is free, or than `limit` bytes, where the user
    has set one."""
    need, there = writing(model, spec, device), room(device, 1, limit)
    if need > there:
        raise OutOfMemory(
            f"to write answers with {spec.model.source} takes about {show_size(need)}, and {show_size(there)} are "
            "there (free, and within --memory); close other programs. Fewer answers at once (inner.batch) or a "
            "smaller model would need less, but those are the organiser's to choose"
        )


def check_memory(
    model: nn.Module,
    spec: RunSpec,
    device: str,
    peers: int,
    limit: float | None = None,
    wish: Wish = ANY,
) -> None:
    """Raises OutOfMemory if `peers` peers on this machine would need more than is free, or than
    `limit` bytes, where the user has set one, however a step is fitted."""
    if wish.offload:
        _check_offload(model, spec, device, wish)
    there = room(device, peers, limit)
    least = min(_all(model, spec, device, wish), key=lambda way: whole(model, spec, device, way))
    one = whole(model, spec, device, least)
    if one <= there:
        return
    freer = msgspec.structs.replace(ANY, main=wish.main)
    others = [x for x in _all(model, spec, device, freer) if whole(model, spec, device, x) <= there]
    if others:
        raise OutOfMemory(
            f"{least} need about {show_size(one)} for each peer, and {show_size(there)} are there; "
            f"{others[0].micro} at a time fit: --micro {others[0].micro}, or --micro auto"
        )
    what = (
        f"a path of this family ({spec.model.source})"
        if spec.paths is not UNSET
        else spec.model.source
    )
    each = f" for each peer, {peers} x that is {show_size(peers * one)}" if peers > 1 else ""
    free = available(device)
    has = (
        f"--memory allows {show_size(limit)}"
        if limit is not None and limit < free
        else f"{device} has {show_size(free)} free"
    )
    raise OutOfMemory(
        f"{what} needs about {show_size(one)}{each}, and {has}; that is with {least}. What would fit: "
        f"{'fewer peers (--peers), ' if peers > 1 else ''}{_smaller(model, spec, there, one, device)}"
        + _short(model, spec, device, wish)
    )


def instead(model: nn.Module, spec: RunSpec, device: str, limit: float | None) -> str:
    """What a joiner can do for a run whose training its machine cannot hold; "": nothing."""
    if spec.no_writers or (need := writing(model, spec, device)) > room(device, 1, limit):
        return ""
    return f". To write answers, from which others learn, takes about {show_size(need)}: --answers-only"


def check_limit(limit: float | None, device: str) -> None:
    """Raises OutOfMemory where the user allows less than any peer takes. limit: bytes."""
    if limit is not None and limit < PROCESS and not device.startswith("cuda"):
        raise OutOfMemory(
            f"--memory allows {show_size(limit)}, and Python and PyTorch alone take {show_size(PROCESS)}, without any "
            "model; allow more"
        )


def _smaller(model: nn.Module, spec: RunSpec, there: int, needs: int, device: str) -> str:
    """What would fit into so many bytes, in words. needs: bytes that this model needs; all but those of the process
    itself are taken to grow with its parameters."""
    alone = 0 if device.startswith("cuda") else PROCESS
    parameters = sum(p.numel() for p in model.parameters())
    share = (there - alone) / (needs - alone)
    if share <= 0:
        return f"nothing else, since Python and PyTorch alone take {show_size(alone)}"
    kind = "model" if spec.paths is UNSET else "path"
    return (
        f"a shorter sequence, or a {kind} of about {show_count(share * parameters)} parameters (this one has "
        f"{show_count(parameters)})"
        + ("; a family of more such paths is as large in all" if kind == "path" else "")
    )


def _check_offload(model: nn.Module, spec: RunSpec, device: str, wish: Wish) -> None:
    """Raises OutOfMemory where states cannot be kept in main memory, as the user wants them to be."""
    if why := _no_offload(model, spec, device, wish):
        raise OutOfMemory(f"--offload: {why}; leave it out (--no-offload)")
    need = in_main(model, spec)
    if need > wish.main:
        raise OutOfMemory(
            f"--offload keeps weights, gradients and moments of {spec.model.source} in main memory, which takes about "
            f"{show_size(need)} of it with the vectors of a round, and {show_size(wish.main)} are there (free, and "
            "within --memory); close other programs, or leave it out (--no-offload)"
        )


def _short(model: nn.Module, spec: RunSpec, device: str, wish: Wish) -> str:
    """What is missing of main memory, where it could have held what the device cannot."""
    need = in_main(model, spec)
    if wish.main >= need or not wish.main or _no_offload(model, spec, device, wish):
        return ""
    return (
        f"; its states could be in main memory (--offload) if there were {show_size(need)}, and there are "
        f"{show_size(wish.main)}"
    )


def _no_offload(model: nn.Module, spec: RunSpec, device: str, wish: Wish) -> str:
    """Why states stay on the device; empty: they may go."""
    if not device.startswith("cuda"):
        return f"{device} computes in main memory as it is"
    if wish.processes > 1:
        return "several processes share out the model instead (--shard)"
    if writes(spec):
        return "a model that writes answers is not computed layer by layer"
    return "" if _recomputes(model) else "this model's activations cannot be computed again"


def _recomputes(model: nn.Module) -> bool:
    return bool(getattr(model, "supports_gradient_checkpointing", False))


def _all(model: nn.Module, spec: RunSpec, device: str, wish: Wish) -> list[Fit]:
    away = wish.main and not _no_offload(model, spec, device, wish)
    enough = bool(away) and in_main(model, spec) <= wish.main
    return fit.ways(wish, spec.inner.batch, _recomputes(model), enough)
