"""The registry of this release: switches, what is known of them, and what is planted.

Published effects decide the order in which known changes are tried, and nothing else; they were
measured at other sizes (docs/evolve-registry.md). All change training for real, save the nulls.
"""

from itertools import zip_longest

from duckweed.evolve.space.registry import KnownChange, Registry, Switch

SPEEDRUN = "modded-nanogpt records"
NANOCHAT = "nanochat, dev/LOG.md and leaderboard"
AUTORESEARCH = "autoresearch, exp/H100/mar8"
NO_SOURCE = "none that is controlled"  # the words are part of the registry's hash

OPTIMIZER = (
    Switch(
        "inner.optimizer", "choice", values=("adamw", "muon", "normuon", "lion"),
        note="muon 1.4x in steps at 0.1B fairly tuned, 1.57x at 124M", source="2509.02046; speedrun 2024-10",
    ),
    Switch("inner.learning_rate", "log", 1e-4, 0.1, note="the first thing to tune", source="2509.02046"),
    Switch("inner.weight_decay", "linear", 0.0, 1.0, note="-0.0001 bpb", source="parameter-golf"),
    Switch("inner.cautious", "choice", values=(False, True), note="solid, small", source=f"2510.12402; {NANOCHAT}"),
    Switch("inner.momentum", "linear", 0.5, 0.99, note="of Muon", source="Jordan et al. 2024"),
    Switch("inner.momentum_warmup", "int", 1, 200, note="1.09x in steps (n = 1)", source="speedrun record 9"),
    Switch("inner.nesterov", "choice", values=(True, False), note="of Muon", source="Jordan et al. 2024"),
    Switch("inner.iterations", "int", 2, 8, note="Newton-Schulz, five in the paper", source="Jordan et al. 2024"),
    Switch("inner.beta1", "linear", 0.6, 0.98, source=NO_SOURCE),
    Switch("inner.beta2", "linear", 0.8, 0.999, source=NO_SOURCE),
    Switch("inner.epsilon", "log", 1e-12, 1e-4, source=NO_SOURCE),
    Switch("inner.embedding_rate", "log", 0.1, 20.0, note="-0.0033 bpb for 0.6 to 0.8", source=AUTORESEARCH),
    Switch("inner.head_rate", "log", 0.1, 10.0, note="medium; untied heads only", source=AUTORESEARCH),
    Switch("inner.vector_rate", "log", 0.1, 10.0, source=NO_SOURCE),
    Switch("inner.clip", "log", 0.05, 10.0, source=NO_SOURCE),
)  # fmt: skip
PLAN = (
    Switch("inner.batch", "int", 1, 64, note="often the largest in short runs: -0.0119 bpb", source=AUTORESEARCH),
    Switch("model.sequence", "choice", values=(64, 96, 128, 192, 256), note="1024 to 2048: -0.018 bpb", source="parameter-golf"),
    Switch("inner.schedule", "choice", values=("constant", "cosine", "wsd"), note="a few %", source=SPEEDRUN),
    Switch("inner.warmup", "int", 1, 60, note="any hurts with muon", source=AUTORESEARCH),
    Switch("inner.final", "linear", 0.0, 0.5, note="a small floor helps", source=AUTORESEARCH),
    Switch("inner.decay", "linear", 0.05, 1.0, note="long linear cooldown, a few %", source=f"{AUTORESEARCH}; speedrun"),
)  # fmt: skip
MODEL = (
    Switch(
        "architecture.family", "choice",
        values=("llama", "qwen3", "olmo2", "gemma2", "nanochat", "arcee"),
        note="norms and gates of published models; QK-norm and relu2 1.22x in steps with other changes",
        source="speedrun records 4 to 5",
    ),
    Switch(
        "architecture.activation", "choice",
        values=("silu", "gelu", "relu", "relu2", "leaky_relu", "mish", "sigmoid"),
        note="relu2 over silu at small size", source="reports of small runs, uncontrolled",
    ),
    Switch("architecture.width", "choice", values=(64, 80, 96, 112, 128, 160, 192), source=NO_SOURCE),
    Switch("architecture.layers", "int", 1, 12, note="depth 5 beats 8 in short runs", source="autoresearch, RTX 3090 fork"),
    Switch("architecture.heads", "choice", values=(1, 2, 4, 8), source=NO_SOURCE),
    Switch("architecture.kv_heads", "choice", values=(1, 2, 4), note="one for all is worse", source="reports of small runs, uncontrolled"),
    Switch("architecture.inner_width", "int", 32, 1024, note="3x in a good bundle", source="parameter-golf"),
    Switch("architecture.rope_base", "log", 10.0, 1e6, note="at most 1 %", source=AUTORESEARCH),
    Switch("architecture.tied", "choice", values=(False, True), note="tying diverged with some first weights", source="reports of small runs, uncontrolled"),
    Switch("architecture.softcap", "choice", values=(0.0, 15.0, 20.0, 30.0), note="1.04x in steps; 15 over 30 1.07x", source="speedrun record 9; 80 runs"),
    Switch("architecture.initial", "log", 0.002, 0.2, source=NO_SOURCE),
    Switch("architecture.zero_projections", "choice", values=(False, True), note="in a bundle of 1.22x in steps", source="speedrun records 4 to 5"),
    Switch("architecture.attention_bias", "choice", values=(False, True), source=NO_SOURCE),
    Switch("architecture.mlp_bias", "choice", values=(False, True), source=NO_SOURCE),
    Switch("architecture.norm_epsilon", "log", 1e-8, 1e-2, source=NO_SOURCE),
)  # fmt: skip
EXCHANGE = (
    Switch("inner.steps", "int", 3, 60, note="30 best with 2-bit sparse at 0.5 B", source="2508.15706"),
    Switch("inner.state", "choice", values=("fresh", "kept"), note="kept moments lower the price of rare exchange", source="docs/parity.md"),
    Switch("inner.guide", "linear", 0.0, 1.0, note="0.1 and 0.2 are worth 1.5 to 4 %", source="docs/parity.md"),
    Switch("wire.kind", "choice", values=("integer", "sparse", "dense"), note="docs/parity.md", source=NO_SOURCE),
    Switch("wire.threshold", "linear", 0.1, 4.0, note="0.6 loses 0.2 %, 1.0 1.2 % at 1 M", source="docs/parity.md"),
    Switch("wire.value", "linear", 0.5, 5.0, source=NO_SOURCE),
    Switch("wire.levels", "choice", values=(1, 2, 3, 7), source=NO_SOURCE),
    Switch("wire.chunk", "choice", values=(1024, 4096, 16384), source="2508.15706"),
    Switch("wire.keep", "choice", values=(16, 32, 64, 128, 256), note="64 of 4096 with 2 bits", source="2508.15706"),
    Switch("wire.dtype", "choice", values=("bf16", "int8", "fp32"), source=NO_SOURCE),
    Switch("wire.feedback", "linear", 0.0, 1.0, note="0.95 of the residual kept", source="2508.15706"),
    Switch("merge.rule", "choice", values=("mean", "contributors", "bounded"), source=NO_SOURCE),
    Switch("outer.optimizer", "choice", values=("nesterov", "none"), note="none with sparse and feedback", source="2508.15706"),
    Switch("outer.learning_rate", "log", 0.05, 2.0, note="0.7", source="2311.08105"),
    Switch("outer.momentum", "linear", 0.0, 0.95, note="0.9; 0.6 with muon", source="2311.08105; 2505.23725"),
)  # fmt: skip
SWITCHES = OPTIMIZER + PLAN + MODEL

