"""How good and how fast the planner is: `python -m bench.outlook.plan` (minutes), parts: rounds, delays, speed, cases.

Writes bench/results/plan.json and bench/results/plan.md.

rounds: rounds of `duckweed train --simulate` against the planner's, for random combinations of model,
links, steps, step time, peers and wire. The planner gets the model's size, the links, the step time
and its own tables for the bits; only the time for coding and applying is taken from the run itself,
as this machine was shared while it ran.
delays: by how many delays of one way a round is longer.
speed: the search, and 1,000 samples of it.
cases: published numbers beside the planner's.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.outlook import published
from duckweed.net.link_spec import parse_links
from duckweed.plan import exchange
from duckweed.plan.inputs import assumptions, crowd, models
from duckweed.plan.inputs.existing import Measured, measure, model_of, predict
from duckweed.plan.report import report
from duckweed.plan.search import Target, default_space, evaluate, only
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import folder as folders
from duckweed.run import state as states
from duckweed.run.events import RoundClosed
from duckweed.run.spec import RunSpec, override

RESULTS = Path(__file__).parents[1] / "results"
MODELS = ("llama-1m", "deepseek-v3-mini")
WIRES: dict[str, dict[str, Any]] = {
    "integer-1.0": {"wire.kind": "integer", "wire.threshold": 1.0},
    "integer-2.0": {"wire.kind": "integer", "wire.threshold": 2.0, "wire.value": 2.4},
    "sparse-64": {"wire.kind": "sparse"},
    "bf16": {"wire.kind": "dense", "wire.dtype": "bf16"},
    "int8": {"wire.kind": "dense", "wire.dtype": "int8", "wire.feedback": 1.0},
}
ROUNDS = 3


def simulate(
    where: Path, name: str, model: str, wire: str, peers: int, steps: int, links: str, step: float
) -> Measured:
    """What `duckweed train --simulate` does, without the harvest at its end, measured."""
    changes: dict[str, Any] = {
        "model.source": model, "model.sequence": 64, "inner.steps": steps, "inner.warmup": 2,
        "inner.batch": 1, "rounds.count": ROUNDS, "rounds.peers": peers, "rounds.evaluate_tokens": 256,
        "inner.state": "fresh",  # the planner counts weights alone
        "data.path": str(Path(__file__).parents[2] / "docs" / "*.md"), **WIRES[wire],
    }  # fmt: skip
    spec = override(RunSpec(), changes)
    folder = folders.create(where, name)
    ground = founding.prepare(spec, Path.cwd(), lambda _: None)
    founding.found(spec, ground, folder, "cpu", 1, lambda _: None)
    layout = founding.layout(folder)
    state = states.load(folder.state(0), layout)
    Simulation(folder, spec, layout, ground, state, "cpu", parse_links(links, peers), step).run()
    return measure(spec, model_of(folder, spec).shape.total, list(folder.records(RoundClosed))[1:])


def bits(wire: str, peers: int) -> tuple[float, float]:
    """Bits a parameter up and down by the planner's tables. In this version every peer fetches all
    contributions, its own too, unless they can be added up."""
    found = exchange.find(wire)
    if found.merge == "sum":
        return found.up, float(exchange.down_bits(found, np.asarray([float(peers)]))[0])
    return found.up, peers * found.up


def rounds(count: int, seed: int) -> dict[str, Any]:
    """Random combinations, simulated and predicted."""
    draw = random.Random(seed)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        where = Path(place)
        for number in range(count):
            model, wire = draw.choice(MODELS), draw.choice(list(WIRES))
            peers, steps = draw.randint(2, 5), draw.choice((4, 8, 16))
            up, down = round(10 ** draw.uniform(-0.3, 1.3), 1), round(10 ** draw.uniform(0.3, 2), 1)
            trip, step = draw.randint(5, 300), round(10 ** draw.uniform(-1, 0.3), 2)
            run = simulate(
                where, f"r{number}", model, wire, peers, steps, f"{up}/{down} {trip}ms", step
            )
            sent, fetched = bits(wire, peers)
            ours = predict(
                Measured(run.parameters, peers, steps, step, sent, fetched, run.coding,
                         up * 1e6, down * 1e6, trip / 2000)
            )  # fmt: skip
            row = {
                "model": model, "wire": wire, "peers": peers, "steps": steps, "step_s": step, "up_mbit": up,
                "down_mbit": down, "trip_ms": trip, "simulated_s": run.seconds, "predicted_s": ours.seconds,
                "error": ours.seconds / run.seconds - 1, "up_bits": run.up_bits, "up_bits_table": sent,
                "down_bits": run.down_bits, "down_bits_table": fetched, "coding_s": run.coding,
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
    for row in rows:  # what was given to the planner is taken off: coding, then the steps as well
        given = row["coding_s"]
        for name in ("error_without_coding", "error_of_exchange_alone"):
            row[name] = (row["predicted_s"] - given) / (row["simulated_s"] - given) - 1
            given += row["steps"] * row["step_s"]
    errors = [abs(row["error"]) for row in rows]
    return {"seed": seed, "rows": rows, "largest_error": max(errors), "median_error": median(errors),}  # fmt: skip


def delays() -> dict[str, float]:
    """Delays of one way in a round, from two runs that differ in nothing else."""
    trips = (500, 1000)
    with tempfile.TemporaryDirectory() as place:
        runs = [
            simulate(
                Path(place), str(trip), MODELS[0], "integer-1.0", 2, 4, f"1000/1000 {trip}ms", 0.5
            )
            for trip in trips
        ]
    slow, slower = (run.seconds - run.coding for run in runs)
    return {"delays": (slower - slow) / (trips[1] - trips[0]) * 2000}


def speed() -> dict[str, Any]:
    """Seconds for one search, and for 1,000 samples of a search of at least 10,000 configurations."""
    target = Target(models.preset("llama-3-8b"), 1e12)
    people = crowd.read("1000x rtx4090 @ 20/100 Mbps 40ms, 60% online, 6h")
    began = time.perf_counter()
    space = default_space(target, people)
    found = evaluate(target, people, space)
    once = time.perf_counter() - began
    began = time.perf_counter()
    report(target, people)
    whole = time.perf_counter() - began
    index = found.best()
    assert index is not None
    kept = only(space, index)
    small = replace(
        space,
        paths=space.paths[::2],
        steps=space.steps[1::2],
        micro=space.micro[1::2],
        caps=space.caps[::2],
    )
    samples = assumptions.sample(1000)
    began = time.perf_counter()
    best = np.full(1000, np.inf)
    for start in range(0, 1000, 25):
        part = {name: np.asarray(value)[start : start + 25] for name, value in samples.items()}
        seconds = evaluate(target, people, small, part).seconds
        best[start : start + 25] = seconds.reshape(25, -1).min(axis=1)
    many = time.perf_counter() - began
    began = time.perf_counter()
    evaluate(target, people, kept, samples)
    committed = time.perf_counter() - began
    return {
        "configurations": space.size, "search_s": once, "report_with_1000_samples_s": whole,
        "sampled_configurations": small.size, "samples": 1000, "sampled_search_s": many,
        "samples_of_the_plan_s": committed,
    }  # fmt: skip


def cases() -> list[dict[str, Any]]:
    """Published numbers and the planner's."""
    v3, covenant = models.preset("deepseek-v3-671b"), models.preset("covenant-72b")
    miri, like = (
        published.simulate(published.MIRI_10E25),
        published.simulate(published.MIRI_COVENANT),
    )
    run = published.covenant(16 / 146, 0.2357, covenant)
    parts = published.covenant(64 * 14 / 4096, 0.2357, covenant)
    centre = report(
        Target(v3, 14.8e12),
        crowd.read("1x 2048x h800 @ 400 Gbps 0.01ms"),
        {"mfu_datacentre": 0.3894},
    )
    assert centre.best is not None
    assert centre.best.evaluation is not None
    hours = float(centre.best.evaluation.seconds.ravel()[0]) / 3600 * 2048
    rows = [
        ("Epoch AI: largest model by naive exchange, 60 Mbit/s, 10 min", 600e6, published.naive_largest_model(60e6, 600)),
        ("Epoch AI: DeepSeek-V3 naively, years", 5000, published.naive_years(671e9, 14.8e12, 15360 * 4096, 60e6)),
        ("Epoch AI: FLOP factor of 10,000 nodes", 6, published.epoch_penalty(1e4)),
        ("Epoch AI: years to catch up", 5.5, published.catch_up_years(2000, 20, 5)),
        ("MIRI simulator, 10e25 configuration: days", 331.14, miri.days),
        ("MIRI simulator, 10e25: seconds of exchange", 2880, miri.exchange),
        ("MIRI simulator, Covenant-like: days", 46.38, like.days),
        ("Covenant-72B: seconds of exchange, 146 x against bf16, upload only", 70, run.exchange),
        ("Covenant-72B: utilisation", 0.945, run.utilisation),
        ("Covenant-72B: seconds of exchange from its parts (14 bits for 64 of 4096)", 70, parts.exchange),
        ("DeepSeek-V3: H800 hours of pre-training", 2.664e6, hours),
    ]  # fmt: skip
    return [{"what": w, "published": p, "planner": o, "error": o / p - 1} for w, p, o in rows]


