"""The cells, in the order in which they are trained."""

import itertools
from collections.abc import Sequence
from typing import Any

TOTAL = 260  # inner steps of a peer: 13 rounds of 20, as `duckweed train` had them
DENSE: dict[str, Any] = {"wire.kind": "dense", "wire.dtype": "fp32"}
DATA_PARALLEL: dict[str, Any] = {"rounds.peers": 1, "inner.batch": 32, **DENSE}
CELLS: dict[str, dict[str, Any]] = {}


def constant(steps: int, total: int = TOTAL) -> list[int]:
    """Rounds of as many steps; the rest is spread over the last ones."""
    count = max(1, round(total / steps))
    edges = [round(total * n / count) for n in range(count + 1)]
    return [b - a for a, b in itertools.pairwise(edges)]


def growing(count: int, ratio: float, total: int = TOTAL) -> list[int]:
    """`count` rounds whose steps grow evenly, the last `ratio` times as long as the first."""
    sizes = [1 + (ratio - 1) * n / max(1, count - 1) for n in range(count)]
    edges = [round(total * sum(sizes[:n]) / sum(sizes)) for n in range(count + 1)]
    return [b - a for a, b in itertools.pairwise(edges)]


def cell(
    name: str, lengths: Sequence[int], changes: dict[str, Any] | None = None, **more: Any
) -> None:
    """Add a cell; its `inner.steps` and `rounds.count` give the whole run's number of steps."""
    steps = {"inner.steps": sum(lengths), "rounds.count": 1}
    CELLS[name] = {"changes": steps | (changes or {}), "lengths": list(lengths), **more}


cell("smoke", [2, 2], {"inner.warmup": 1})
cell("h20", constant(20))
cell("h7", constant(7))
cell("h7-dense", constant(7), DENSE)
cell("grow-37-x4", growing(37, 4))
cell("ddp", [TOTAL], DATA_PARALLEL)

# A model a sixth as large on half the text, to find out quickly what is worth a run of the real one.
SMALL: dict[str, Any] = {
    "model.sequence": 64, "architecture.width": 64, "architecture.layers": 3,
    "architecture.heads": 4, "architecture.kv_heads": 4, "architecture.inner_width": 176,
}  # fmt: skip


def small(
    name: str, lengths: Sequence[int], changes: dict[str, Any] | None = None, **more: Any
) -> None:
    cell(f"small-{name}", lengths, SMALL | (changes or {}), **more)


def ternary(threshold: float, value: float) -> dict[str, Any]:
    return {"wire.threshold": threshold, "wire.value": value}


FINE = {"wire.threshold": 0.3, "wire.value": 0.6, "wire.levels": 3}
small("h7", constant(7))
small("ddp", [TOTAL], DATA_PARALLEL)
small("h7-dense", constant(7), DENSE)
small("h20", constant(20))
small("grow-37-x4", growing(37, 4))
small("grow-37-x025", growing(37, 0.25))
small("h5-1.4", constant(5), ternary(1.4, 1.8))
small("h10-fine", constant(10), FINE)
small("h7-guide-0.3", constant(7), {"inner.guide": 0.3})
small("h7-guide-0", constant(7), {"inner.guide": 0.0})
small("h7-decay-0.7", constant(7), {"inner.decay": 0.7, "inner.final": 0.0})
small("h7-rate-0.015", constant(7), {"inner.learning_rate": 0.015})
small("h7-rate-0.007", constant(7), {"inner.learning_rate": 0.007})
small("h7-outer-1.0-0.3", constant(7), {"outer.learning_rate": 1.0, "outer.momentum": 0.3})
small("h7-mix-0.9-0.98", constant(7), {"inner.momentum": 0.98}, mix=0.9)
small("h7-mix-0.95-0.95", constant(7), {"inner.momentum": 0.95}, mix=0.95)
small("ddp-decay-0.7", [TOTAL], DATA_PARALLEL | {"inner.decay": 0.7, "inner.final": 0.0})
# Twice the steps of half the sequences: the same tokens, rounds and bytes.
HALVES: dict[str, Any] = {"inner.batch": 4, "inner.warmup": 40}
small("h7-halves", constant(14, 2 * TOTAL), HALVES)
small("ddp-halves", [2 * TOTAL], DATA_PARALLEL | HALVES | {"inner.batch": 16})
for seed in (1, 2):
    small(f"h7-s{seed}", constant(7), {"seed": seed})
    small(f"h7-halves-s{seed}", constant(14, 2 * TOTAL), HALVES | {"seed": seed})