KNOWN = (
    KnownChange("muon", {"inner.optimizer": "muon"}),
    KnownChange("muon, twice the rate", {"inner.optimizer": "muon"}, {"inner.learning_rate": 2.0}),
    KnownChange("zero projections", {"architecture.zero_projections": True}),
    KnownChange("no floor", {"inner.final": 0.0}),
    KnownChange("qk norm", {"architecture.family": "qwen3"}),
    KnownChange("embeddings learn faster", {}, {"inner.embedding_rate": 4.0}),
    KnownChange("long cooldown", {"inner.schedule": "wsd", "inner.decay": 0.7, "inner.final": 0.05}),
    KnownChange("squared relu", {"architecture.activation": "relu2"}),
    KnownChange("untied", {"architecture.tied": False}),
    KnownChange("nanochat's block", {"architecture.family": "nanochat", "architecture.activation": "relu2", "architecture.softcap": 15.0}),
    KnownChange("small batch", {}, {"inner.batch": 0.5}),
    KnownChange("shallower and wider", {"architecture.layers": 3, "architecture.inner_width": 384}),
    KnownChange("no gate", {"architecture.family": "arcee", "architecture.activation": "relu2"}),
    KnownChange("short sequences", {"model.sequence": 64}),
    KnownChange("long sequences", {"model.sequence": 256}),
    KnownChange("lower rope base", {"architecture.rope_base": 500.0}),
    KnownChange("higher rate", {}, {"inner.learning_rate": 1.5}),
    KnownChange("normuon", {"inner.optimizer": "normuon"}),
    KnownChange("faster second moment", {"inner.beta2": 0.9}),
    KnownChange("cautious decay", {"inner.cautious": True}),
    KnownChange("larger first weights", {"architecture.initial": 0.05}),
    KnownChange("short warm-up", {"inner.warmup": 5}),
    KnownChange("momentum warm-up", {"inner.optimizer": "muon", "inner.momentum_warmup": 100}),
    KnownChange("norms after the parts", {"architecture.family": "olmo2"}),
    KnownChange("gemma's block, soft cap", {"architecture.family": "gemma2", "architecture.softcap": 30.0}),
    KnownChange("lion", {"inner.optimizer": "lion"}, {"inner.learning_rate": 0.15, "inner.weight_decay": 3.0}),
    KnownChange("less decay", {"inner.weight_decay": 0.01}),
)  # fmt: skip

