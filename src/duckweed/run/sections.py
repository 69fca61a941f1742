"""The sections of a run specification: typed, validated, each default justified in docs/run.md."""

import re
from typing import Literal

import msgspec


def check(section: str, name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{section}.{name} = {value}: must be between {low:g} and {high:g}")


class DataSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `[data]` of run.toml: which text, how it is split and tokenised."""

    path: str | tuple[str, ...] = "stdlib"  # "stdlib", file, folder, glob, or hf:NAME[:config]
    field: str = "text"  # field of .jsonl, column of .parquet and of hf: data sets
    tokenizer: str = "bytes"  # "bytes", "bpe:N", a tokenizer.json, a folder, or a hub name
    held_out: float = 0.05  # share of the documents that is never trained on; 1.0: all of them
    limit: int | None = None  # at most this many bytes of text; an hf: stream stops at 200 MB

    def __post_init__(self) -> None:
        if not self.paths or not all(self.paths):
            raise ValueError("data: path is empty; name a file, a folder, a glob, or 'stdlib'")
        if not 0 < self.held_out <= 1:
            raise ValueError(f"data: held_out = {self.held_out}; expected a share in (0, 1]")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"data: limit = {self.limit}; expected a number of bytes, 1 or more")

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model. `source`: a preset, a folder or config.json, or a hub name."""

    source: str = "llama-1m"
    weights: Literal["scratch", "given"] = "scratch"
    sequence: int = 128

    def __post_init__(self) -> None:
        check("model", "sequence", self.sequence, 2, 1 << 20)


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a peer does between two merges: H = `steps` steps of `batch` sequences each."""

    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = 0.01
    weight_decay: float = 0.1
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    steps: int = 20
    batch: int = 8
    schedule: Literal["constant", "cosine", "wsd"] = "wsd"
    warmup: int = 20
    final: float = 0.1
    decay: float = 0.3
    state: Literal["fresh", "kept"] = "fresh"
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        check("inner", "learning_rate", self.learning_rate, 1e-8, 10)
        check("inner", "weight_decay", self.weight_decay, 0, 10)
        check("inner", "momentum", self.momentum, 0, 0.9999)
        for beta in self.betas:
            check("inner", "betas", beta, 0, 0.99999)
        check("inner", "clip", self.clip, 0, 1e6)
        check("inner", "steps", self.steps, 1, 100_000)
        check("inner", "batch", self.batch, 1, 1 << 20)
        check("inner", "warmup", self.warmup, 0, 10_000_000)
        check("inner", "final", self.final, 0, 1)
        check("inner", "decay", self.decay, 0, 1)


class Dense(msgspec.Struct, frozen=True, tag_field="kind", tag="dense", forbid_unknown_fields=True):
    """Every value is sent, rounded to ``dtype``. With int8, ``feedback = 1.0`` is sensible."""

    dtype: Literal["fp32", "bf16", "int8"] = "bf16"
    feedback: float = 0.0

    def __post_init__(self) -> None:
        check("wire", "feedback", self.feedback, 0, 1)


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
        check("wire", "chunk", self.chunk, 2, 1 << 20)
        check("wire", "keep", self.keep, 1, self.chunk)
        check("wire", "feedback", self.feedback, 0, 1)

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
        check("wire", "threshold", self.threshold, 0, 1000)
        check("wire", "value", self.value, 1e-3, 1000)
        check("wire", "levels", self.levels, 1, 127)
        check("wire", "feedback", self.feedback, 0, 1)


Wire = Dense | Sparse | Integer


def additive(wire: Wire) -> bool:
    """Whether contributions can be summed as they are, exactly and in any order."""
    return isinstance(wire, Integer)


class Merge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How contributions become one pseudo-gradient. See duckweed.merge.rules."""

    rule: Literal["mean", "contributors", "bounded"] = "mean"


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outer optimizer: SGD with Nesterov momentum, or the plain step ("none")."""

    optimizer: Literal["nesterov", "none"] = "nesterov"
    learning_rate: float = 0.7
    momentum: float = 0.6

    def __post_init__(self) -> None:
        check("outer", "learning_rate", self.learning_rate, 1e-6, 10)
        check("outer", "momentum", self.momentum, 0, 0.9999)


class Rounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many peers a run starts with, when a round closes, and when the run ends."""

    count: int = 13
    peers: int = 4
    quorum: float = 0.5
    patience: float = 15.0
    evaluate: int = 4
    evaluate_tokens: int = 32768
    checkpoint: int = 10

    def __post_init__(self) -> None:
        check("rounds", "count", self.count, 1, 10_000_000)
        check("rounds", "peers", self.peers, 1, 10_000)
        check("rounds", "quorum", self.quorum, 0, 1)
        check("rounds", "patience", self.patience, 1, 86_400)
        check("rounds", "evaluate", self.evaluate, 1, 1_000_000)
        check("rounds", "evaluate_tokens", self.evaluate_tokens, 256, 1 << 32)
        check("rounds", "checkpoint", self.checkpoint, 1, 1_000_000)


class Members(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may take part. `keys` (public keys, 64 hex digits) need no invitation. What follows holds in
    open runs only: on `probation` is a peer until that many of its contributions have counted; all
    newcomers together, and all peers of one address together, weigh at most `share` of a round in
    which others have handed in; `per_address` peers at most come from one address."""

    join: Literal["invited", "open"] = "invited"
    keys: tuple[str, ...] = ()
    probation: int = 3
    share: float = 0.5
    per_address: int = 8

    def __post_init__(self) -> None:
        for key in self.keys:
            if not re.fullmatch("[0-9a-f]{64}", key):
                raise ValueError(f"members.keys: {key!r} is not a public key (64 hex digits)")
        check("members", "probation", self.probation, 0, 1_000_000)
        check("members", "share", self.share, 0.01, 1)
        check("members", "per_address", self.per_address, 1, 10_000)