QUARTERS: dict[str, Any] = {"inner.batch": 2, "inner.warmup": 80}
small("h7-quarters", constant(28, 4 * TOTAL), QUARTERS)
small("h7-halves-rate-0.007", constant(14, 2 * TOTAL), HALVES | {"inner.learning_rate": 0.007})
ENDS: dict[str, Any] = {"inner.embedding_rate": 2.0, "inner.head_rate": 2.0}
small("h7-halves-ends-2", constant(14, 2 * TOTAL), HALVES | ENDS)
small("h7-halves-guide-0.2", constant(14, 2 * TOTAL), HALVES | {"inner.guide": 0.2})
small("h7-halves-warmup-20", constant(14, 2 * TOTAL), HALVES | {"inner.warmup": 20})
small("h7-halves-mix-0.9-0.98", constant(14, 2 * TOTAL), HALVES | {"inner.momentum": 0.98}, mix=0.9)
small("ddp-quarters", [4 * TOTAL], DATA_PARALLEL | QUARTERS | {"inner.batch": 8})
small("h7-guide-0.05", constant(7), {"inner.guide": 0.05})
small("h7-momentum-0.9", constant(7), {"inner.momentum": 0.9})
small("h7-mix-0.7-0.98", constant(7), {"inner.momentum": 0.98}, mix=0.7)
small("h7-mix-0.5-0.99", constant(7), {"inner.momentum": 0.99}, mix=0.5)
small("h7-outer-1.2", constant(7), {"outer.learning_rate": 1.2})
small("h7-outer-0.9", constant(7), {"outer.learning_rate": 0.9})
small("h7-outer-1.0-0.75", constant(7), {"outer.momentum": 0.75})
small("h7-embeddings-3", constant(7), {"inner.embedding_rate": 3.0, "inner.head_rate": 3.0})
small("h7-embeddings-0.5", constant(7), {"inner.embedding_rate": 0.5, "inner.head_rate": 0.5})
small("h7-final-0", constant(7), {"inner.final": 0.0})
small("h7-warmup-10", constant(7), {"inner.warmup": 10})
small("h7-beta2-0.99", constant(7), {"inner.betas": (0.9, 0.99)})
# Whether a run of four times the tokens wants another rate.
for rate in (0.005, 0.01, 0.02):
    small(f"h7-long-rate-{rate}", constant(7, 4 * TOTAL), {"inner.learning_rate": rate})
    longer = DATA_PARALLEL | {"inner.learning_rate": rate}
    small(f"ddp-long-rate-{rate}", [4 * TOTAL], longer)
small("grow-37-x4-scaled", growing(37, 4), scale_power=0.7)


