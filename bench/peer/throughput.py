"""Tokens per second of N peers on this machine against plain PyTorch loops on the same cores.

    python -m bench.peer.throughput [--peers 1 2 4] [--repeats 3] [--seconds 30]

The same model, batches, precision and optimizer. The swarm is real: a coordinator and N peers as
processes, over the transport; the baseline is one plain training loop per core in use (N loops, at
most as many as there are cores). Both alternate; the ratio is that of the medians. Where there are
more peers than cores, as many plain loops as peers are measured too: what sharing a core costs by
itself. Wall time on a
machine that does other work says little, so processor time per token is measured as well: what the
processes of the swarm used between two ends of rounds, against what a plain loop used. Rounds take
about `--seconds` processor seconds of training; the first one is not counted.

Writes bench/results/throughput.json; what it holds of other numbers of peers stays.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from duckweed.round.run_log import utilisation
from duckweed.run import folder as folders
from duckweed.run.events import RoundClosed
from duckweed.run.spec import RunSpec, override

RESULTS = Path(__file__).parents[1] / "results" / "throughput.json"
ROUNDS = 3  # the first is not counted
TICK = os.sysconf("SC_CLK_TCK")


def plain(seconds: float) -> None:
    """One plain loop on the default model: prints tokens, wall and processor seconds as JSON."""
    import torch

    from duckweed.learn.learner import Part
    from duckweed.learn.optim.registry import make_optimizer
    from duckweed.learn.single import SingleDevice
    from duckweed.learn.tasks.text import NextToken
    from duckweed.round import founding

    torch.set_num_threads(1)
    spec = RunSpec()
    ground = founding.prepare(spec, Path.cwd(), lambda text: None)
    task = NextToken(spec, ground.dataset)
    one = SingleDevice(spec, founding.configuration(spec, ground), task, "cpu")
    optimizer = make_optimizer(one.model, spec.inner)
    one.model.train()
    batch, length = spec.inner.batch, spec.model.sequence
    done, start, spent = -3, 0.0, 0.0
    while done < 1 or time.perf_counter() - start < seconds:
        if done == 0:  # the first steps warm up
            start, spent = time.perf_counter(), time.process_time()
        windows = next(task.batches(Part(max(done, 0), 0, 1), one.model))
        one.loss(windows).backward()
        optimizer.step(0.001, 0)
        done += 1
    record = {
        "tokens": done * batch * length,
        "wall": time.perf_counter() - start,
        "processor": time.process_time() - spent,
    }
    print(json.dumps(record))


def loops(count: int, seconds: float) -> dict[str, float]:
    """`count` plain loops at once: tokens per second together, processor seconds per token."""
    command = [sys.executable, "-m", "bench.peer.throughput", "--plain", str(seconds)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment()) for _ in range(count)
    ]
    found = [json.loads(process.communicate()[0]) for process in running]
    return {
        "tokens_per_second": sum(f["tokens"] / f["wall"] for f in found),
        "processor_per_token": sum(f["processor"] for f in found) / sum(f["tokens"] for f in found),
    }


def swarm(peers: int, steps: int) -> dict[str, float]:
    """A real run of N peers: the same figures, and the share of a round that is training."""
    from duckweed.process.local_run import LocalRun
    from duckweed.round import founding

    changes: dict[str, object] = {
        "rounds.peers": peers,
        "rounds.count": ROUNDS,
        "rounds.evaluate": 1000,
        "inner.steps": steps,
        "inner.warmup": 1,
    }
    spec = override(RunSpec(), changes)
    with tempfile.TemporaryDirectory() as place:
        folder = folders.create(Path(place), "throughput")
        ground = founding.prepare(spec, Path.cwd(), lambda text: None)
        founding.found(spec, ground, folder, "cpu", peers, lambda text: None)
        ends: list[tuple[float, float]] = []
        shares = []
        with LocalRun(folder, spec, "cpu", 1, peers) as run:
            run.start()
            for event in run.events():
                if not isinstance(event, RoundClosed):
                    continue
                ends.append((time.perf_counter(), children_seconds()))
                if event.round > 0:
                    for times in event.timings.values():
                        shares.append(utilisation(times))
    tokens = spec.tokens_per_block * peers * (len(ends) - 1)
    wall, processor = (ends[-1][i] - ends[0][i] for i in (0, 1))
    return {
        "tokens_per_second": tokens / wall,
        "processor_per_token": processor / tokens,
        "round_seconds": wall / (len(ends) - 1),
        "training_share": statistics.mean(shares),
    }


def children_seconds() -> float:
    """Processor seconds that the children of this process have used so far (Linux)."""
    total, me = 0, str(os.getpid())
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == me:
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def compare(peers: int, repeats: int, seconds: float) -> dict[str, Any]:
    """Alternate baseline and swarm; medians, their ratio, and how far single runs are apart."""
    cores = min(peers, os.cpu_count() or 1)
    trial = loops(cores, min(10.0, seconds))
    tokens_per_step = RunSpec().inner.batch * RunSpec().model.sequence
    # Processor seconds: on a busy machine 30 s of wall time hold little training.
    steps = max(1, round(seconds / trial["processor_per_token"] / tokens_per_step))
    baseline, ours, crowded = [], [], []
    for _ in range(repeats):
        baseline.append(loops(cores, seconds))
        ours.append(swarm(peers, steps))
        if peers > cores:
            crowded.append(loops(peers, seconds))
        print(peers, baseline[-1], ours[-1], crowded[-1:], flush=True)

    def middle(runs: list[dict[str, float]], key: str) -> float:
        return statistics.median(run[key] for run in runs)

    def overhead(ours_: float, theirs: float) -> float:
        return round(100 * (ours_ / theirs - 1), 1)

    rates = [run["tokens_per_second"] for run in baseline]
    return {
        "peers": peers,
        "plain_loops": cores,
        "steps_per_round": steps,
        "repeats": repeats,
        "load": os.getloadavg()[0],
        "plain": baseline,
        "crowded": crowded,
        "swarm": ours,
        "overhead_percent_wall": overhead(
            middle(baseline, "tokens_per_second"), middle(ours, "tokens_per_second")
        ),
        "overhead_percent_wall_crowded": overhead(
            middle(crowded, "tokens_per_second"), middle(ours, "tokens_per_second")
        )
        if crowded
        else None,
        "overhead_percent_processor": overhead(
            middle(ours, "processor_per_token"), middle(baseline, "processor_per_token")
        ),
        # What a round costs each peer (and its part of the coordinator), however long it trains.
        "processor_seconds_per_round_and_peer": round(
            (middle(ours, "processor_per_token") - middle(baseline, "processor_per_token"))
            * tokens_per_step
            * steps,
            2,
        ),
        "outside_training_percent": round(100 * (1 - middle(ours, "training_share")), 1),
        "plain_spread_percent": round(100 * (max(rates) / min(rates) - 1), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--plain", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.plain:
        return plain(chosen.plain)
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = {row["peers"]: row for row in kept}
    for peers in chosen.peers:
        rows[peers] = compare(peers, chosen.repeats, chosen.seconds)
        write(sorted(rows.values(), key=lambda row: row["peers"]))
    return None


def write(rows: list[dict[str, Any]]) -> None:
    """The record on disk, its table on the screen."""
    machine = {"processor": platform.machine(), "cores": os.cpu_count()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(
        "| peers | round | against a loop a core | against a loop a peer | processor | not training |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        length = statistics.median(run["round_seconds"] for run in row["swarm"])
        crowded = row.get("overhead_percent_wall_crowded")
        print(
            f"| {row['peers']} | {length:.0f} s | {row['overhead_percent_wall']:+.1f} % "
            f"| {'' if crowded is None else f'{crowded:+.1f} %'} "
            f"| {row['overhead_percent_processor']:+.1f} % "
            f"| {row['outside_training_percent']:.1f} % |"
        )


if __name__ == "__main__":
    main()
