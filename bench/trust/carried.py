"""What a peer carries from round to round, in fewer bits: `python -m bench.trust.carried [SEED KIND ...]`.

Two peers train some rounds of the demo's specification by the product's own workers. KIND `exact`: as shipped.
`few bits`: at the end of each round, what is carried is replaced by what the other side of a link would read of
it: the residual in bf16, Muon's momenta in 8 bits with a scale for each block of 4,096 (the dense wire's int8), the moments of
embeddings, head and vectors in bf16. `bf16`: all of it in bf16.

Writes bench/results/carried.json: held-out loss, and the bytes that an auditor would be sent.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from duckweed.learn.optim.muon import PREFIX
from duckweed.round import founding
from duckweed.round.blocks import Span
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.round.worker import Carried, Worker
from duckweed.run import folder as folders
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec, override
from duckweed.wire.codec import codec_of
from duckweed.wire.codecs.dense import Dense

RESULTS = Path(__file__).parents[1] / "results" / "carried.json"
PEERS, ROUNDS = 2, 8
KINDS = ("exact", "few bits", "bf16")
SEEDS = (0, 1)
UPLOAD = 10e6  # bits a second of a home


def rounded(values: np.ndarray, dtype: str) -> tuple[np.ndarray, int]:
    """What the other side reads of some values, and the bytes that it is sent."""
    if not values.ndim or values.size < 2:
        return values, values.nbytes
    layout = Layout.of({"all": (values.size,)})
    encoded = codec_of(Dense(dtype=dtype), layout).encode(values.ravel(), None)  # type: ignore[arg-type]
    return encoded.sent.reshape(values.shape).astype(np.float32), len(encoded.blob)


def compress(carried: Carried, kind: str) -> tuple[Carried, int]:
    """What is carried after it was sent and read, and the bytes sent."""
    if kind == "exact":
        return carried, carried.residual.nbytes + sum(x.nbytes for x in carried.optimizer.values())
    residual, size = rounded(carried.residual, "bf16")
    optimizer = {}
    for name, values in carried.optimizer.items():
        few = kind == "few bits" and name.startswith(PREFIX)
        optimizer[name], more = rounded(values, "int8" if few else "bf16")
        size += more
    return msgspec.structs.replace(carried, residual=residual, optimizer=optimizer), size


def run(seed: int, kind: str) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    changes: dict[str, object] = {"seed": seed, "rounds.peers": PEERS, "rounds.count": ROUNDS}
    spec = override(RunSpec(), changes)
    with tempfile.TemporaryDirectory() as place:
        ground = founding.prepare(spec, Path(place), lambda text: None)
        folder = folders.create(Path(place), "run")
        state = founding.found(spec, ground, folder, "cpu", 1, lambda text: None)
        layout, learner = founding.layout(folder), founding.learner(spec, ground, "cpu")
    workers, size = [Worker(spec, layout, learner) for _ in range(PEERS)], 0
    for number in range(ROUNDS):
        made = [
            worker.compress(
                state, peer,
                worker.train(state, Span(PEERS * number + peer, 0, spec.inner.steps)),
            )
            for peer, worker in enumerate(workers)
        ]  # fmt: skip
        engine = Engine(
            spec, layout, MemoryBlobs({one.announcement.blob: one.blob for one in made})
        )
        closed = engine.close(state.shared.tolist(), [one.announcement for one in made])
        state = engine.advance(state, closed)
        for worker in workers:
            worker.close_round(True)
            worker.carried, size = compress(worker.carried, kind)
        print(seed, kind, number, f"{made[0].announcement.loss:.4f}", flush=True)
    nats, tokens = learner.evaluate(state.weights, spec.rounds.evaluate_tokens)
    return {
        "seed": seed,
        "kind": kind,
        "held-out nats": nats / tokens,
        "bytes": size,
        "bytes a parameter": size / layout.total,
        "seconds at 10 Mbit/s": 8 * size / UPLOAD,
    }


def main() -> None:
    wanted = [(seed, kind) for seed in SEEDS for kind in KINDS]
    if len(sys.argv) > 2:
        wanted = [(int(sys.argv[1]), kind) for kind in sys.argv[2:]]
    for seed, kind in wanted:
        found = run(seed, kind)
        rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else []
        rows = [x for x in rows if (x["seed"], x["kind"]) != (seed, kind)] + [found]
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(found, flush=True)


if __name__ == "__main__":
    main()
