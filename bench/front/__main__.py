"""`python -m bench.front run [NAME ...]`: trains the cells that have no record yet; `table` prints them."""

import argparse
import fnmatch
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from bench.front import plan, swarm

RESULTS = Path(__file__).parents[1] / "results" / "front"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.front", description=__doc__)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("cells", nargs="*", default=["*"], help="names or patterns")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name, cell in plan.CELLS.items():
        path = RESULTS / f"{name}.json"
        if not any(fnmatch.fnmatch(name, pattern) for pattern in chosen.cells):
            continue
        if chosen.command == "run" and not path.exists():
            record = {"cell": name, "asked": cell} | swarm.run(**cell)
            RESULTS.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(record, indent=1) + "\n")
            part.replace(path)
        if path.exists():
            told(json.loads(path.read_text()))


def told(record: dict) -> None:
    averaged = ", ".join(f"{n}: {x}" for n, x in record["averaged"].items())
    print(
        f"{record['cell']:34} {record['bits_per_byte']:.4f} bits per byte (averaged {averaged}), "
        f"{record['rounds']} rounds, {record['times_fewer_up']} and {record['times_fewer_down']} times fewer, "
        f"{record['cpu_seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
