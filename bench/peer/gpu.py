"""duckweed on a graphics card: `python -m bench.peer.gpu [--seconds 450]`; `--small` tries the bench out on a CPU.

steps     tokens/s, share of the card's peak (MFU) and peak memory of a training step: duckweed's own way, the
          same with --compile, a plain PyTorch loop on the same model, batches, precision, micro-batches and AdamW, the
          same loop with torch.compile (warm-ups apart), and duckweed with states in main memory (--offload)
exchange  seconds from weights on the card to the bytes of a contribution, and from those of an update to weights
          on the card
peers     tokens/s of one peer alone on the card and of eight that share it: real processes, real rounds
parity    held-out loss of four peers that exchange every 20 steps beside data parallelism on as many tokens, simulated

Each cell is a process of its own, so that it begins with an empty card. What was measured already on this card is not
measured again, and no cell begins after `--seconds`. Writes bench/results/gpu.json (not with `--small`) and prints the
tables. The peak of a card is that of the planner's table (`duckweed plan`); without a row there, MFU is left out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

RESULTS = Path(__file__).parents[1] / "results" / "gpu.json"
VOCABULARY = 32_000
WAYS = ("duckweed", "duckweed compiled", "plain", "plain compiled", "offload")


class Size(msgspec.Struct, frozen=True):
    """What a cell is measured with."""

    sequence: int = 1024
    batch: int = 32
    micro: int = 8
    steps: int = 6
    rounds: int = 3
    parity: int = 100  # inner steps of a peer


FULL, SMALL = Size(), Size(64, 4, 2, 2, 2, 4)
MODELS = {False: ("llama-125m", "qwen3-0.6b", "llama-1b"), True: ("llama-0.5m",)}


def cells(small: bool) -> list[tuple[str, str, str]]:
    """(part, model, way), the most telling first."""
    models = MODELS[small]
    first = models[0]
    many = "2" if small else "8"
    return [
        *(("steps", first, way) for way in WAYS),
        ("exchange", first, ""),
        ("peers", first, "1"),
        ("peers", first, many),
        ("parity", first, "4 peers"),
        ("parity", first, "data parallelism"),
        *(("steps", model, way) for model in models[1:] for way in WAYS),
        *(("exchange", model, "") for model in models[1:]),
    ]


# --- a training step


def prepared(model: str, size: Size, **changes: object) -> tuple[Any, Any]:
    """Specification, and configuration of the model."""
    from duckweed.learn.model import model as models
    from duckweed.run.spec import RunSpec, override

    facts = {
        "model.source": model, "model.sequence": size.sequence, "inner.batch": size.batch,
        "inner.steps": size.steps, "inner.warmup": 1, "inner.optimizer": "adamw", "inner.learning_rate": 1e-4,
    }  # fmt: skip
    spec = override(RunSpec(), facts | changes)
    return spec, models.configuration(model, Path(), VOCABULARY, size.sequence)


def task_of(size: Size) -> Any:
    from bench.peer.made import Made

    return Made(VOCABULARY, size.batch, size.sequence)


def ours(model: str, size: Size, device: str, way: str) -> Callable[[], None]:
    """What trains `size.steps` steps as a peer does."""
    from duckweed.learn.fit import Fit
    from duckweed.learn.learner import Part
    from duckweed.learn.single import SingleDevice

    spec, config = prepared(model, size)
    one = SingleDevice(spec, config, task_of(size), device)
    offload = way == "offload"
    one.fit([Fit(size.micro, checkpoint=offload, offload=offload)], lambda text: None)
    if way == "duckweed compiled":
        one.compile(lambda text: print(text, file=sys.stderr))
    weights = one.weights()
    return lambda: void(one.train(weights, Part(0, 0, size.steps)))


def plain(model: str, size: Size, device: str, compiled: bool) -> Callable[[], None]:
    """The same steps as anybody would write them down."""
    import torch

    from duckweed.learn.device import precision_for
    from duckweed.learn.model import model as models

    _, config = prepared(model, size)
    network = models.build(config, device, attention=device).train()
    network.config.use_cache = False
    dtype = precision_for(device, "auto")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    rng = torch.Generator().manual_seed(0)

    def loss_of(tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.partition(":")[0], dtype, enabled=dtype != torch.float32):
            logits = network(input_ids=tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, 1:].flatten()
        )

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def work() -> None:
        for _ in range(size.steps):
            tokens = torch.randint(0, VOCABULARY, (size.batch, size.sequence + 1), generator=rng)
            for part in tokens.to(device).split(size.micro):
                (loss_of(part) * (len(part) / size.batch)).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return work


def void(_: object) -> None: ...


def steps(model: str, way: str, size: Size, device: str) -> dict[str, Any]:
    from duckweed.learn.arithmetic import cost
    from duckweed.learn.model import model as models

    spec, config = prepared(model, size)
    began = time.perf_counter()
    if way.startswith("plain"):
        work = plain(model, size, device, way == "plain compiled")
    else:
        work = ours(model, size, device, way)
    work()
    warm = time.perf_counter() - began
    seconds = min(timed(work, device) for _ in range(2))
    tokens = size.steps * size.batch * size.sequence
    of = cost(models.skeleton(config), spec.inner, size.sequence)
    peak = peak_flops(device)
    flops = of.per_token(size.batch * size.sequence) * tokens / seconds
    return {
        "parameters": of.parameters, "tokens_per_second": tokens / seconds, "warm_up_seconds": warm,
        "mfu": flops / peak if peak else None, "peak_bytes": peak_bytes(device),
    }  # fmt: skip


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds until the device has done it."""
    import torch

    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_bytes(device: str) -> int | None:
    import torch

    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else None


