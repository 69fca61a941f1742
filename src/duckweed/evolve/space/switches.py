"""The registry of this release: switches, what is known of them, and what is planted.

Published effects decide the order in which known changes are tried, and nothing else; they were
measured at other sizes (docs/evolve-registry.md). All change training for real, save the nulls.
"""

from itertools import zip_longest

from duckweed.evolve.space.registry import Known, Registry, Switch

SPEEDRUN = "modded-nanogpt records"
NANOCHAT = "nanochat, dev/LOG.md and leaderboard"
AUTORESEARCH = "autoresearch, exp/H100/mar8"
DESIGN = "none that is controlled"

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
    Switch("inner.beta1", "linear", 0.6, 0.98, source=DESIGN),
    Switch("inner.beta2", "linear", 0.8, 0.999, source=DESIGN),
    Switch("inner.epsilon", "log", 1e-12, 1e-4, source=DESIGN),
    Switch("inner.embedding_rate", "log", 0.1, 20.0, note="-0.0033 bpb for 0.6 to 0.8", source=AUTORESEARCH),
    Switch("inner.head_rate", "log", 0.1, 10.0, note="medium; untied heads only", source=AUTORESEARCH),
    Switch("inner.vector_rate", "log", 0.1, 10.0, source=DESIGN),
    Switch("inner.clip", "log", 0.05, 10.0, source=DESIGN),
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
    Switch("architecture.width", "choice", values=(64, 80, 96, 112, 128, 160, 192), source=DESIGN),
    Switch("architecture.layers", "int", 1, 12, note="depth 5 beats 8 in short runs", source="autoresearch, RTX 3090 fork"),
    Switch("architecture.heads", "choice", values=(1, 2, 4, 8), source=DESIGN),
    Switch("architecture.kv_heads", "choice", values=(1, 2, 4), note="one for all is worse", source="reports of small runs, uncontrolled"),
    Switch("architecture.inner_width", "int", 32, 1024, note="3x in a good bundle", source="parameter-golf"),
    Switch("architecture.rope_base", "log", 10.0, 1e6, note="at most 1 %", source=AUTORESEARCH),
    Switch("architecture.tied", "choice", values=(False, True), note="tying diverged with some first weights", source="reports of small runs, uncontrolled"),
    Switch("architecture.softcap", "choice", values=(0.0, 15.0, 20.0, 30.0), note="1.04x in steps; 15 over 30 1.07x", source="speedrun record 9; 80 runs"),
    Switch("architecture.initial", "log", 0.002, 0.2, source=DESIGN),
    Switch("architecture.zero_projections", "choice", values=(False, True), note="in a bundle of 1.22x in steps", source="speedrun records 4 to 5"),
    Switch("architecture.attention_bias", "choice", values=(False, True), source=DESIGN),
    Switch("architecture.mlp_bias", "choice", values=(False, True), source=DESIGN),
    Switch("architecture.norm_epsilon", "log", 1e-8, 1e-2, source=DESIGN),
)  # fmt: skip
EXCHANGE = (
    Switch("inner.steps", "int", 3, 60, note="30 best with 2-bit sparse at 0.5 B", source="2508.15706"),
    Switch("inner.state", "choice", values=("fresh", "kept"), note="kept moments lower the price of rare exchange", source="docs/parity.md"),
    Switch("inner.guide", "linear", 0.0, 1.0, note="0.1 and 0.2 are worth 1.5 to 4 %", source="docs/parity.md"),
    Switch("wire.kind", "choice", values=("integer", "sparse", "dense"), note="docs/parity.md", source=DESIGN),
    Switch("wire.threshold", "linear", 0.1, 4.0, note="0.6 loses 0.2 %, 1.0 1.2 % at 1 M", source="docs/parity.md"),
    Switch("wire.value", "linear", 0.5, 5.0, source=DESIGN),
    Switch("wire.levels", "choice", values=(1, 2, 3, 7), source=DESIGN),
    Switch("wire.chunk", "choice", values=(1024, 4096, 16384), source="2508.15706"),
    Switch("wire.keep", "choice", values=(16, 32, 64, 128, 256), note="64 of 4096 with 2 bits", source="2508.15706"),
    Switch("wire.dtype", "choice", values=("bf16", "int8", "fp32"), source=DESIGN),
    Switch("wire.feedback", "linear", 0.0, 1.0, note="0.95 of the residual kept", source="2508.15706"),
    Switch("merge.rule", "choice", values=("mean", "contributors", "bounded"), source=DESIGN),
    Switch("outer.optimizer", "choice", values=("nesterov", "none"), note="none with sparse and feedback", source="2508.15706"),
    Switch("outer.learning_rate", "log", 0.05, 2.0, note="0.7", source="2311.08105"),
    Switch("outer.momentum", "linear", 0.0, 0.95, note="0.9; 0.6 with muon", source="2311.08105; 2505.23725"),
)  # fmt: skip
SWITCHES = OPTIMIZER + PLAN + MODEL

