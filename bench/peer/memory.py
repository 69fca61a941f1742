"""Peak memory of a peer on a CPU beside what is predicted: `python -m bench.peer.memory`, some minutes.

Each case is a process of its own: two rounds as a peer goes through them (train four steps, compress, apply)
on made-up tokens; the peak is that of the resident memory of the whole process. Two cases are
one model with a large vocabulary, first with all logits at once. The last ones are drawn at random (`drawn`), and no constant of the
prediction was fitted to them. Writes bench/results/memory.json
after each case, where what was measured already is not measured again, and prints the table of
docs/learn.md.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

RESULTS = Path(__file__).parents[1] / "results" / "memory.json"
MIDDLE = {"layers": 12, "width": 512, "heads": 8, "kv_heads": 8, "inner_width": 1408}
BYTES = 257


class Case(msgspec.Struct, frozen=True):
    """One measurement."""

    name: str
    vocabulary: int
    sequence: int
    batch: int
    micro: int
    checkpoint: bool = False
    optimizer: str = "muon"
    architecture: dict[str, Any] = {}
    parts: bool = True  # whether the loss is computed in parts where there are many logits

    @property
    def key(self) -> str:
        return json.dumps(msgspec.to_builtins(self))

    def __hash__(self) -> int:
        return hash(self.key)


NAMED = ("1m", "125m")
"""How the names of those cases begin whose model is a preset; of others the shape is given, or is llama-15m's."""
THIN = {"layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "inner_width": 192}
CASES = [
    Case("1m", BYTES, 256, 16, 16),
    Case("1m", BYTES, 256, 16, 4),
    Case("1m", BYTES, 256, 16, 16, True),
    Case("1m, adamw", BYTES, 256, 16, 16, optimizer="adamw"),
    Case("15m", BYTES, 256, 8, 8),
    Case("15m", BYTES, 256, 8, 2),
    Case("15m", BYTES, 256, 8, 8, True),
    Case("15m", BYTES, 1024, 4, 4),
    Case("15m", BYTES, 1024, 4, 4, True),
    Case("38m", BYTES, 256, 8, 2, architecture=MIDDLE),
    Case("125m", BYTES, 256, 4, 4),
    Case("128k words", 128_000, 256, 8, 8, architecture=THIN, parts=False),
    Case("128k words", 128_000, 256, 8, 8, architecture=THIN),
]


def drawn(count: int, seed: int = 20) -> list[Case]:
    """Small llamas of random shape, each with a step of random size, fitted in a random way."""
    rng = random.Random(seed)
    found: list[Case] = []
    while len(found) < count:
        heads, width = rng.choice([2, 4, 8]), rng.choice([64, 128, 192, 256, 320, 384])
        shape = {
            "layers": rng.randint(2, 10), "width": width, "heads": heads,
            "kv_heads": rng.choice([heads, heads // 2]), "inner_width": 32 * rng.randint(width // 16, width // 8),
        }  # fmt: skip
        batch, sequence = rng.choice([4, 6, 8, 12]), rng.choice([64, 128, 192, 256, 384, 512])
        case = Case(
            f"drawn {len(found) + 1}", rng.choice([257, 1000, 4096, 16_000, 50_000]), sequence, batch,
            rng.choice([batch, -(-batch // 2), -(-batch // 4)]), rng.random() < 0.4,
            rng.choice(["muon", "muon", "normuon", "adamw", "lion"]), shape,
        )  # fmt: skip
        layer = 4 * width**2 + 3 * width * shape["inner_width"]
        parameters = shape["layers"] * layer + 2 * width * case.vocabulary
        if (
            200 * width <= parameters <= 25e6 and batch * sequence <= 2048
        ):  # some seconds, some hundred MB
            found.append(case)
    return found


DRAWN = drawn(12)


def prepared(case: Case) -> tuple[Any, Any]:
    """Specification, and configuration of the model."""
    from duckweed.learn.model import model as models
    from duckweed.run.spec import RunSpec, override

    source = next((f"llama-{size}" for size in NAMED if case.name.startswith(size)), "llama-15m")
    changes = {f"architecture.{key}": value for key, value in case.architecture.items()}
    spec = override(
        RunSpec(),
        {
            "model.source": source, "model.sequence": case.sequence, "inner.batch": case.batch,
            "inner.steps": 4, "inner.warmup": 0, "inner.iterations": 1, "inner.optimizer": case.optimizer, "inner.precision": "fp32", **changes,
        },
    )  # fmt: skip
    return spec, models.configuration(
        source, Path(), case.vocabulary, case.sequence, architecture=spec.architecture
    )


def predict(case: Case) -> int:
    """Bytes, before anything is allocated."""
    from duckweed.learn import memory
    from duckweed.learn.fit import Fit
    from duckweed.learn.model import model as models

    spec, config = prepared(case)
    return memory.whole(models.skeleton(config), spec, "cpu", Fit(case.micro, case.checkpoint))


def measure(case: Case) -> dict[str, float]:
    """Bytes measured in this process."""
    import numpy as np
    import torch

    from bench.peer.made import Made, forget, peak
    from duckweed.learn import memory
    from duckweed.learn.fit import Fit
    from duckweed.learn.model import model as models
    from duckweed.learn.model import network
    from duckweed.learn.single import SingleDevice
    from duckweed.merge.outer import outer_step
    from duckweed.round.blocks import Span
    from duckweed.round.worker import Worker
    from duckweed.run.state import first
    from duckweed.wire.codec import codec_of

    torch.set_num_threads(1)
    memory.one_heap()
    if not case.parts:
        network.LOGITS = 1 << 60
    spec, config = prepared(case)
    way, layout = Fit(case.micro, case.checkpoint), models.layout_of(models.skeleton(config))
    one = SingleDevice(spec, config, Made(case.vocabulary, case.batch, case.sequence), "cpu")
    one.fit([way], lambda text: None)
    weights = one.weights()

    def gradient() -> np.ndarray:
        return np.random.default_rng(1).standard_normal(layout.total, np.float32) * np.float32(1e-3)

    state = first(layout, weights, codec_of(spec.wire, layout).first_shared(gradient))
    del weights
    worker = Worker(spec, layout, one)
    training = compressing = 0
    for block in (0, 1):  # the second carries a residual and moments
        trained = worker.train(state, Span(block, 0, spec.inner.steps))
        training = max(training, peak())
        forget()
        memory.trim()
        made = worker.compress(state, 0, trained)
        del trained
        update = worker.carried.residual
        worker.close_round(True)
        state = msgspec.structs.replace(
            state,
            round=block + 1,
            **dict(
                zip(
                    ("weights", "momentum"),
                    outer_step(spec.outer, state.weights, state.momentum, update),
                    strict=True,
                )
            ),
        )
        compressing = max(compressing, peak())
        del made, update
        memory.trim()
        forget()
    return {
        "parameters": layout.total, "measured": max(training, compressing),
        "training": training, "compressing": compressing,
    }  # fmt: skip


def in_process(case: Case) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "bench.peer.memory",
        "--case",
        msgspec.json.encode(case).decode(),
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(said.stdout.splitlines()[-1])


def kept_rows() -> dict[Case, dict[str, float]]:
    """What was measured before, of cases that there still are."""
    if not RESULTS.is_file():
        return {}
    known, found = {one.key: one for one in [*CASES, *DRAWN]}, {}
    for row in json.loads(RESULTS.read_text()):
        case = msgspec.convert({k: row.pop(k) for k in Case.__struct_fields__}, Case)
        if case.key in known:
            found[known[case.key]] = row
    return found


def table(rows: dict[Case, dict[str, float]]) -> str:
    lines = [
        "| model | vocabulary | tokens | batch | micro | | predicted MB | measured MB | |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|",
    ]
    for case, found in rows.items():
        kind = "checkpointing" if case.checkpoint else ""
        kind = kind if case.parts else "all logits at once"
        off = f"{100 * (found['predicted'] / found['measured'] - 1):+.0f} %" if case.parts else ""
        lines.append(
            f"| {case.name} | {case.vocabulary:,} | {case.sequence} | {case.batch} | {case.micro} | {kind} | "
            f"{found['predicted'] / 1e6:,.0f} | {found['measured'] / 1e6:,.0f} | {off} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.peer.memory")
    parser.add_argument("--case", type=lambda text: msgspec.json.decode(text, type=Case))
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--match", default="", help="only cases whose name has this in it")
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case)))
        return
    kept = kept_rows()
    for case in [*CASES, *DRAWN]:
        if (case not in kept or given.again) and given.match in case.name:
            kept[case] = in_process(case) | {"predicted": predict(case)}
            print(table({case: kept[case]}).splitlines()[-1], flush=True)
        if case in kept:
            kept[case]["predicted"] = predict(case)
            rows = [msgspec.to_builtins(one) | found for one, found in kept.items()]
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(kept))


if __name__ == "__main__":
    main()