def peak_flops(device: str) -> float | None:
    """bf16 FLOPs a second of this card, by the planner's table."""
    from duckweed.plan.device import find, names

    if not device.startswith("cuda"):
        return None
    here = name_of(device).lower().replace(" ", "")
    known = [name for name in names() if name.partition("-")[0] in here]
    return find(max(known, key=len)).bf16 if known else None


def name_of(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


# --- rounds


def exchange(model: str, way: str, size: Size, device: str) -> dict[str, Any]:
    """Each the least of three, after a first one that is not counted."""
    import numpy as np

    from duckweed.learn.model.model import write_weights
    from duckweed.learn.single import SingleDevice
    from duckweed.wire.codec import codec_of

    spec, config = prepared(model, size)
    one = SingleDevice(spec, config, task_of(size), device)
    layout, weights = one.layout, one.weights()
    step = np.random.default_rng(1).standard_normal(layout.total, np.float32) * np.float32(1e-3)
    codec = codec_of(spec.wire, layout)
    shared = codec.first_shared(lambda: step)
    blob = codec.encode(step, shared).blob

    def to_card() -> None:
        write_weights(one.model, weights)

    def least(work: Callable[[], object]) -> float:
        work()
        return min(timed(work, device) for _ in range(3))

    return {
        "parameters": layout.total,
        "off the card": least(one.weights),
        "compress and encode": least(lambda: codec.encode(step, shared)),
        "decode": least(lambda: codec.decode(blob, shared)),
        "onto the card": least(to_card),
        "bytes": len(blob),
    }


def peers(model: str, way: str, size: Size, device: str) -> dict[str, Any]:
    """A real run on text of bytes; the first round, which warms up, is not counted."""
    from duckweed.process.local_run import LocalRun
    from duckweed.round import founding
    from duckweed.run import folder as folders
    from duckweed.run.events import RoundClosed

    count = int(way)
    spec, _ = prepared(
        model, size, **{"rounds.peers": count, "rounds.count": size.rounds, "rounds.evaluate": 1000,
                        "inner.steps": 4 * size.steps},
    )  # fmt: skip
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        folder = folders.create(Path(place), "gpu")
        ground = founding.prepare(spec, Path.cwd(), lambda text: None)
        founding.found(spec, ground, folder, device, count, lambda text: None)
        with LocalRun(folder, spec, device, 1, count) as run:
            run.start()
            ends.extend(
                time.perf_counter() for event in run.events() if isinstance(event, RoundClosed)
            )
    tokens = spec.tokens_per_block * count * (len(ends) - 1)
    return {"tokens_per_second": tokens / (ends[-1] - ends[0]), "rounds": len(ends)}


def parity(model: str, way: str, size: Size, device: str) -> dict[str, Any]:
    import duckweed

    alone = way == "data parallelism"
    batch, rounds = size.batch // 4, max(1, size.parity // 20)
    facts: dict[str, Any] = {
        "model.source": model, "model.sequence": size.sequence, "inner.warmup": size.parity // 10,
        "rounds.peers": 1 if alone else 4, "inner.batch": 4 * batch if alone else batch,
        "rounds.count": 1 if alone else rounds, "inner.steps": size.parity if alone else size.parity // rounds,
    }  # fmt: skip
    if alone:
        facts |= {"wire.kind": "dense", "wire.dtype": "fp32"}
    with tempfile.TemporaryDirectory() as place:
        told = duckweed.simulate(
            facts, base=Path.cwd(), runs=Path(place), name="parity", device=device
        )
        closed = list(told)
        found = duckweed.open(Path(place) / "parity")
        return {
            "held_out": found.losses()[-1][1], "tokens": sum(x.tokens for x in closed),
            "bytes_up_of_a_peer": sum(x.up for x in found.history().traffic.values()) / facts["rounds.peers"],
        }  # fmt: skip


PARTS = {"steps": steps, "exchange": exchange, "peers": peers, "parity": parity}


# --- all of them


def in_process(cell: tuple[str, str, str], small: bool) -> dict[str, Any]:
    """What a cell measured, or how it failed."""
    command = [sys.executable, "-m", "bench.peer.gpu", "--cell", json.dumps(cell)] + [
        "--small"
    ] * small
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        return {"failed": (said.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]}
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """One line a cell, with what it measured."""
    lines = ["| part | model | way | |", "|---|---|---|---|"]
    for key, found in rows.items():
        told = ", ".join(
            f"{name.replace('_', ' ')} {value:,.4g}" if isinstance(value, float | int) else value
            for name, value in found.items()
            if value is not None
        )
        lines.append(f"| {' | '.join(json.loads(key))} | {told} |")
    return "\n".join(lines)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=450.0, help="after that no cell begins")
    parser.add_argument("--small", action="store_true", help="a tiny model, also on a CPU")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    given = parser.parse_args()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if given.cell:
        part, model, way = json.loads(given.cell)
        size = SMALL if given.small else FULL
        print(json.dumps(PARTS[part](model, way, size, device)))
        return
    if device == "cpu" and not given.small:
        raise SystemExit("there is no CUDA device here; --small tries the bench out on the CPU")
    card, began = name_of(device), time.monotonic()
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() and not given.small else {}
    rows: dict[str, dict[str, Any]] = kept.get(card, {})
    for cell in cells(given.small):
        key = json.dumps(cell)
        if key in rows or time.monotonic() - began > given.seconds:
            continue
        rows[key] = in_process(cell, given.small)
        print(f"{' '.join(cell)}: {rows[key]}", flush=True)
        if not given.small:
            RESULTS.write_text(json.dumps(kept | {card: rows}, indent=1) + "\n")
    print(f"{card}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
