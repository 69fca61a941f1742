"""How much memory a peer needs, said before anything is allocated; and giving back what is free."""

import ctypes
import sys
from functools import cache
from typing import Any

import psutil
import torch
from torch import nn

from duckweed.learn import fit
from duckweed.learn.arithmetic import moments, training_bytes
from duckweed.learn.fit import ANY, Fit, Wish
from duckweed.learn.model.model import layout_of
from duckweed.run.layout import Layout
from duckweed.run.sections import Inner
from duckweed.run.spec import RunSpec

PROCESS = 500_000_000  # bytes that Python, torch and transformers take before any model

TRY = 1.3  # a device on which a way to fit a step can be tried may be that much smaller than estimated

_M_ARENA_MAX = -8  # as in malloc.h


class OutOfMemory(ValueError):
    """The model does not fit; the message says how much it needs and how much there is."""


def needed(model: nn.Module, spec: RunSpec, way: Fit | None = None) -> int:
    """Bytes for one peer: training, the flat vectors of a round, and the moments that it keeps. way:
    how a step is fitted into memory; None: in one pass.

    Without overlap most vectors are there while it compresses: global weights and outer momentum
    and residual, pseudo-gradient, what is sent, f32[P] each. With overlap while it applies a round
    and trains ahead: weights and outer momentum before and after, residual, what it has sent, what
    was merged, the weights and momentum that it began ahead from, and what decoding needs for a
    moment. Measured with overlap (docs/wan.md): 1.57 GB of 1.53.
    """
    layout = layout_of(model)
    numbers = (12 if spec.rounds.overlap else 5) * layout.total
    own = own_moments(spec.inner, layout)
    numbers += 2 * own  # by what counted last and by what is on its way
    if spec.rounds.overlap and spec.inner.orthogonal:
        numbers += own  # those that it began ahead with
    micro = min(way.micro, spec.inner.batch) if way else spec.inner.batch
    return 4 * numbers + training_bytes(model, spec.inner, spec.model.sequence, micro)


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
    all_ways = fit.ways(wish, spec.inner.batch)
    fitting = [x for x in all_ways if whole(model, spec, device, x) <= margin * there]
    return all_ways[all_ways.index(fitting[0]) :] if fitting else all_ways[-1:]


def whole(model: nn.Module, spec: RunSpec, device: str, way: Fit | None = None) -> int:
    """`needed`, and the process itself where it takes its memory from the same place."""
    return needed(model, spec, way) + (PROCESS if device == "cpu" else 0)


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
    there = room(device, peers, limit)
    least = fit.ways(wish, spec.inner.batch)[-1]
    one = whole(model, spec, device, least)
    if one <= there:
        return
    others = [x for x in fit.ways(ANY, spec.inner.batch) if whole(model, spec, device, x) <= there]
    if others:
        raise OutOfMemory(
            f"{least} need about {one / 1e9:.1f} GB for each peer, and {there / 1e9:.1f} GB are there; "
            f"{others[0].micro} at a time fit: --micro {others[0].micro}, or --micro auto"
        )
    free = available(device)
    if limit is not None and peers * one > limit:
        raise OutOfMemory(
            f"{spec.model.source} needs about {peers * one / 1e9:.1f} GB here, and --memory allows "
            f"{limit / 1e9:.1f} GB; {_least(spec)}"
        )
    raise OutOfMemory(
        f"{spec.model.source} needs about {one / 1e9:.1f} GB for each peer, {peers} x that is "
        f"{peers * one / 1e9:.1f} GB, and {device} has {free / 1e9:.1f} GB free; {_least(spec)}. Use "
        "fewer peers (--peers), a smaller model or sequence"
    )


def _least(spec: RunSpec) -> str:
    many = spec.inner.batch > 1
    return "that is with one sequence at a time" if many else "a step has one sequence"
