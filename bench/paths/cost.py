"""What a peer of a family sends, fetches and holds, with real processes, beside a dense run of the same peers.

Four peers train one dense model of a path's size, families of two and four such paths, and a dense model of four times
the size. Bytes are those that the coordinators counted, and what peers gave each other; memory is the most that a peer's
process ever had resident (VmHWM), of which about 0.4 GB is PyTorch's. Then the same runs in virtual time on links.
"""

import contextlib
import glob
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duckweed import session
from duckweed.family import begin
from duckweed.family import train as training
from duckweed.learn.fit import Machine
from duckweed.net.link_spec import parse_links
from duckweed.round import founding
from duckweed.run.events import RoundClosed
from duckweed.run.folder import Destination, RunFolder
from duckweed.run.spec import RunSpec, override

PEERS, COUNT, LOOK = 4, 4, 0.1
LINKS, STEP = "10/50 80ms", 0.1  # Mbit/s up/down, round trip; seconds of an inner step
FACTS: dict[str, object] = {
    "model.source": "config.json", "model.sequence": 64, "data.limit": 2_000_000, "inner.batch": 2,
    "inner.steps": 2, "inner.warmup": 2, "rounds.count": COUNT, "rounds.peers": PEERS,
    "rounds.evaluate": 100, "rounds.patience": 200.0,
}  # fmt: skip
CELLS = {"dense": (0, 128), "2 paths": (2, 128), "4 paths": (4, 128), "dense, larger": (0, 256)}
"""Name -> paths (0: none) and width of the model."""


def measured() -> dict[str, Any]:
    """The record of all cells."""
    found: dict[str, Any] = {"peers": PEERS, "rounds": COUNT, "links": LINKS, "cells": {}}
    for name, (paths, width) in CELLS.items():
        found["cells"][name] = one = _cell(paths, width)
        print(f"{name:14} {one}", flush=True)
    return found


def _cell(paths: int, width: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        spec = _spec(base, paths, width)
        real, parameters, peak = _trained(spec, base, "real", None)
        simulated, _, _ = _trained(spec, base, "simulated", LINKS)
        return {
            "paths": paths, "parameters": parameters, "peak": peak, "real": _bytes(real),
            "simulated": _bytes(simulated),
        }  # fmt: skip


def _spec(base: Path, paths: int, width: int) -> RunSpec:
    config = {
        "model_type": "llama", "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config))
    return override(
        RunSpec(),
        FACTS | ({"paths.count": paths, "paths.prefix": 16, "paths.common": 0.25} if paths else {}),
    )


def _trained(
    spec: RunSpec, base: Path, name: str, links: str | None
) -> tuple[list[RunFolder], int, int]:
    """The runs in which its peers end, parameters of a peer's model, bytes of memory of the peer that had most. links: simulated,
    at these; None: with processes."""
    each = parse_links(links, PEERS) if links else None
    runs, peak = base / "runs", [0]
    where = Destination(base, runs, name), Machine("cpu", 1, PEERS), ()
    if spec.paths:
        family = begin.found(spec, *where, _quiet, _quiet)
        story: Any = (
            training.simulate(family, _quiet, each, STEP)
            if links
            else training.train(family, _quiet)
        )
        first = family.common.folder
    else:
        run = session.found(spec, *where, _quiet, _quiet)
        story = session.simulate(run, each, STEP) if links else session.train(run)
        first = run.folder
    with _watched(runs / name, peak):
        for _ in story:
            pass
    ends = family.folder.runs[1:] if spec.paths else [first]
    return ends, founding.layout(first).total, peak[0]


def _bytes(folders: list[RunFolder]) -> dict[str, float]:
    """Means over rounds and peers of the runs in which they end: bytes of a contribution, which goes up, and of the
    update that comes down; all bytes that passed the coordinators, up and down, until the last round had closed; seconds
    of a round."""
    sums = dict.fromkeys(("contribution", "update", "up", "down", "seconds"), 0.0)
    works = 0
    for folder in folders:
        closed = list(folder.records(RoundClosed))
        peers = len(closed[-1].accepted)
        works += peers * len(closed)
        sums["contribution"] += sum(size for x in closed for size in x.contribution_bytes)
        sums["update"] += peers * sum(x.update_bytes for x in closed)
        for purpose, (received, sent) in closed[-1].traffic.items():
            if purpose != "between peers":
                sums["up"] += received
            sums["down"] += sent
        sums["seconds"] += peers * sum(x.seconds for x in closed)
    return {name: total / works for name, total in sums.items()}


@contextlib.contextmanager
def _watched(place: Path, peak: list[int]) -> Iterator[None]:
    """Note the most memory that any peer's process under a folder has had."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            for pid in glob.glob(f"{place}/**/peer*.pid", recursive=True):
                with contextlib.suppress(OSError, ValueError):
                    status = Path(f"/proc/{int(Path(pid).read_text())}/status").read_text()
                    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
                    peak[0] = max(peak[0], int(line.split()[1]) << 10)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _quiet(text: str) -> None:
    pass
