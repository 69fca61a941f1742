"""What it costs to train while a round is exchanged, and what it saves.

`python -m bench.overlap` writes bench/results/overlap.json; cells that are in it already are not
run again. Two parts:

loss         a small model of bytes, trained by simulation with rounds.overlap none, delayed and
             eager, with the integer wire and uncompressed: held-out loss at equal tokens
utilisation  the virtual clock of the simulation, for rounds of llama-15m's sizes over slow links
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from duckweed.learn import model as models
from duckweed.learn.dataset import held_out_batches
from duckweed.learn.trainer import Trainer
from duckweed.merge.round import Announcement, advance, blob_hash, close
from duckweed.run import folder as folders
from duckweed.run.sections import Integer
from duckweed.run.spec import RunSpec, override
from duckweed.run.state import State
from duckweed.swarm import genesis
from duckweed.swarm.clock import Clock, Costs
from duckweed.swarm.links import parse_links
from duckweed.swarm.simulation import Simulation
from duckweed.swarm.work import sizes
from duckweed.wire.contribution import compress

RESULTS = Path(__file__).parent / "results" / "overlap.json"
MODES = ("none", "delayed", "eager")
SEEDS = (0, 1)
WIRES: dict[str, dict[str, object]] = {
    "integer": {"wire.kind": "integer"},
    "fp32": {"wire.kind": "dense", "wire.dtype": "fp32"},
}
RUN: dict[str, object] = {
    "model.source": "config.json",
    "model.sequence": 64,
    "inner.steps": 20,
    "inner.batch": 8,
    "rounds.count": 40,
    "rounds.peers": 4,
    "rounds.evaluate": 1000,
    "data.limit": 8_000_000,
}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
# Outer steps that suit a gradient which is one round late: shorter, with less momentum.
OUTERS: dict[str, dict[str, object]] = {
    "default": {},
    "gentle": {"outer.learning_rate": 0.5, "outer.momentum": 0.3},
}
HELD_OUT = 131_072  # tokens
LINKS = ("10/50 80ms", "1/5 80ms")
STEP_SECONDS = (0.5, 1.0, 2.0)
PEERS, ROUNDS = 16, 50


def loss(changes: dict[str, object]) -> dict[str, Any]:
    """Held-out nats per token after a run, and what the run was."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        (base / "config.json").write_text(json.dumps(CONFIG))
        spec = override(RunSpec(), RUN | changes)
        ground = genesis.prepare(spec, base, lambda text: None)
        folder = folders.create(base / "runs", "run")
        state = genesis.found(spec, ground, folder, "cpu", 1, lambda text: None)
        layout = genesis.layout(folder)
        final = Simulation(folder, spec, layout, ground, state, "cpu").run()
        trainer = Trainer(
            models.build(genesis.configuration(spec, ground), "cpu"),
            spec.inner,
            spec.total_steps,
            "cpu",
        )
        windows = held_out_batches(ground.dataset, spec.model.sequence, HELD_OUT, 16)
        nats, tokens = trainer.evaluate(final.weights, windows)
    return {
        "held_out": nats / tokens,
        "parameters": layout.total,
        "tokens": spec.rounds.count * spec.rounds.peers * spec.tokens_per_block,
        "state": final.hash(),
        "seconds": time.perf_counter() - began,
    }