def evenly(rounds: int, total: int = TOTAL) -> list[int]:
    """As duckweed.run.schedule has it."""
    return [total * (n + 1) // rounds - total * n // rounds for n in range(rounds)]


# What a saving of 150 gives; the rate chosen on the first seed, then two more seeds.
for rate in (0.01, 0.015, 0.02):
    for seed in (0, 1, 2):
        cell(
            f"saving-150-rate-{rate}-s{seed}",
            evenly(34),
            {"inner.learning_rate": rate, "seed": seed},
        )
# The same in steps of half and of a quarter of the sequences.
for seed in (0, 1, 2):
    cell(f"saving-150-halves-s{seed}", evenly(34, 2 * TOTAL), HALVES | {"seed": seed})
    cell(f"saving-150-quarters-s{seed}", evenly(34, 4 * TOTAL), QUARTERS | {"seed": seed})
    halved = DATA_PARALLEL | HALVES | {"inner.batch": 16, "seed": seed}
    cell(f"ddp-halves-s{seed}", [2 * TOTAL], halved)
LOWER: dict[str, Any] = {"inner.learning_rate": 0.007}
for seed in (0, 1, 2):
    lower = HALVES | LOWER | {"seed": seed}
    cell(f"saving-150-halves-rate-0.007-s{seed}", evenly(34, 2 * TOTAL), lower)
    halved = DATA_PARALLEL | lower | {"inner.batch": 16}
    cell(f"ddp-halves-rate-0.007-s{seed}", [2 * TOTAL], halved)
for rate, seed in ((0.0035, 0), (0.005, 0), (0.005, 1)):
    lower = HALVES | {"inner.learning_rate": rate, "seed": seed}
    cell(f"saving-150-halves-rate-{rate}-s{seed}", evenly(34, 2 * TOTAL), lower)
    halved = DATA_PARALLEL | lower | {"inner.batch": 16}
    cell(f"ddp-halves-rate-{rate}-s{seed}", [2 * TOTAL], halved)
THREE: dict[str, Any] = {"inner.iterations": 3}
small("h7-halves-iterations-3-s1", constant(14, 2 * TOTAL), HALVES | THREE | {"seed": 1})
small("ddp-halves-iterations-3", [2 * TOTAL], DATA_PARALLEL | HALVES | THREE | {"inner.batch": 16})
both = HALVES | LOWER | THREE
cell("saving-150-halves-3-s0", evenly(34, 2 * TOTAL), both)
cell("ddp-halves-3-s0", [2 * TOTAL], DATA_PARALLEL | both | {"inner.batch": 16})
for seed in (0, 1, 2):
    cell(f"h20-s{seed}", constant(20), {"seed": seed})
    cell(
        f"saving-150-dense-rate-0.015-s{seed}",
        evenly(34),
        DENSE | {"inner.learning_rate": 0.015, "seed": seed},
    )
    for rate in (0.01, 0.015, 0.02):
        cell(
            f"ddp-rate-{rate}-s{seed}",
            [TOTAL],
            DATA_PARALLEL | {"inner.learning_rate": rate, "seed": seed},
        )
# The shipped steps and rate with other numbers of rounds, uncompressed, with eight peers, and over five times the tokens.
SHIPPED: dict[str, Any] = HALVES | LOWER
for rounds in (51, 68):
    for seed in (0, 1, 2):
        cell(f"halves-{rounds}-rounds-s{seed}", evenly(rounds, 2 * TOTAL), SHIPPED | {"seed": seed})
for seed in (0, 1):
    cell(f"halves-dense-s{seed}", evenly(34, 2 * TOTAL), SHIPPED | DENSE | {"seed": seed})
EIGHT: dict[str, Any] = HALVES | {"inner.learning_rate": 0.0078}
cell("eight-halves", evenly(51, 2 * TOTAL), EIGHT | {"rounds.peers": 8})
for rate in (0.0035, 0.005, 0.0078):
    joined = DATA_PARALLEL | HALVES | {"inner.batch": 32, "inner.learning_rate": rate}
    cell(f"ddp-eight-halves-rate-{rate}", [2 * TOTAL], joined)
LONG = 10 * TOTAL  # steps: five times the tokens of `duckweed train` without arguments
for rate in (0.0037, 0.0026):
    lower = HALVES | {"inner.learning_rate": rate}
    cell(f"ddp-fivefold-rate-{rate}", [LONG], DATA_PARALLEL | lower | {"inner.batch": 16})
cell("fivefold", evenly(255, LONG), HALVES | {"inner.learning_rate": 0.0037})


def coded(levels: int, threshold: float, value: float) -> dict[str, Any]:
    """The integer wire with codes of several levels."""
    return {"wire.levels": levels} | ternary(threshold, value)


# How far momenta turn to the last merged step, against how long rounds are.
for end, wire, steps, shares in (
    ("-dense", DENSE, 14, (0.0, 0.05, 0.1)),
    ("-dense", DENSE, 10, (0.0, 0.05)),
    ("-dense", DENSE, 5, (0.0, 0.02, 0.05, 0.1)),
    ("-dense", DENSE, 2, (0.0, 0.1)),
    ("", {}, 10, (0.0, 0.03, 0.1)),
    ("", {}, 7, (0.0, 0.03)),
):
    for share in shares:
        guided = HALVES | wire | {"inner.guide": share}
        small(f"h{steps}-guide-{share}{end}", constant(steps, 2 * TOTAL), guided)
for name, steps, codes in (
    ("h10-1.1-1.7", 10, coded(3, 1.1, 1.7)),
    ("h10-1.2-1.8", 10, coded(3, 1.2, 1.8)),
    ("h7-1.5-2.1", 7, coded(3, 1.5, 2.1)),
):
    small(f"{name}-levels-3", constant(steps, 2 * TOTAL), HALVES | {"inner.guide": 0.03} | codes)
# Both, with the demo's model.
GUIDED: dict[str, Any] = SHIPPED | {"inner.guide": 0.03}
cell("guided-51-rounds", evenly(51, 2 * TOTAL), GUIDED)
cell("guided-51-rounds-dense", evenly(51, 2 * TOTAL), GUIDED | DENSE)
cell("guided-51-rounds-levels-2", evenly(51, 2 * TOTAL), GUIDED | coded(2, 1.1, 1.7))
cell("guided-68-rounds-levels-2", evenly(68, 2 * TOTAL), GUIDED | coded(2, 1.1, 1.7))
cell("guided-76-rounds-levels-3", evenly(76, 2 * TOTAL), GUIDED | coded(3, 1.2, 1.8))
TWO_LEVELS: dict[str, Any] = GUIDED | coded(2, 1.1, 1.7)  # as `duckweed train` has it
for seed in (0, 1, 2):
    cell(f"shipped-s{seed}", evenly(70, 2 * TOTAL), TWO_LEVELS | {"seed": seed})
cell("shipped-rate-0.005", evenly(70, 2 * TOTAL), TWO_LEVELS | {"inner.learning_rate": 0.005})
eight = TWO_LEVELS | {"rounds.peers": 8, "inner.learning_rate": 0.0078}
cell("shipped-eight", evenly(82, 2 * TOTAL), eight)
joined = DATA_PARALLEL | HALVES | {"inner.batch": 16}
guided = joined | {"inner.learning_rate": 0.005, "inner.guide": 0.1}
cell("ddp-guided-0.1-rate-0.005", evenly(52, 2 * TOTAL), guided)
for rate, seed in ((0.0025, 0), (0.0035, 1)):
    own = {"inner.learning_rate": rate, "seed": seed}
    cell(f"ddp-halves-rate-{rate}-s{seed}", [2 * TOTAL], joined | own)

# The shipped run with larger models, in bf16: as many steps, rounds and tokens.
LARGER: dict[str, dict[str, Any]] = {
    size: {
        "architecture.width": width, "architecture.layers": layers, "architecture.heads": width // 64,
        "architecture.kv_heads": width // 64, "architecture.inner_width": inner, "inner.precision": "bf16",
    }
    for size, width, layers, inner in (("4M", 256, 5, 704), ("15M", 448, 6, 1216))
}  # fmt: skip
for size, model in LARGER.items():
    for rate in (0.0035, 0.0025, 0.0018, 0.0013):
        cell(f"ddp-{size}-rate-{rate}", [2 * TOTAL], joined | model | {"inner.learning_rate": rate})
    for rate in (0.007, 0.005, 0.0035):
        lower = TWO_LEVELS | model | {"inner.learning_rate": rate}
        cell(f"shipped-{size}-rate-{rate}", evenly(70, 2 * TOTAL), lower)
for size, rate in (("4M", 0.0025), ("15M", 0.0018)):  # the best of each, with a second seed
    for name, changes, best in (("ddp", joined, rate), ("shipped", TWO_LEVELS, 0.0035)):
        own = LARGER[size] | {"inner.learning_rate": best, "seed": 1}
        lengths = evenly(70, 2 * TOTAL) if name == "shipped" else [2 * TOTAL]
        cell(f"{name}-{size}-rate-{best}-s1", lengths, changes | own)
# What the wire costs at as many rounds, and the shipped run over five times the tokens.
cell("shipped-dense", evenly(70, 2 * TOTAL), GUIDED | DENSE)
cell("shipped-fivefold", evenly(350, LONG), TWO_LEVELS | {"inner.learning_rate": 0.0037})

# The same on prose.
cell("shipped-prose", evenly(70, 2 * TOTAL), TWO_LEVELS, prose=True)
for rate in (0.0025, 0.0035, 0.005):
    cell(
        f"ddp-prose-rate-{rate}",
        [2 * TOTAL],
        joined | {"inner.learning_rate": rate},
        prose=True,
    )

# A peer that begins a round with what it could not send yet, and the sparser codes that this allows.
OWN: dict[str, Any] = {"inner.residual": 0.4}
for name, steps, guide, codes in (
    ("h10-1.0", 10, 0.03, coded(1, 1.0, 1.5)),
    ("h10-1.5", 10, 0.03, coded(1, 1.5, 1.95)),
    ("h7-1.5-levels-3", 7, 0.03, coded(3, 1.5, 2.1)),
):
    for count in (1, 2, 4, 8):
        for seed in (0, 1):
            for end, own in (("", {}), ("-own", OWN)):
                more = {"rounds.peers": count, "inner.guide": guide, "seed": seed}
                changes = HALVES | codes | more | own
                small(f"{name}-of-{count}{end}-s{seed}", constant(steps, 2 * TOTAL), changes)
SPARSER: dict[str, Any] = SHIPPED | OWN | {"inner.guide": 0.02} | coded(3, 1.5, 2.1)
for seed in (0, 1, 2):
    cell(f"own-s{seed}", evenly(101, 2 * TOTAL), SPARSER | {"seed": seed})
    cell(f"own-two-levels-s{seed}", evenly(70, 2 * TOTAL), TWO_LEVELS | OWN | {"seed": seed})
    # As shipped-*, on the machine of own-*, which rounds otherwise; likewise data parallelism at its best rate.
    cell(f"again-s{seed}", evenly(70, 2 * TOTAL), TWO_LEVELS | {"seed": seed})
    best = joined | {"inner.learning_rate": 0.0035, "seed": seed}
    cell(f"ddp-again-s{seed}", [2 * TOTAL], best)

WORDS = {
    "h20": "rounds of 20 steps",
    "saving-150-rate-0.01": "34 rounds, steps of 8 sequences",
    "saving-150-halves-rate-0.007": "34 rounds, steps of 4 sequences",
    "halves-51-rounds": "51 rounds, steps of 4 sequences",
    "shipped": "70 rounds, weaker guide, two levels",
    "own": "101 rounds, begun with the residual (as shipped)",
    "ddp-rate-0.01": "data parallelism",
    "ddp-halves-rate-0.0035": "data parallelism, steps of 4 sequences",
}
"""What the picture shows, and what it calls it."""
