"""The kinds of wire: section ``[wire]`` of ``run.toml``."""

from __future__ import annotations

from typing import Literal

import msgspec


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"wire.{name} = {value}: must be between {low:g} and {high:g}")


class Dense(msgspec.Struct, frozen=True, tag_field="kind", tag="dense", forbid_unknown_fields=True):
    """Every value is sent, rounded to ``dtype``. With int8, ``feedback = 1.0`` is sensible."""

    dtype: Literal["fp32", "bf16", "int8"] = "bf16"
    feedback: float = 0.0

    def __post_init__(self) -> None:
        _within("feedback", self.feedback, 0, 1)


class Sparse(
    msgspec.Struct, frozen=True, tag_field="kind", tag="sparse", forbid_unknown_fields=True
):
    """The ``keep`` largest of every ``chunk`` values of a tensor, as sign and one of two sizes.

    Chunked top-k with error feedback as in SparseLoCo (arXiv 2508.15706).
    """

    chunk: int = 4096
    keep: int = 64
    feedback: float = 0.95

    def __post_init__(self) -> None:
        _within("chunk", self.chunk, 2, 1 << 20)
        _within("keep", self.keep, 1, self.chunk)
        _within("feedback", self.feedback, 0, 1)

    def kept(self, length: int) -> int:
        """How many values of a chunk of ``length`` <= ``chunk`` are sent: in proportion, >= 1."""
        return max(1, (length * self.keep + self.chunk // 2) // self.chunk)


class Integer(
    msgspec.Struct, frozen=True, tag_field="kind", tag="integer", forbid_unknown_fields=True
):
    """Small integers at a scale common to all peers, so that a merge is an exact sum.

    With the scale s of a tensor, a value x becomes the code 0 where ``|x| <= threshold * s``,
    else ``sign(x) * clip(round(|x| / (value * s)), 1, levels)``, which stands for
    ``code * value * s``.
    """

    threshold: float = 1.0
    value: float = 1.5
    levels: int = 1
    feedback: float = 1.0

    def __post_init__(self) -> None:
        _within("threshold", self.threshold, 0, 1000)
        _within("value", self.value, 1e-3, 1000)
        _within("levels", self.levels, 1, 127)
        _within("feedback", self.feedback, 0, 1)


Wire = Dense | Sparse | Integer


def additive(wire: Wire) -> bool:
    """Whether contributions can be summed as they are, exactly and in any order."""
    return isinstance(wire, Integer)