def traffic() -> dict[str, Any]:
    """Bytes and seconds of one round of llama-15m with the integer wire and PEERS peers, whose
    values are made up (normally distributed)."""
    spec = override(RunSpec(), {"model.source": "llama-15m"})
    config = models.configuration(
        "llama-15m", Path(), vocabulary=4096, sequence=spec.model.sequence
    )
    layout = models.layout_of(models.skeleton(config))
    rng = np.random.default_rng(0)
    scales = np.ones(len(layout.names), np.float32)
    assert isinstance(spec.wire, Integer)
    handed, compressing = [], []
    for peer in range(PEERS):
        values = rng.standard_normal(layout.total, np.float32)
        began = time.perf_counter()
        blob = compress(spec.wire, values, layout, scales).blob
        compressing.append(time.perf_counter() - began)
        said = Announcement(
            0, peer, peer, blob_hash(blob), len(blob), 1, 1, 3.0, sizes(values, layout)
        )
        handed.append((said, blob))
    closed, update = close(spec, layout, scales.tolist(), handed)
    assert update is not None
    zeros = np.zeros(layout.total, np.float32)
    state = State(0, layout.digest(), zeros, zeros, scales)
    began = time.perf_counter()
    advance(spec, layout, state, closed, lambda digest: update)
    return {
        "parameters": layout.total,
        "peers": PEERS,
        "contribution_bytes": len(handed[0][1]),
        "update_bytes": len(update),
        "compress_seconds": min(compressing),
        "apply_seconds": time.perf_counter() - began,
    }


def utilisation(sizes: dict[str, Any], link: str, step: float, mode: str) -> dict[str, float]:
    """Share of time in which a peer computes, and seconds per round, in the long run."""
    (one,) = parse_links(link, 1)
    cost = Costs(
        train=step * RunSpec().inner.steps,
        compress=sizes["compress_seconds"],
        send=one.latency + 8 * sizes["contribution_bytes"] / one.up,
        fetch=2 * one.latency + 8 * sizes["update_bytes"] / one.down,
        apply=sizes["apply_seconds"],
    )
    clock = Clock(PEERS, mode)
    for _ in range(ROUNDS):
        clock.round([cost] * PEERS)
    exchange = cost.compress + cost.send + cost.fetch + cost.apply
    return {
        "utilisation": ROUNDS * cost.train / clock.now,
        "round_seconds": clock.now / ROUNDS,
        "compute_seconds": cost.train,
        "exchange_seconds": exchange,
    }


def table(found: dict[str, Any]) -> str:
    """What was measured, as Markdown for docs/swarm.md."""
    lines = ["| wire | outer step | none | delayed | eager |", "|---|---|---|---|---|"]
    for wire in WIRES:
        for outer in OUTERS:
            cells = [
                [found["loss"].get(f"{wire} {outer} {mode} {seed}") for seed in SEEDS]
                for mode in MODES
            ]
            means = [mean(c["held_out"] for c in cell) if all(cell) else None for cell in cells]
            best = means[0]
            shown = [
                "" if x is None else f"{x:.4f}" + (f" ({x / best - 1:+.1%})" if n and best else "")
                for n, x in enumerate(means)
            ]
            lines.append(f"| {wire} | {outer} | {' | '.join(shown)} |")
    lines += [
        "",
        "| link | computing | exchange | none | delayed | eager |",
        "|---|---|---|---|---|---|",
    ]
    for link in LINKS:
        for step in STEP_SECONDS:
            each = [found["utilisation"][f"{link} {step} {mode}"] for mode in MODES]
            shares = " | ".join(f"{x['utilisation']:.0%}" for x in each)
            lines.append(
                f"| {link} | {each[0]['compute_seconds']:.0f} s "
                f"| {each[0]['exchange_seconds']:.1f} s | {shares} |"
            )
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {"loss": {}}
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text())
    found["run"], found["config"] = RUN | {"seeds": SEEDS}, CONFIG
    found["traffic"] = traffic()
    found["utilisation"] = {
        f"{link} {step} {mode}": utilisation(found["traffic"], link, step, mode)
        for link in LINKS
        for step in STEP_SECONDS
        for mode in MODES
    }
    for outer, step in OUTERS.items():
        for seed in SEEDS:
            for wire, sent in WIRES.items():
                for mode in MODES:
                    name = f"{wire} {outer} {mode} {seed}"
                    if name not in found["loss"]:
                        changes = {"seed": seed, "rounds.overlap": mode} | sent | step
                        found["loss"][name] = loss(changes)
                        print(name, round(found["loss"][name]["held_out"], 4), flush=True)
                        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
