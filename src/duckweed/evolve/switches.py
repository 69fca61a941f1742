"""The registry of this release: switches, what is known of them, and what is planted.

Published effects are those of shared knowledge about small models (docs/evolve.md has the sources);
they decide the order in which known changes are tried, and nothing else.
"""

from duckweed.evolve.registry import Known, Registry, Switch

SWITCHES = (
    Switch("inner.optimizer", "choice", values=("adamw", "muon"), note="Muon: 1.4-1.6x in steps"),
    Switch("inner.learning_rate", "log", 1e-4, 0.1),
    Switch("inner.weight_decay", "linear", 0.0, 1.0),
    Switch("inner.momentum", "linear", 0.5, 0.99),
    Switch("inner.clip", "log", 0.05, 10.0),
    Switch("inner.batch", "int", 1, 64),
    Switch("inner.schedule", "choice", values=("constant", "cosine", "wsd")),
    Switch("inner.warmup", "int", 1, 60),
    Switch("inner.final", "linear", 0.0, 0.5),
    Switch("inner.decay", "linear", 0.05, 1.0),
    Switch("model.sequence", "choice", values=(64, 96, 128, 192, 256)),
)

KNOWN = (
    Known("muon", {"inner.optimizer": "muon"}),
    Known("muon at twice the rate", {"inner.optimizer": "muon"}, {"inner.learning_rate": 2.0}),
    Known("wsd, long cooldown", {"inner.schedule": "wsd", "inner.decay": 0.6}),
    Known("small batch", {}, {"inner.batch": 0.5}),
    Known("no floor", {"inner.final": 0.0}),
    Known("higher rate", {}, {"inner.learning_rate": 1.5}),
)

NULLS = (
    Known("clip a little wider", {}, {"inner.clip": 1.02}),
    Known("rate up by a thousandth", {}, {"inner.learning_rate": 1.001}),
)

HARMS = (
    Known("a hundredth of the rate", {}, {"inner.learning_rate": 0.1}),
    Known("constant rate", {"inner.schedule": "constant"}, {"inner.learning_rate": 2.0}),
)

REGISTRY = Registry(SWITCHES, KNOWN, NULLS, HARMS)
