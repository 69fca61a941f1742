"""`python -m bench.paths run [NAME ...]`: trains the cells that have no record yet, and goes on with those that were
stopped (without names: all of 66 thousand parameters a path); `list [NAME ...]` says how long each would take; `table` writes
the tables of docs/paths-measured.md; `corpus` makes the texts and says how large they are; `routers` measures the routers before
anything is trained; `paired` compares the forms window by window; `cost` measures bytes and memory of a peer, `churn` the
loss where half of the peers are replaced, `product` the forms as the product trains them, on its wire."""

import argparse
import fnmatch
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from bench.paths import churn, corpus, cost, plan, product, routers, swarm, table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.paths", description=__doc__)
    parser.add_argument(
        "command",
        choices=["corpus", "routers", "run", "list", "paired", "cost", "churn", "product", "table"],
    )
    parser.add_argument(
        "cells",
        nargs="*",
        help="names or patterns, as '0.3M-*-seed0'; left out: those of 66 thousand parameters",
    )
    chosen = parser.parse_args()
    if chosen.command == "corpus":
        for name in corpus.SIZE:
            print(f"{name}, MB to train on: {corpus.load(name).told()}")
        return
    if chosen.command == "routers":
        asked = [(8, 0), (8, 1), (8, 2), (4, 0)]
        made = routers.compared(corpus.load("domains"), "domains", asked)
        table.keep("routers", {"cell": "routers", "compared": made})
        for one in made:
            print(f"{one['router']:16} {one['bits']:.3f}  {one['share']:.0%}  {one['purity']:.2f}")
        return
    if chosen.command == "paired":
        names = [f"{kind}-seed0" for kind in plan.TUNED]
        table.keep("paired", swarm.paired({name: plan.CELLS[name] for name in names}))
        return
    if chosen.command == "cost":
        table.keep("cost", cost.measured())
        return
    if chosen.command == "churn":
        for record in churn.measured(table.records().get("churn", {})):
            table.keep("churn", record)
        return
    if chosen.command == "product":
        found = table.records().get("product", {})
        for name, record in product.missing(found):
            found[name] = record
            table.keep("product", found)
        return
    if chosen.command == "table":
        table.write()
        return
    names = plan.FIRST if not chosen.cells else list(plan.CELLS)
    for name in names:
        if chosen.cells and not any(fnmatch.fnmatch(name, one) for one in chosen.cells):
            continue
        found = table.records()
        if chosen.command == "list":
            done = "trained" if name in found else f"{plan.estimate(plan.CELLS[name]):,.0f} s"
            print(f"{name:28} {done}")
            continue
        if name not in found:
            table.keep(name, swarm.run(plan.resolved(name, found)))
        one = table.records()[name]
        print(f"{name:28} {one['bits_per_byte']:.4f}  {one['cpu_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