def markdown(results: dict[str, Any]) -> str:
    lines = []
    if "rounds" in results:
        lines += ["| model | wire | peers | steps x s | up/down Mbit/s, trip | simulated s | planner s | error | without coding | exchange alone |",
                  "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for r in results["rounds"]["rows"]:
            lines.append(
                f"| {r['model']} | {r['wire']} | {r['peers']} | {r['steps']} x {r['step_s']} | {r['up_mbit']}/"
                f"{r['down_mbit']}, {r['trip_ms']} ms | {r['simulated_s']:.2f} | {r['predicted_s']:.2f} | {r['error']:+.1%} | "
                f"{r['error_without_coding']:+.1%} | {r['error_of_exchange_alone']:+.1%} |"
            )
        lines.append("")
    if "cases" in results:
        lines += ["| published | value | planner | difference |", "|---|---|---|---|"]
        lines += [
            f"| {c['what']} | {c['published']:g} | {c['planner']:.4g} | {c['error']:+.1%} |"
            for c in results["cases"]
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["rounds", "delays", "speed", "cases"])
    parser.add_argument("--count", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    file = RESULTS / "plan.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    if "rounds" in given.parts:
        results["rounds"] = rounds(given.count, given.seed)
    if "delays" in given.parts:
        results["delays"] = delays()
        print(results["delays"])
    if "speed" in given.parts:
        results["speed"] = speed()
    if "cases" in given.parts:
        results["cases"] = cases()
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "plan.md").write_text(markdown(results))
    print(markdown(results))
    print(json.dumps(results.get("speed"), indent=1))


if __name__ == "__main__":
    main()
