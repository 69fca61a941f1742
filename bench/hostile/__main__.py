"""`python -m bench.hostile [--attacks ...] [--share ...] [--seeds N] [--rules ...] [--data ...]`: runs of ten
peers of which some are hostile; each run is a line in bench/results/hostile.json, and one that is there is
not run again. `python -m bench.hostile table` prints the table of docs/merge.md,
`python -m bench.hostile decisions` whom each rule leaves out."""

import argparse
import json
import math
import os
import platform
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.hostile import adaptive, decisions, rules, table
from bench.hostile.attacks import ATTACKS
from bench.hostile.swarm import PEERS, Swarm, World, world
from bench.hostile.table import RESULTS, read

HONEST = "none"
KNOWING = {
    "adaptive": adaptive.Adaptive, "patient": adaptive.Patient,
    "returning": partial(adaptive.Returning, 1), "taking-turns": partial(adaptive.Returning, 2),
}  # fmt: skip


def cell(
    found: World, rule: str, attack: str, hostile: int, data: str, seed: int
) -> dict[str, Any]:
    """One run. attack "none": the honest peers alone."""
    began, worked = time.perf_counter(), time.process_time()
    made = KNOWING[attack]() if attack in KNOWING else ATTACKS.get(attack)
    run = Swarm(found, PEERS - hostile, hostile, made, rule).run()
    honest = [p for out in run.left_out for p in out if p < PEERS - hostile]
    theirs = [p for out in run.left_out for p in out if p >= PEERS - hostile]
    rounds = max(1, len(run.left_out))
    return {
        "rule": rule,
        "attack": attack,
        "hostile": hostile,
        "data": data,
        "seed": seed,
        "bits": round(run.bits, 4) if math.isfinite(run.bits) else None,
        "left_out_hostile": round(len(theirs) / max(1, hostile * rounds), 4),
        "left_out_honest": round(len(honest) / ((PEERS - hostile) * rounds), 4),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - worked, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


def main() -> None:
    if sys.argv[1:2] == ["table"]:
        print(table.text(read()))
        return
    if sys.argv[1:2] == ["decisions"]:
        torch.set_num_threads(1)
        decisions.main()
        return
    ask = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    ask.add_argument("--attacks", nargs="+", default=[HONEST, *ATTACKS, *KNOWING])
    ask.add_argument("--share", nargs="+", type=float, default=[0, 0.1, 0.25, 0.4])
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--rules", nargs="+", default=["filtered"])
    ask.add_argument("--results", type=Path, default=RESULTS, help="where the lines go")
    ask.add_argument("--data", nargs="+", default=["identical", "uneven"])
    asked = ask.parse_args()
    torch.set_num_threads(1)
    rules.register()
    counts = [math.ceil(PEERS * share) for share in asked.share]
    done = {tuple(row[key] for key in table.KEYS) for row in read(asked.results)}
    for seed, data in product(range(asked.seeds), asked.data):
        wanted = [
            (rule, attack, hostile, data, seed)
            for hostile in counts
            for attack in asked.attacks
            for rule in asked.rules
            if hostile or attack == HONEST
        ]
        if left := [key for key in wanted if key not in done]:
            found = world(seed, data == "uneven")
            for hostile in sorted({key[2] for key in left}):
                # Trained first, and kept: what a rule without faults does is the same.
                honest = ("mean", HONEST, hostile, data, seed)
                for key in [honest, *(k for k in left if k[2] == hostile and k != honest)]:
                    row = cell(found, *key)
                    if key not in done:
                        note(row, asked.results)
                found.memo.clear()


def note(row: dict[str, Any], results: Path) -> None:
    """Keep a run, and show it."""
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
