"""What it costs to train while a round is exchanged, and what it saves.

`python -m bench.peer.overlap` writes bench/results/overlap.json; cells that are in it already are not
run again. Two parts:

loss         a small model of bytes, trained by simulation with rounds.overlap from 0 to 1: with
             moments kept and guided (the default) under whole and under Nesterov outer steps, and
             with fresh moments: held-out loss at equal tokens
utilisation  the virtual clock of the simulation, for rounds of llama-15m's sizes over slow links
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from bench.peer.rounds_clock import Clock, Costs
from duckweed.learn.model import model as models
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.net.link_spec import parse_links
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.run import folder as folders
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec, override
from duckweed.run.state import first
from duckweed.wire.codec import codec_of

Report = Callable[[int, float], None] | None
RESULTS = Path(__file__).parents[1] / "results" / "overlap.json"
SHARES = (0.0, 0.25, 0.5, 1.0)
SEEDS = (0,)
RUN: dict[str, object] = {
    "model.source": "config.json",
    "model.sequence": 64,
    "inner.steps": 20,
    "inner.batch": 4,
    "inner.state": "kept",
    "inner.guide": 0.1,
    "rounds.count": 25,
    "rounds.peers": 4,
    "rounds.evaluate": 1000,
    "data.limit": 8_000_000,
}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
NESTEROV: dict[str, object] = {"outer.learning_rate": 0.7, "outer.momentum": 0.6}
GROUPS: dict[str, dict[str, object]] = {
    "guided": {},
    "guided, nesterov": NESTEROV,
    "fresh": NESTEROV | {"inner.state": "fresh", "inner.guide": 0.0},
}
FORMS: dict[str, dict[str, object]] = {
    f"{name} {share}": group | {"rounds.overlap": share}
    for name, group in GROUPS.items()
    for share in SHARES
}
HELD_OUT = 65_536  # tokens
LINKS = ("10/50 80ms", "1/5 80ms")
STEP_SECONDS = (0.5, 1.0, 2.0)
PEERS, ROUNDS = 16, 50


def loss(form: str, seed: int) -> dict[str, Any]:
    """Held-out nats per token after a run, and what the run was."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        (base / "config.json").write_text(json.dumps(CONFIG))
        spec = override(RunSpec(), RUN | {"seed": seed} | FORMS[form])
        ground = founding.prepare(spec, base, lambda text: None)
        folder = folders.create(base / "runs", "run")
        state = founding.found(spec, ground, folder, "cpu", 1, lambda text: None)
        layout = founding.layout(folder)
        simulation = Simulation(folder, spec, layout, ground, state, "cpu")
        learner = simulation.workers[0].learner
        final = simulation.run()
        nats, tokens = learner.evaluate(final.weights, HELD_OUT, batch=16)
    return {
        "held_out": nats / tokens,
        "parameters": layout.total,
        "tokens": spec.rounds.count * spec.rounds.peers * spec.tokens_per_block,
        "state": final.hash(),
        "cpu_seconds": time.process_time() - began,
    }


def layout_of(source: str) -> Layout:
    config = models.configuration(source, Path(), vocabulary=4096, sequence=256)
    return models.layout_of(models.skeleton(config))


def traffic() -> dict[str, Any]:
    """Bytes and processor seconds of one round of llama-15m with the integer wire and PEERS peers:
    those of llama-1m, with made-up values (normally distributed), times the ratio of parameters."""
    spec, layout = RunSpec(), layout_of("llama-1m")
    times = layout_of("llama-15m").total / layout.total
    rng = np.random.default_rng(0)
    scales = np.ones(len(layout.names), np.float32)
    codec = codec_of(spec.wire, layout)
    handed, compressing = [], []
    for peer in range(PEERS):
        values = rng.standard_normal(layout.total, np.float32)
        began = time.process_time()
        blob = codec.encode(values, scales).blob
        compressing.append(time.process_time() - began)
        said = Announcement(
            0, peer, peer, blob_hash(blob), len(blob), 1, 1, 3.0, codec.announce(values)
        )
        handed.append((said, blob))
    engine = Engine(spec, layout, MemoryBlobs({said.blob: blob for said, blob in handed}))
    closed = engine.close(scales.tolist(), [said for said, _ in handed])
    assert closed.update is not None
    update = engine.blobs.read(closed.update)
    state = first(layout, np.zeros(layout.total, np.float32))
    began = time.process_time()
    engine.advance(state, closed)
    return {
        "parameters": times * layout.total,
        "peers": PEERS,
        "contribution_bytes": times * len(handed[0][1]),
        "update_bytes": times * len(update),
        "compress_seconds": times * min(compressing),
        "apply_seconds": times * (time.process_time() - began),
    }


def utilisation(sizes: dict[str, Any], link: str, step: float, share: float) -> dict[str, float]:
    """Share of time in which a peer computes, and seconds per round, in the long run."""
    (one,) = parse_links(link, 1)
    train = step * RunSpec().inner.steps
    cost = Costs(
        train=train,
        compress=sizes["compress_seconds"],
        send=one.latency + 8 * sizes["contribution_bytes"] / one.up,
        fetch=2 * one.latency + 8 * sizes["update_bytes"] / one.down,
        apply=sizes["apply_seconds"],
        ahead=share * train,
    )
    clock = Clock(PEERS)
    for _ in range(ROUNDS):
        clock.round([cost] * PEERS)
    return {
        "utilisation": ROUNDS * cost.train / clock.now,
        "round_seconds": clock.now / ROUNDS,
        "compute_seconds": cost.train,
        "exchange_seconds": cost.compress + cost.send + cost.fetch + cost.apply,
    }


def table(found: dict[str, Any]) -> str:
    """What was measured, as Markdown for docs/swarm.md."""
    shares = " | ".join(f"overlap {share}" for share in SHARES)
    lines = [f"| form | {shares} |", "|---|" + "---|" * len(SHARES)]
    least = "guided 0.0"
    for name in GROUPS:
        cells = [_loss(found, f"{name} {share}", least) for share in SHARES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| link | computing | exchange | {shares} |",
        "|---|---|---|" + "---|" * len(SHARES),
    ]
    for link in LINKS:
        for step in STEP_SECONDS:
            each_ = [found["utilisation"][f"{link} {step} {share}"] for share in SHARES]
            used = " | ".join(f"{x['utilisation']:.0%}" for x in each_)
            seconds = f"{each_[0]['compute_seconds']:.0f} s | {each_[0]['exchange_seconds']:.1f} s"
            lines.append(f"| {link} | {seconds} | {used} |")
    return "\n".join(lines)


def _loss(found: dict[str, Any], form: str, least: str) -> str:
    """Nats of every seed, and how much more that is than those of another form."""
    nats, others = (
        [found["loss"][f"{f} seed {seed}"]["held_out"] for seed in SEEDS] for f in (form, least)
    )
    ratio = mean(x / base for x, base in zip(nats, others, strict=True))
    return f"{', '.join(f'{x:.4f}' for x in nats)} ({ratio - 1:+.1%})"


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {"loss": {}}
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text())
    found["run"], found["config"], found["forms"] = RUN, CONFIG, FORMS
    for seed in SEEDS:
        for form in FORMS:
            name = f"{form} seed {seed}"
            if name not in found["loss"]:
                found["loss"][name] = loss(form, seed)
                print(name, found["loss"][name], flush=True)
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    if "traffic" not in found:
        found["traffic"] = traffic()
    found["utilisation"] = {
        f"{link} {step} {share}": utilisation(found["traffic"], link, step, share)
        for link in LINKS
        for step in STEP_SECONDS
        for share in SHARES
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
