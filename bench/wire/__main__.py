"""`python -m bench.wire`: speed and size of the wire, all of it or one part.

    python -m bench.wire speed       MB/s of each wire on made-up pseudo-gradients of 10M and 100M values
    python -m bench.wire core        what one core reaches in each job, and how much faster two threads are
    python -m bench.wire packed      the integer wire beside five ternary codes to a byte, and zstandard
    python -m bench.wire gradients   sizes of real pseudo-gradients against their entropy
    python -m bench.wire work        the slowest valid blob that is found, against an honest one

Writes bench/results/wire.json, where what it holds of other parts stays, and prints the tables of docs/wire.md."""

import argparse
import os
import platform
import resource
from typing import Any

import numpy as np

from bench.wire import record, table
from bench.wire.core import core
from bench.wire.packed import packed
from bench.wire.speed import speed
from bench.wire.work import work
from duckweed.wire.codecs.integer import Integer


def speeds() -> record.Row:
    rows = speed(10, 3) + speed(100, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"speed": rows, "peak memory, GiB": round(peak, 1)}


def cores() -> record.Row:
    return {"core": core(10, 7), "core, load": [round(load, 1) for load in os.getloadavg()]}


def sizes() -> record.Row:
    from bench.wire.gradients import gradients  # loads torch, which the other parts do without

    sparser = Integer(threshold=2.0, value=2.4, feedback=0.9)
    rows: list[record.Row] = []
    for vocabulary, wire in ((256, Integer()), (256, sparser), (4096, sparser)):
        rows += gradients(vocabulary, wire, (1, 5, 10))
    for row in rows:
        row["change"] = f"{100 * (row['bits'] / row['bound'] - 1):+.1f} %"
    return {"gradients": rows}


PARTS = {
    "speed": speeds,
    "core": cores,
    "packed": lambda: {"packed": packed(10, 3)},
    "gradients": sizes,
    "work": lambda: {"work": work(1)},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.wire", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )  # fmt: skip
    parser.add_argument("part", nargs="?", choices=list(PARTS), help="left out: all of them")
    asked = parser.parse_args().part
    new: dict[str, Any] = {"machine": f"{platform.machine()}, numpy {np.__version__}, one thread"}
    for part, measured in PARTS.items():
        if asked in (None, part):
            new |= measured()
    table.show(record.keep(new))


if __name__ == "__main__":
    main()
