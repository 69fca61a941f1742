"""`python -m bench.front run [NAME ...]`: trains the cells that have no record yet; `table` writes the table of
docs/parity-cells.md, `picture` that of docs/parity.md."""

import argparse
import fnmatch
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from bench.front import picture, plan, swarm

RESULTS = Path(__file__).parents[1] / "results" / "front"
DOCUMENT = Path(__file__).parents[2] / "docs" / "parity-cells.md"
BEGIN, END = "<!-- short runs -->\n", "<!-- end of short runs -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.front", description=__doc__)
    parser.add_argument("command", choices=["run", "table", "picture"])
    parser.add_argument("cells", nargs="*", default=["*"], help="names or patterns")
    chosen = parser.parse_args()
    if chosen.command == "table":
        write()
        return
    if chosen.command == "picture":
        picture.write(RESULTS, plan.WORDS)
        return
    torch.set_num_threads(1)
    for name, cell in plan.CELLS.items():
        path = RESULTS / f"{name}.json"
        if not any(fnmatch.fnmatch(name, pattern) for pattern in chosen.cells):
            continue
        if not path.exists():
            record = {"cell": name, "asked": cell} | swarm.run(**cell)
            RESULTS.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(record, indent=1) + "\n")
            part.replace(path)
        told(json.loads(path.read_text()))


def write() -> None:
    """Write the table of all records between its markers."""
    lines = [
        "| cell | rounds | held-out bits per byte | the last 4 states averaged | up | down |",
        "|---|---|---|---|---|---|",
    ]
    for name in plan.CELLS:
        if not (path := RESULTS / f"{name}.json").exists():
            continue
        one = json.loads(path.read_text())
        averaged = one["averaged"].get("4", one["averaged"].get("3", ""))
        up, down = one["times_fewer_up"], one["times_fewer_down"]
        lines.append(
            f"| {name} | {one['rounds']} | {one['bits_per_byte']:.4f} | {averaged} | {up:.0f}x | {down:.0f}x |"
        )
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    DOCUMENT.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1])


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
