"""The sections of a run specification: typed, validated, each default justified in docs/run.md."""

import codecs
import difflib
import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Literal

import msgspec


def check(section: str, name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{section}.{name} = {value}: must be between {low:g} and {high:g}")


def unknown(key: str, value: str, known: Collection[str]) -> str:
    """What to say of a name that a plug-in might have registered, and none has."""
    near = difflib.get_close_matches(value, list(known), n=1)
    return (
        f"{key} = {value!r} is not known here: expected one of {', '.join(map(repr, known))}"
        + (f"; did you mean {near[0]!r}?" if near else ".")
        + " If it is a plug-in, give its file with --plugin"
    )


OPTIMIZERS = ["adamw", "muon", "normuon", "lion"]
"""What `inner.optimizer` may name; duckweed.learn.optim.registry adds those of one's own."""


class DataSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `[data]` of run.toml: which text, how it is split and tokenised."""

    path: str | tuple[str, ...] = "stdlib"  # "stdlib", file, folder, glob, or hf:NAME[:config]
    field: str = "text"  # field of .jsonl, column of .parquet and of hf: data sets
    tokenizer: str = "bytes"  # "bytes", "bpe:N", a tokenizer.json, a folder, or a hub name
    held_out: float = 0.05  # share of the documents that is never trained on; 1.0: all of them
    limit: int | None = None  # at most this many bytes of text; an hf: stream stops at 200 MB
    # Of files without a byte-order mark; unset: UTF-8. Unset and not a default, so that runs which
    # do not name it keep their identity.
    encoding: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not self.paths or not all(self.paths):
            raise ValueError("data: path is empty; name a file, a folder, a glob, or 'stdlib'")
        if not 0 < self.held_out <= 1:
            raise ValueError(f"data: held_out = {self.held_out}; expected a share in (0, 1]")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"data: limit = {self.limit}; expected a number of bytes, 1 or more")
        try:
            "".encode(self.charset)
            codecs.getincrementaldecoder(self.charset)
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"data: encoding = {self.encoding!r} is no encoding of text that Python knows; "
                "expected a name such as utf-8, utf-16-le, cp1252, shift_jis or gb18030"
            ) from error

    @property
    def charset(self) -> str:
        """`encoding` by the name that Python gives it."""
        return "utf-8" if self.encoding is msgspec.UNSET else codecs.lookup(self.encoding).name

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which model is trained, and from which weights."""

    source: str = "llama-1m"  # a preset, a folder or config.json, or a hub name
    weights: Literal["scratch", "given"] = "scratch"  # random, or those of the source
    sequence: int = 128  # tokens of a training sequence

    def __post_init__(self) -> None:
        check("model", "sequence", self.sequence, 2, 1 << 20)


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of the model's configuration is changed; None: as `model.source` has it.

    The family is the kind of block, as transformers has it. qwen3 normalises queries and keys per head;
    olmo2 normalises them over all heads, and its norms come after attention and feed-forward part;
    gemma2 has norms before and after, and scales its embedding; nanochat has norms without weights;
    nanochat and arcee have a feed-forward part without gate.
    """

    family: Literal["llama", "qwen3", "olmo2", "gemma2", "nanochat", "arcee"] | None = None
    activation: Literal["silu", "gelu", "relu", "relu2", "leaky_relu", "mish", "sigmoid"] | None = (
        None
    )
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    inner_width: int | None = None  # of the feed-forward part
    rope_base: float | None = None  # of the rotary positions
    tied: bool | None = None  # whether embedding and head are one matrix
    softcap: float | None = None  # bound of the logits (gemma2, nanochat); 0: none
    initial: float | None = None  # standard deviation of the first weights
    zero_projections: bool = False  # what is added to the residual stream starts at zero
    attention_bias: bool | None = None  # as in transformers
    mlp_bias: bool | None = None  # as in transformers
    norm_epsilon: float | None = None  # of the RMS norms

    def __post_init__(self) -> None:
        for name, low, high in (
            ("width", 2, 1 << 16), ("layers", 1, 1000), ("heads", 1, 1024), ("kv_heads", 1, 1024),
            ("inner_width", 1, 1 << 20), ("rope_base", 1.0, 1e9), ("softcap", 0.0, 1e6),
            ("initial", 1e-6, 10.0), ("norm_epsilon", 1e-12, 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                check("architecture", name, value, low, high)


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a peer does between two merges: H = `steps` steps of `batch` sequences each. What each
    optimizer does is in docs/learn.md."""

    optimizer: str = "muon"  # muon and normuon step hidden matrices, adamw the rest; adamw; lion
    learning_rate: float = 0.01  # at its peak
    weight_decay: float = 0.1  # of matrices and embeddings, times the learning rate
    cautious: bool = False  # weights decay only where the update shrinks them too
    momentum: float = 0.95  # of Muon
    momentum_warmup: int = 0  # steps over which Muon's momentum rises from 0.85
    nesterov: bool = True  # of Muon
    iterations: int = 5  # of Newton-Schulz, in Muon
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW and Lion; the second also of NorMuon
    epsilon: float = 1e-8  # of AdamW
    embedding_rate: float = 1.0  # factor of the learning rate of embeddings
    head_rate: float = 1.0  # and of the head, where it is not tied to the embedding
    vector_rate: float = 1.0  # and of norms and biases
    clip: float = 1.0  # largest norm of a step's gradient; 0: not clipped
    steps: int = 20  # inner steps of a round, H
    batch: int = 8  # sequences of an inner step
    schedule: Literal["constant", "cosine", "wsd"] = "wsd"  # of the learning rate, over the run
    warmup: int = 20  # steps over which it rises
    final: float = 0.1  # where it ends, as a share of its peak
    decay: float = 0.3  # wsd: share of the steps over which it falls
    state: Literal["fresh", "kept"] = "kept"  # the optimizer's, when a new round begins
    guide: float = 0.1  # how far Muon's momenta turn to the last merged step as a round begins
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of matrix products
    # How alike what peers' contributions have left out is taken to be: from it follows how much of its own a peer begins
    # a round with (duckweed.round.beginning). Unset: with nothing; and not a default, so that runs which do not name it keep
    # their identity.
    residual: float | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(unknown("inner.optimizer", self.optimizer, OPTIMIZERS))
        for beta in self.betas:
            check("inner", "betas", beta, 0, 0.99999)
        for name, low, high in (
            ("learning_rate", 1e-8, 10), ("weight_decay", 0, 10), ("momentum", 0, 0.9999),
            ("momentum_warmup", 0, 10_000_000), ("iterations", 1, 20), ("epsilon", 1e-16, 1),
            ("embedding_rate", 0, 1000), ("head_rate", 0, 1000), ("vector_rate", 0, 1000),
            ("clip", 0, 1e6), ("steps", 1, 100_000), ("batch", 1, 1 << 20),
            ("warmup", 0, 10_000_000), ("final", 0, 1), ("decay", 0, 1), ("guide", 0, 1),
        ):  # fmt: skip
            check("inner", name, getattr(self, name), low, high)
        if self.residual is not msgspec.UNSET:
            check("inner", "residual", self.residual, 0, 1)

    @property
    def orthogonal(self) -> bool:
        """Whether hidden matrices are stepped by Muon or its kin."""
        return self.optimizer in ("muon", "normuon")


class Wire:
    """Section `[wire]`: each kind has a struct of its own beside its codec (duckweed.wire.codecs), which
    is also a msgspec.Struct with tag_field "kind" and its name as the tag."""

    __slots__ = ()
    feedback: float = 0.0
    """Share of what a contribution leaves out that is added to the next one."""

    @property
    def kind(self) -> str:
        return str(type(self).__struct_config__.tag)  # type: ignore[attr-defined]


class Merge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How contributions become one pseudo-gradient."""

    rule: str | None = None
    """A name of duckweed.run.registry.RULES; None: as RunSpec.rule has it."""


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outer optimizer: SGD with Nesterov momentum, or the plain step ("none")."""

    optimizer: Literal["nesterov", "none"] = "nesterov"
    learning_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check("outer", "learning_rate", self.learning_rate, 1e-6, 10)
        check("outer", "momentum", self.momentum, 0, 0.9999)


class Rounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many peers a run starts with, when a round closes, and when the run ends."""

    count: int = 13  # rounds of the run, all alike
    # How many times fewer bytes a peer sends than bf16 data parallelism (duckweed.run.schedule): the run
    # then chooses by itself how many rounds it has and how long each is, and count x inner.steps only says
    # how much is trained. Unset and not a default, so that runs without it keep their identity.
    saving: float | msgspec.UnsetType = msgspec.UNSET
    peers: int = 4  # that the run starts with
    quorum: float = (
        0.5  # share of the peers that must have contributed before stragglers are left out
    )
    patience: float = 15.0  # seconds that stragglers are given beyond the usual time
    evaluate: int = 4  # every how many rounds the held-out loss is measured
    evaluate_tokens: int = 32768  # held-out tokens of such a measurement
    checkpoint: int = 10  # every how many rounds the state is saved
    overlap: float = 0.0  # share of a round's steps trained while the round before is exchanged

    def __post_init__(self) -> None:
        check("rounds", "count", self.count, 1, 10_000_000)
        check("rounds", "peers", self.peers, 1, 10_000)
        if self.saving is not msgspec.UNSET:
            check("rounds", "saving", self.saving, 1, 1e6)
        check("rounds", "quorum", self.quorum, 0, 1)
        check("rounds", "patience", self.patience, 1, 86_400)
        check("rounds", "evaluate", self.evaluate, 1, 1_000_000)
        check("rounds", "evaluate_tokens", self.evaluate_tokens, 256, 1 << 32)
        check("rounds", "checkpoint", self.checkpoint, 1, 1_000_000)
        check("rounds", "overlap", self.overlap, 0, 1)


MOST_PATHS = 64
"""Beyond that the router is larger than many a path."""
KEY, NAME = "[0-9a-f]{64}", "[A-Za-z0-9][A-Za-z0-9_.-]{0,31}"


class Members(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may take part, and who may lead the run. `probation`, `share` and `per_address` hold in open
    runs only.

    Successors are peers that keep a full copy of the ledger; when the leader is away, the next in this
    order goes on with the run. There are none or at least two: one alone cannot tell a coordinator that
    is gone from a connection that is cut."""

    join: Literal["invited", "open"] = "invited"
    keys: tuple[str, ...] = ()  # public keys, 64 hex digits, that need no invitation
    probation: int = 3  # contributions that must have counted until a peer is no newcomer
    share: float = 0.5  # of a round, that newcomers, and peers of one address, weigh at most
    per_address: int = 8  # peers that may come from one address
    successors: tuple[str, ...] = ()  # "NAME:KEY" each, as `duckweed identity` prints it
    absence: float = 60.0  # seconds without a leader until a successor takes over
    # Share of the contributions that other peers do again (docs/audit.md). Unset: RunSpec.audits; and not
    # a default, so that runs which do not name it keep their identity.
    audits: float | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for key in self.keys:
            if not re.fullmatch(KEY, key):
                raise ValueError(f"members.keys: {key!r} is not a public key (64 hex digits)")
        for text in self.successors:
            if not re.fullmatch(f"{NAME}:{KEY}", text):
                raise ValueError(
                    f"members.successors: {text!r} is not NAME:KEY, as `duckweed identity NAME` prints it "
                    "on that machine (KEY: 64 hex digits)"
                )
        keys, names = zip(*self.heirs, strict=True) if self.heirs else ((), ())
        if len(set(keys)) < len(keys) or len(set(names)) < len(names):
            raise ValueError("members.successors: the same name or key twice")
        if len(self.successors) == 1:
            raise ValueError(
                "members.successors: name two machines at least, or none: one alone cannot tell a "
                "coordinator that is gone from a line that is cut, so it could never take over"
            )
        check("members", "absence", self.absence, 3, 86_400)
        if self.audits is not msgspec.UNSET:
            check("members", "audits", self.audits, 0, 1)
        check("members", "probation", self.probation, 0, 1_000_000)
        check("members", "share", self.share, 0.01, 1)
        check("members", "per_address", self.per_address, 1, 10_000)

    @property
    def heirs(self) -> list[tuple[str, str]]:
        """Key and name of each successor."""
        return [(key, name) for name, _, key in (x.partition(":") for x in self.successors)]


SHARED = ("none", "trunk")
FEED_FORWARD = (".mlp.", ".ffn.", ".feed_forward.", ".block_sparse_moe.", ".fc1.", ".fc2.")
"""How transformers' models name their feed-forward parts."""


class Paths(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `[paths]`: a family of runs. All peers train one model for a while, the common start; then each
    path goes on by itself, on the sequences that the router gives to it (docs/paths.md)."""

    count: int = 8  # paths
    prefix: int = 64  # tokens of each sequence by which it is routed
    common: float = 0.15  # share of the rounds that belong to the common start
    # What all paths hold in common, and merge in each round: "none"; "trunk", all but the feed-forward parts; or patterns
    # of tensors' names. Unset, and not "none", so that families which do not name it keep their identity.
    shared: str | tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if isinstance(self.shared, str) and self.shared not in SHARED:
            raise ValueError(
                f"paths.shared = {self.shared!r}: 'none', 'trunk', or a list of patterns of tensors' names, "
                "['*.self_attn.*', '*norm*'] say"
            )
        if self.count < 2:
            raise ValueError(
                f"paths.count = {self.count}: a family has two paths at least; for one model leave [paths] out"
            )
        check("paths", "count", self.count, 2, MOST_PATHS)
        check("paths", "prefix", self.prefix, 2, 1 << 20)
        check("paths", "common", self.common, 0.001, 0.999)

    @property
    def apart(self) -> bool:
        """Whether the paths have nothing in common once they have parted."""
        return self.shared in (msgspec.UNSET, "none", ())

    def shares(self, name: str) -> bool:
        """Whether all paths hold the tensor of this name in common."""
        if self.apart:
            return False
        if isinstance(self.shared, tuple):
            return any(fnmatchcase(name, pattern) for pattern in self.shared)
        return not any(part in name for part in FEED_FORWARD)


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `[branch]`, which duckweed writes: which run of a family this one is."""

    path: int = -1  # the path; -1: the common start
    # Digest of the router (duckweed.learn.data.router); of a common start "", unless successors are named.
    router: str = ""
    begins: int = 0  # inner steps of each peer before this run
    ends: int = (
        1  # and of the whole family, from the first of the common start to the last of a path
    )
    # Of a common start whose members name successors: the public key of each path's first coordinator. By these, and by
    # the router, the paths are the same runs whoever begins them.
    coordinators: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not -1 <= self.path < MOST_PATHS or not 0 <= self.begins < self.ends:
            raise ValueError("branch: a path from -1 on, and steps that begin before they end")
        if self.path >= 0 and not re.fullmatch(KEY, self.router):
            raise ValueError("branch.router: the digest of the router, 64 hex digits")
        for key in self.coordinators or ():
            if not re.fullmatch(KEY, key):
                raise ValueError(
                    f"branch.coordinators: {key!r} is not a public key (64 hex digits)"
                )
