"""`python -m bench.paths run [NAME ...]`: trains the cells that have no record yet; `table` writes the tables of
docs/paths-measured.md; `corpus` makes the texts and says how large they are."""

import argparse
import fnmatch
import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from bench.paths import corpus, plan, swarm, table



def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.paths", description=__doc__)
    parser.add_argument("command", choices=["corpus", "run", "table"])
    parser.add_argument("cells", nargs="*", default=["*"], help="names or patterns")
    chosen = parser.parse_args()
    if chosen.command == "corpus":
        for name in corpus.SIZE:
            print(f"{name}, MB to train on: {corpus.load(name).told()}")
        return
    if chosen.command == "table":
        table.write()
        return
    for name, cell in plan.CELLS.items():
        path = table.RESULTS / f"{name}.json"
        if not any(fnmatch.fnmatch(name, pattern) for pattern in chosen.cells):
            continue
        if not path.exists():
            record = swarm.run(cell)
            table.RESULTS.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(record, indent=1) + "\n")
            part.replace(path)
        one = json.loads(path.read_text())
        print(f"{name:24} {one['bits_per_byte']:.4f}  {one['cpu_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