NULLS = (
    # too small to matter, or without effect by construction
    KnownChange("rate up by a thousandth", {}, {"inner.learning_rate": 1.001}),
    KnownChange("norm epsilon", {}, {"architecture.norm_epsilon": 2.0}),
    KnownChange("epsilon of adamw", {}, {"inner.epsilon": 0.1}),
    KnownChange("clip a little wider", {}, {"inner.clip": 1.01}),
    KnownChange("vectors up by a hundredth", {}, {"inner.vector_rate": 1.01}),
    KnownChange("decay up by a hundredth", {}, {"inner.weight_decay": 1.01}),
    KnownChange("rope base up by a hundredth", {}, {"architecture.rope_base": 1.01}),
    KnownChange("first weights up by a thousandth", {}, {"architecture.initial": 1.001}),
)

HARMS = (
    # each measured at generation 0 (docs/evolve-registry.md)
    KnownChange("a tenth of the rate", {}, {"inner.learning_rate": 0.1}),
    KnownChange("eight times the rate", {}, {"inner.learning_rate": 8.0}),
    KnownChange("tiny first weights", {"architecture.initial": 0.002}),
    KnownChange("a sigmoid for activation", {"architecture.activation": "sigmoid"}),
    KnownChange(
        "no learning in the embedding", {"inner.embedding_rate": 0.1, "inner.head_rate": 0.1}
    ),
    KnownChange(
        "lion at ten times its rate", {"inner.optimizer": "lion"}, {"inner.learning_rate": 2.0}
    ),
)

EXCHANGE_KNOWN = (
    KnownChange("moments kept", {"inner.state": "kept"}),
    KnownChange("momenta guided", {"inner.optimizer": "muon", "inner.state": "kept", "inner.guide": 0.2}),
    KnownChange("finer codes", {"wire.threshold": 0.6, "wire.value": 1.2}),
    KnownChange("sparseloco", {"wire.kind": "sparse", "wire.feedback": 0.95, "merge.rule": "contributors", "outer.optimizer": "none"}),
    KnownChange("longer rounds", {}, {"inner.steps": 2.0}),
    KnownChange("shorter rounds", {}, {"inner.steps": 0.5}),
    KnownChange("less outer momentum", {"outer.momentum": 0.4}),
    KnownChange("whole outer steps", {"outer.learning_rate": 1.0}),
)  # fmt: skip
EXCHANGE_NULLS = (
    KnownChange("outer rate up by a thousandth", {}, {"outer.learning_rate": 1.001}),
)  # fmt: skip
EXCHANGE_HARMS = (
    KnownChange("outer steps of a twentieth", {"outer.learning_rate": 0.05}),
)  # fmt: skip

REGISTRY = Registry(SWITCHES, KNOWN, NULLS, HARMS, version=1)
SWARM = Registry(
    SWITCHES + EXCHANGE,
    # mixed, so that either kind is tried early
    tuple(k for pair in zip_longest(KNOWN, EXCHANGE_KNOWN) for k in pair if k is not None),
    NULLS + EXCHANGE_NULLS,
    HARMS + EXCHANGE_HARMS,
    version=3,
)


def registry(peers: int) -> Registry:
    """What a campaign may vary; peers: of a trial. One alone exchanges nothing."""
    return SWARM if peers > 1 else REGISTRY
