"""A larger model for real: `python -m bench.scale.larger [--rounds 3] [--steps 4]` (root, some ten minutes).

Two peers train llama-125m between hosts of the laboratory, each with a home's link of 10 Mbit/s up, 50 down and 80 ms
both ways, in float32. What `duckweed plan` can say before stands beside what was measured: memory of a peer from the
model and the specification; bytes, and the time of a round, from the planner's tables, the links, and two figures of this
machine, which the founding of the run and `python -m bench.wire core` give: seconds of a step, and MB/s of the codec.
Writes bench/results/larger.json and prints the table of docs/learn.md.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.peer.made import peak
from bench.wan.lab import Host, Lab, unavailable
from bench.wan.runs import Served
from duckweed.run.events import RoundClosed

RESULTS = Path(__file__).parents[1] / "results" / "larger.json"
HOME = {"up": 10.0, "down": 50.0, "delay": 20.0}  # and the coordinator's 20 ms: 80 both ways
MODEL = "llama-125m"
SPEC = """[data]
path = "text.txt"

[model]
source = "{model}"
sequence = 256

[inner]
steps = {steps}
batch = 4
warmup = 2
precision = "fp32"
learning_rate = 0.002

[rounds]
count = {rounds}
peers = 2
evaluate = 100
evaluate_tokens = 2048
"""
WIRE, CODING = "integer, threshold 1", ("compress", "encode", "decode")
PHASES = ("train", "compress", "send", "wait", "fetch", "apply")


def before(place: Path, steps: int, seconds: float) -> dict[str, float]:
    """What is predicted from the specification. seconds: of an inner step, as the founding measured."""
    from duckweed.learn import memory
    from duckweed.learn.fit import Fit
    from duckweed.learn.model import model as models
    from duckweed.plan import exchange
    from duckweed.plan.inputs.existing import Measured, predict
    from duckweed.run import spec as specs

    spec = specs.load(place / "run.toml")
    network = models.skeleton(models.configuration(MODEL, place, 257, spec.model.sequence))
    size = sum(p.numel() for p in network.parameters())
    wire = exchange.find("integer-1.0")
    down = float(exchange.down_bits(wire, 2.0))
    ours = predict(
        Measured(size, 2, steps, seconds, wire.up, down, coding_seconds(size), HOME["up"] * 1e6,
                 HOME["down"] * 1e6, 0.04)
    )  # fmt: skip
    return {
        "parameters": size, "bytes up": size * wire.up / 8, "bytes down": size * down / 8,
        "round": ours.seconds, "train": steps * seconds, "exchange": ours.exchange,
        "memory": memory.whole(network, spec, "cpu", Fit(spec.inner.batch)),
    }  # fmt: skip


def coding_seconds(size: int) -> float:
    """Seconds of one core to compress and write a contribution, and to read and apply an update, at the speeds that
    bench/results/wire.json has."""
    rows = json.loads((RESULTS.parent / "wire.json").read_text())["core"]
    return sum(
        4 * size / 1e6 / row["MB/s"] for row in rows if row["wire"] == WIRE and row["job"] in CODING
    )


def measured(run: Served) -> dict[str, Any]:
    """Medians over the rounds but the first, in which the peers come."""
    peaks: dict[str, int] = {}
    while run.processes[run.hub].poll() is None:
        for host, process in run.processes.items():
            try:
                peaks[host] = max(peaks.get(host, 0), peak(process.pid))
            except (OSError, IndexError):  # it has ended
                continue
        time.sleep(1)
    run.ends()
    rounds = run.events(RoundClosed)
    times = [t for x in rounds[1:] for t in x.timings.values()]
    return {
        "rounds": len(rounds), "accepted": [len(x.accepted) for x in rounds],
        "round": statistics.median(x.seconds for x in rounds[1:]),
        **{name: statistics.median(t.get(name, 0.0) for t in times) for name in PHASES},
        "bytes up": statistics.median(b for x in rounds for b in x.contribution_bytes),
        "bytes down": statistics.median(x.update_bytes for x in rounds if x.update_bytes),
        "memory": max(peaks[host] for host in run.guests), "memory of the coordinator": peaks[run.hub],
        "loss": [round(x.loss, 3) for x in rounds],
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    said, seen = found["before"], found["measured"]
    units = {"bytes up": 1e6, "bytes down": 1e6, "memory": 1e9}
    seen = seen | {"exchange": sum(seen[x] for x in PHASES if x != "train")}
    lines = ["| | planned | measured |", "|---|--:|--:|"]
    for name, unit in (
        ("round", "s"), ("train", "s"), ("exchange", "s"), ("bytes up", "MB"), ("bytes down", "MB"), ("memory", "GB"),
    ):  # fmt: skip
        by = units.get(name, 1.0)
        lines.append(f"| {name} | {said[name] / by:.1f} {unit} | {seen[name] / by:.1f} {unit} |")
    lines += [f"| of which {x} | | {seen[x]:.1f} s |" for x in PHASES if x != "train"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    if reason := unavailable():
        raise SystemExit(f"skipped: {reason}")
    spec = SPEC.format(model=MODEL, steps=given.steps, rounds=given.rounds)
    hosts = [Host("hub", delay=20.0), Host("p0", **HOME), Host("p1", **HOME)]
    with tempfile.TemporaryDirectory() as name, Lab(hosts) as lab:
        run = Served(lab, Path(name), spec)
        seen = measured(run)
        said = before(Path(name), given.steps, run.folder.local()["step_seconds"])
    found = {"before": said, "measured": seen, "load": os.getloadavg()[0], "cores": os.cpu_count()}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
