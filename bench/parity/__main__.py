"""`python -m bench.parity run|table|check|ddp`; `run --list` lists the cells."""

import argparse
import fnmatch
import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from bench.parity import cells as cell
from bench.parity.plan import CELLS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.parity", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train the cells that have no record yet, in order")
    run.add_argument("--cells", nargs="*", default=["*"], help="names or patterns")
    run.add_argument("--list", action="store_true", help="say what there is, and train nothing")
    commands.add_parser("table", help="write the tables of docs/parity-cells.md again")
    commands.add_parser("check", help="compare the stacked run with duckweed's simulation")
    commands.add_parser("ddp", help="real DDP processes: the check, the bytes, PowerSGD")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.command == "run":
        _run(chosen.cells, chosen.list)
    elif chosen.command == "table":
        from bench.parity.table import write

        write()
    else:
        _record(chosen.command)


def _run(patterns: list[str], only_list: bool) -> None:
    for one in CELLS:
        if not any(fnmatch.fnmatch(one.name, pattern) for pattern in patterns):
            continue
        lock = one.path.with_suffix(".lock")
        if only_list:
            print(f"{'done' if one.path.exists() else 'open':5} {one.name:32} {one.changes}")
        elif not one.path.exists():
            one.path.parent.mkdir(parents=True, exist_ok=True)
            try:  # several of these commands may share the work
                lock.open("x").close()
            except FileExistsError:
                continue
            try:
                cell.run(one, lambda text: print(text, flush=True))
            finally:
                lock.unlink()


def _record(command: str) -> None:
    if command == "check":
        from bench.parity.check import WIRES, compare

        found: object = [compare(name) for name in WIRES]
    else:
        from bench.parity.ddp import measure

        found = measure()
    cell.RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1) + "\n"
    (cell.RESULTS / f"_{command}.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
