"""Memory and time of one coordinator that closes a round: `python -m bench.scale.sum [PEERS MILLIONS [WIRE]]`.

Contributions of made-up pseudo-gradients (bench/wire/vector.py) lie on disk, as in a run. A process of its
own takes them one after the other, as a coordinator does while others still train, and closes the round after the last
one; its peak memory is that of the whole process, numpy included.
Writes bench/results/sum.json and prints the table of docs/merge.md.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from bench.wire.table import table
from bench.wire.vector import synthetic
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec, override
from duckweed.wire import codec_of
from duckweed.wire.codec import warm_up

RESULTS = Path(__file__).parents[1] / "results" / "sum.json"
CASES = ((16, 20), (16, 50))
WIRES: dict[str, dict[str, object]] = {
    "integer": {"wire.kind": "integer"},
    "integer, filtered": {"wire.kind": "integer", "merge.rule": "filtered"},
    "dense bf16": {"wire.kind": "dense", "wire.dtype": "bf16"},
}


class Round(msgspec.Struct):
    """What lies in the folder of a case, beside one file for each blob."""

    changes: dict[str, Any]
    layout: Layout
    shared: list[float]
    handed: list[Announcement]


def make(folder: Path, changes: dict[str, object], peers: int, millions: int) -> None:
    """Write a round: the contributions of `peers` peers, which are one vector, shifted."""
    x, scales, layout = synthetic(millions, 1)
    spec = override(RunSpec(), changes)
    codec, tokens = codec_of(spec.wire, layout), spec.tokens_per_block
    announced, handed = codec.announce(x), []
    for peer in range(peers):
        blob = codec.encode(np.roll(x, peer), scales).blob
        handed.append(
            Announcement(
                0, peer, peer, blob_hash(blob), len(blob), tokens, steps=1, loss=3.0, rms=announced
            )
        )
        FolderBlobs(RunFolder(folder)).write(handed[-1].blob, blob)
    written = Round(dict(changes), layout, scales.tolist(), handed)
    (folder / "round.json").write_bytes(msgspec.json.encode(written))


def measure(folder: Path) -> dict[str, float]:
    """Close the round in a folder. Memory in MB, before and at its peak."""
    case = msgspec.json.decode((folder / "round.json").read_bytes(), type=Round)
    spec = override(RunSpec(), case.changes)
    warm_up(spec.wire)
    before, began, worked = memory(), time.perf_counter(), time.process_time()
    blobs = RunFolder(folder)
    engine = Engine(spec, case.layout, FolderBlobs(blobs))
    arrivals, taken = engine.arrivals(case.shared), []
    for said in case.handed:
        engine.take(arrivals, said)
        taken.append(time.perf_counter() - began - sum(taken))
    closed = engine.close(case.shared, case.handed, arrivals=arrivals)
    seconds = time.perf_counter() - began
    assert len(closed.accepted) == len(case.handed)
    update = blobs.blob(closed.update).stat().st_size if closed.update else 0
    return {
        "blob MB": round(case.handed[0].size / 1e6, 1),
        "update MB": round(update / 1e6, 1),
        "s each": round(median(taken), 2),
        "s after the last": round(seconds - sum(taken[:-1]), 1),
        "cpu seconds": round(time.process_time() - worked, 1),
        "MB before": round(before),
        "peak MB": round(memory()),
        "bytes a parameter": round((memory() - before) * 1e6 / case.layout.total, 1),
    }


def memory(pid: int | str = "self") -> float:
    """The most memory that a process has had, in MB. (getrusage would count its parent's too.)"""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def main() -> None:
    if sys.argv[1:2] == ["close"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
        return
    cases = [(int(sys.argv[1]), int(sys.argv[2]))] if len(sys.argv) > 2 else CASES
    rows = json.loads(RESULTS.read_text("utf-8"))["rounds"] if RESULTS.exists() else []
    wires = {sys.argv[3]: WIRES[sys.argv[3]]} if len(sys.argv) > 3 else WIRES
    for peers, millions in cases:
        for name, changes in wires.items():
            with tempfile.TemporaryDirectory() as place:
                make(Path(place), changes, peers, millions)
                command = [sys.executable, "-m", "bench.scale.sum", "close", place]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = {"wire": name, "peers": peers, "millions": millions} | json.loads(done.stdout)
            print(row, file=sys.stderr, flush=True)
            same = ("wire", "peers", "millions")
            rows = [old for old in rows if any(old[key] != row[key] for key in same)] + [row]
            facts = {"machine": f"{platform.machine()}, numpy {np.__version__}", "rounds": rows}
            RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(table(rows, list(rows[0])))


if __name__ == "__main__":
    main()
