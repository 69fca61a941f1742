"""Peak memory of a peer that only writes answers beside what `duckweed join --answers-only` predicts:
`python -m bench.peer.writer_memory`, some minutes.

Each case is a process of its own: on random weights it writes the few tokens that fill the sequence, to all answers of a step, and applies a
round, as a peer does (Worker.write draws and Engine.advance applies). The peak is that of the resident memory of the
whole process. Prints a table.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from bench.peer.made import forget, peak


class Case(msgspec.Struct, frozen=True):
    source: str
    vocabulary: int
    batch: int
    sequence: int
    tokens: int
    samples: int = 16


CASES = [
    Case("llama-1m", 257, 512, 256, 8),
    Case("llama-15m", 257, 128, 256, 8),
    Case("llama-15m", 257, 16, 256, 16),
    Case("llama-15m", 50_000, 64, 128, 8),
]


def prepared(case: Case) -> tuple[Any, Any]:
    """Specification, and configuration of the model."""
    from duckweed.learn.model import model as models
    from duckweed.run.spec import RunSpec, override

    spec = override(RunSpec(), {
        "task.kind": "reinforce", "task.tokens": case.tokens, "task.samples": case.samples,
        "model.source": case.source, "model.sequence": case.sequence, "inner.batch": case.batch,
        "inner.steps": 1, "inner.warmup": 0, "inner.precision": "fp32",
    })  # fmt: skip
    return spec, models.configuration(case.source, Path(), case.vocabulary, case.sequence)


def measure(case: Case) -> dict[str, int]:
    """Bytes measured in this process, and predicted."""
    import numpy as np
    import torch

    from duckweed.learn import memory
    from duckweed.learn.model import model as models
    from duckweed.learn.tasks.rollout import write
    from duckweed.merge.announcement import Announcement
    from duckweed.merge.round import blob_hash, close
    from duckweed.round.engine import Engine, MemoryBlobs
    from duckweed.run.state import first
    from duckweed.wire.codec import codec_of

    torch.set_num_threads(1)
    memory.one_heap()
    spec, config = prepared(case)
    model = models.build(config, "cpu", 0).eval()
    layout = models.layout_of(model)
    predicted = memory.writing(model, spec, "cpu")
    codec = codec_of(spec.wire, layout)

    def gradient() -> np.ndarray:
        return np.random.default_rng(1).standard_normal(layout.total, np.float32) * np.float32(1e-3)

    state = first(layout, models.read_weights(model), codec.first_shared(gradient))
    # What others hand in, and what the coordinator makes of it, is no part of this peer's memory.
    made = gradient()
    encoded, rms = codec.encode(made, state.shared), codec.announce(made)
    said = Announcement(0, 0, 0, blob_hash(encoded.blob), len(encoded.blob), 64, 1, 1.0, rms)
    closed, updates = close(spec, layout, list(state.shared), [said], {said.blob: encoded.blob}.get)
    blobs = MemoryBlobs(updates | {said.blob: encoded.blob})
    del made, encoded, updates
    memory.trim()
    forget()
    room = case.sequence - case.tokens
    prompts = [
        [1 + n % 200] * room for n in range(case.batch // case.samples) for _ in range(case.samples)
    ]
    write(model, prompts, list(range(len(prompts))), case.tokens, 1.0, [case.vocabulary - 1])
    writing = peak()
    memory.trim()
    forget()
    Engine(spec, layout, blobs).advance(state, closed)
    return {"predicted": predicted, "writing": writing, "applying": peak()}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(msgspec.json.decode(sys.argv[1], type=Case))))
        return
    print("| model | vocabulary | answers | tokens | predicted MB | writing MB | applying MB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for case in CASES:
        command = [
            sys.executable,
            "-m",
            "bench.peer.writer_memory",
            msgspec.json.encode(case).decode(),
        ]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = {key: value / 1e6 for key, value in json.loads(said.splitlines()[-1]).items()}
        print(
            f"| {case.source} | {case.vocabulary:,} | {case.batch} | {case.sequence} | "
            f"{found['predicted']:,.0f} | {found['writing']:,.0f} | {found['applying']:,.0f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
