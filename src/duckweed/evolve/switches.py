"""The registry of this release: switches, what is known of them, and what is planted.

Published effects (docs/evolve.md has the sources) decide the order in which known changes are
tried, and nothing else. Everything here changes training for real, save the planted nulls.
"""

from duckweed.evolve.registry import Known, Registry, Switch

SWITCHES = (
    # the optimizer
    Switch("inner.optimizer", "choice", values=("adamw", "muon"), note="1.4-1.6x in steps"),
    Switch("inner.learning_rate", "log", 1e-4, 0.1),
    Switch("inner.weight_decay", "linear", 0.0, 1.0),
    Switch("inner.momentum", "linear", 0.5, 0.99),
    Switch("inner.nesterov", "choice", values=(True, False)),
    Switch("inner.iterations", "int", 2, 8),
    Switch("inner.beta1", "linear", 0.6, 0.98),
    Switch("inner.beta2", "linear", 0.8, 0.999),
    Switch("inner.embedding_rate", "log", 0.1, 20.0, note="per-group rates: medium"),
    Switch("inner.head_rate", "log", 0.1, 10.0),
    Switch("inner.vector_rate", "log", 0.1, 10.0),
    Switch("inner.clip", "log", 0.05, 10.0),
    # the plan
    Switch("inner.batch", "int", 1, 64, note="often the largest in short trials"),
    Switch("model.sequence", "choice", values=(64, 96, 128, 192, 256)),
    Switch("inner.schedule", "choice", values=("constant", "cosine", "wsd")),
    Switch("inner.warmup", "int", 1, 60),
    Switch("inner.final", "linear", 0.0, 0.5),
    Switch("inner.decay", "linear", 0.05, 1.0, note="a long linear cooldown: few %"),
    # the model
    Switch(
        "architecture.activation", "choice",
        values=("silu", "gelu", "relu", "relu2", "leaky_relu", "mish"),
    ),
    Switch("architecture.rope_base", "log", 10.0, 1e6, note="at most 1 %"),
    Switch("architecture.tied", "choice", values=(False, True)),
    Switch("architecture.kv_heads", "choice", values=(1, 2, 4)),
    Switch("architecture.qk_norm", "choice", values=(False, True)),
    Switch("architecture.layers", "int", 1, 12),
    Switch("architecture.inner_width", "int", 32, 1024),
    Switch("architecture.initial", "log", 0.002, 0.2),
    Switch("architecture.zero_projections", "choice", values=(False, True)),
    Switch("architecture.attention_bias", "choice", values=(False, True)),
    Switch("architecture.norm_epsilon", "log", 1e-8, 1e-2),
)  # fmt: skip

KNOWN = (
    Known("muon", {"inner.optimizer": "muon"}),
    Known("muon, twice the rate", {"inner.optimizer": "muon"}, {"inner.learning_rate": 2.0}),
    Known("zero projections", {"architecture.zero_projections": True}),
    Known("no floor", {"inner.final": 0.0}),
    Known("qk norm", {"architecture.qk_norm": True}),
    Known("embeddings learn faster", {}, {"inner.embedding_rate": 4.0}),
    Known("long cooldown", {"inner.schedule": "wsd", "inner.decay": 0.7, "inner.final": 0.05}),
    Known("squared relu", {"architecture.activation": "relu2"}),
    Known("shallower and wider", {"architecture.layers": 3, "architecture.inner_width": 384}),
    Known("small batch", {}, {"inner.batch": 0.5}),
    Known("short sequences", {"model.sequence": 64}),
    Known("long sequences", {"model.sequence": 256}),
    Known("lower rope base", {"architecture.rope_base": 500.0}),
    Known("higher rate", {}, {"inner.learning_rate": 1.5}),
    Known("faster second moment", {"inner.beta2": 0.9}),
    Known("larger first weights", {"architecture.initial": 0.05}),
    Known("short warm-up", {"inner.warmup": 5}),
    Known("less decay", {"inner.weight_decay": 0.01}),
)

NULLS = (
    # too small to matter, or without effect by construction
    Known("rate up by a thousandth", {}, {"inner.learning_rate": 1.001}),
    Known("norm epsilon", {"architecture.norm_epsilon": 2e-5}),
    Known("clip a little wider", {}, {"inner.clip": 1.01}),
    Known("vectors up by a hundredth", {}, {"inner.vector_rate": 1.01}),
    Known("decay up by a hundredth", {}, {"inner.weight_decay": 1.01}),
    Known("rope base up by a hundredth", {"architecture.rope_base": 10100.0}),
)

HARMS = (
    Known("a tenth of the rate", {}, {"inner.learning_rate": 0.1}),
    Known("enormous decay", {"inner.weight_decay": 1.0}, {"inner.learning_rate": 1.5}),
    Known("tiny first weights", {"architecture.initial": 0.002}),
    Known("one key head, clipped hard", {"architecture.kv_heads": 1, "inner.clip": 0.05}),
    Known("warm-up only", {"inner.warmup": 60, "inner.final": 0.5}, {"inner.learning_rate": 0.3}),
    Known("no learning in the embedding", {"inner.embedding_rate": 0.1, "inner.head_rate": 0.1}),
)

REGISTRY = Registry(SWITCHES, KNOWN, NULLS, HARMS)