KNOWN = (
    Known("muon", {"inner.optimizer": "muon"}),
    Known("muon, twice the rate", {"inner.optimizer": "muon"}, {"inner.learning_rate": 2.0}),
    Known("zero projections", {"architecture.zero_projections": True}),
    Known("no floor", {"inner.final": 0.0}),
    Known("qk norm", {"architecture.family": "qwen3"}),
    Known("embeddings learn faster", {}, {"inner.embedding_rate": 4.0}),
    Known("long cooldown", {"inner.schedule": "wsd", "inner.decay": 0.7, "inner.final": 0.05}),
    Known("squared relu", {"architecture.activation": "relu2"}),
    Known("untied", {"architecture.tied": False}),
    Known("nanochat's block", {"architecture.family": "nanochat", "architecture.activation": "relu2", "architecture.softcap": 15.0}),
    Known("small batch", {}, {"inner.batch": 0.5}),
    Known("shallower and wider", {"architecture.layers": 3, "architecture.inner_width": 384}),
    Known("no gate", {"architecture.family": "arcee", "architecture.activation": "relu2"}),
    Known("short sequences", {"model.sequence": 64}),
    Known("long sequences", {"model.sequence": 256}),
    Known("lower rope base", {"architecture.rope_base": 500.0}),
    Known("higher rate", {}, {"inner.learning_rate": 1.5}),
    Known("normuon", {"inner.optimizer": "normuon"}),
    Known("faster second moment", {"inner.beta2": 0.9}),
    Known("cautious decay", {"inner.cautious": True}),
    Known("larger first weights", {"architecture.initial": 0.05}),
    Known("short warm-up", {"inner.warmup": 5}),
    Known("momentum warm-up", {"inner.optimizer": "muon", "inner.momentum_warmup": 100}),
    Known("norms after the parts", {"architecture.family": "olmo2"}),
    Known("gemma's block, soft cap", {"architecture.family": "gemma2", "architecture.softcap": 30.0}),
    Known("lion", {"inner.optimizer": "lion"}, {"inner.learning_rate": 0.15, "inner.weight_decay": 3.0}),
    Known("less decay", {"inner.weight_decay": 0.01}),
)  # fmt: skip

NULLS = (
    # too small to matter, or without effect by construction
    Known("rate up by a thousandth", {}, {"inner.learning_rate": 1.001}),
    Known("norm epsilon", {}, {"architecture.norm_epsilon": 2.0}),
    Known("epsilon of adamw", {}, {"inner.epsilon": 0.1}),
    Known("clip a little wider", {}, {"inner.clip": 1.01}),
    Known("vectors up by a hundredth", {}, {"inner.vector_rate": 1.01}),
    Known("decay up by a hundredth", {}, {"inner.weight_decay": 1.01}),
    Known("rope base up by a hundredth", {}, {"architecture.rope_base": 1.01}),
    Known("first weights up by a thousandth", {}, {"architecture.initial": 1.001}),
)

HARMS = (
    # each measured at generation 0 (docs/evolve-registry.md)
    Known("a tenth of the rate", {}, {"inner.learning_rate": 0.1}),
    Known("eight times the rate", {}, {"inner.learning_rate": 8.0}),
    Known("tiny first weights", {"architecture.initial": 0.002}),
    Known("a sigmoid for activation", {"architecture.activation": "sigmoid"}),
    Known("no learning in the embedding", {"inner.embedding_rate": 0.1, "inner.head_rate": 0.1}),
    Known("lion at ten times its rate", {"inner.optimizer": "lion"}, {"inner.learning_rate": 2.0}),
)

EXCHANGE_KNOWN = (
    Known("moments kept", {"inner.state": "kept"}),
    Known("momenta guided", {"inner.optimizer": "muon", "inner.state": "kept", "inner.guide": 0.2}),
    Known("finer codes", {"wire.threshold": 0.6, "wire.value": 1.2}),
    Known("sparseloco", {"wire.kind": "sparse", "wire.feedback": 0.95, "merge.rule": "contributors", "outer.optimizer": "none"}),
    Known("longer rounds", {}, {"inner.steps": 2.0}),
    Known("shorter rounds", {}, {"inner.steps": 0.5}),
    Known("less outer momentum", {"outer.momentum": 0.4}),
    Known("whole outer steps", {"outer.learning_rate": 1.0}),
)  # fmt: skip
EXCHANGE_NULLS = (
    Known("outer rate up by a thousandth", {}, {"outer.learning_rate": 1.001}),
)  # fmt: skip
EXCHANGE_HARMS = (
    Known("outer steps of a twentieth", {"outer.learning_rate": 0.05}),
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
    """What campaigns may vary whose trials have so many peers: one alone exchanges nothing."""
    return SWARM if peers > 1 else REGISTRY
