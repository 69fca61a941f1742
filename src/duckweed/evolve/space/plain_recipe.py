"""Generation 0: the plain recipe that a campaign starts from, every switch spelt out."""

from typing import Any

import msgspec

from duckweed.evolve.space.registry import Registry
from duckweed.evolve.trial_spec import Recipe
from duckweed.learn.model.presets import PRESETS
from duckweed.run.sections import Architecture, DataSpec, Inner, Model, Outer, Rounds
from duckweed.run.spec import RunSpec

PLAIN = Inner(
    optimizer="adamw", learning_rate=0.004, weight_decay=0.1, betas=(0.9, 0.95), schedule="cosine",
    warmup=20, final=0.1, batch=8, state="fresh", guide=0.0,
)  # fmt: skip
"""What generation 0 is tuned from: AdamW with a cosine, the textbook choice."""

STEPS = 260
"""Inner steps over which warm-up is a share; a trial stretches its schedule to what it can pay."""
ROUND_STEPS = 10
"""Inner steps of a round where a trial has several peers."""

OUTER = Outer(learning_rate=0.7, momentum=0.6)
"""DiLoCo's outer step (2311.08105), its momentum as it suits Muon (2505.23725)."""

INITIAL = 0.02  # transformers' initializer_range


def generation_zero(
    source: str = "llama-0.5m",
    sequence: int = 128,
    data: DataSpec | None = None,
    peers: int = 1,
) -> RunSpec:
    """The specification before tuning: AdamW, cosine, GELU, tied tables; for a preset of ours the
    architecture is spelt out, so that a proposal's differences are seen for what they are, save
    `kv_heads` and `inner_width`, which follow the heads, and width and family. Several peers take one
    sequence a step each, so that a trial has rounds enough, and exchange as DiLoCo does, over a run's
    default wire.

    `llama-0.5m` to `llama-1m` are the sizes meant for campaigns on a CPU.
    """
    facts = PRESETS.get(source, {})
    if facts.get("model_type") != "llama":
        architecture = Architecture()
    else:
        architecture = Architecture(
            family="llama",
            activation="gelu",
            width=facts["hidden_size"],
            layers=facts["num_hidden_layers"],
            heads=facts["num_attention_heads"],
            rope_base=facts["rope_parameters"]["rope_theta"],
            tied=True,
            softcap=0.0,
            initial=INITIAL,
            attention_bias=False,
            mlp_bias=False,
            norm_epsilon=facts["rms_norm_eps"],
        )
    block, batch = (ROUND_STEPS, 1) if peers > 1 else (PLAIN.steps, PLAIN.batch)
    spec = RunSpec(
        model=Model(source=source, sequence=sequence),
        architecture=architecture,
        inner=msgspec.structs.replace(PLAIN, steps=block, batch=batch),
        outer=OUTER,
        rounds=Rounds(peers=peers, count=STEPS // block),
    )
    return spec if data is None else msgspec.structs.replace(spec, data=data)


def plain_recipe(spec: RunSpec, registry: Registry) -> Recipe:
    """The registry's keys as the plain specification has them."""
    raw = msgspec.to_builtins(spec)
    raw["inner"]["beta1"], raw["inner"]["beta2"] = spec.inner.betas
    found: Recipe = {}
    for switch in registry.switches:
        place: Any = raw
        for name in switch.key.split("."):
            place = place.get(name) if isinstance(place, dict) else None
        if place is not None:
            found[switch.key] = place
    return found
